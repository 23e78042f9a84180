"""Losses and schedules of sound methods against the official code's numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny
from sines import sines

from methods import audiojepa
from methods.ajepa import AJEPA, competence
from methods.audiojepa import audiojepa_loss
from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import square
from ssl_bench.data.sounds import Sounds
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, warmup_cosine
from ssl_bench.training.train import Trainer, build

CPU = torch.device("cpu")


def test_audiojepas_loss():
    predicted, target = sines(1, 2, 4, 8), sines(2, 2, 4, 8)
    assert float(audiojepa_loss(predicted, target, centre=False)) == pytest.approx(2.206418, abs=1e-5)
    assert float(audiojepa_loss(predicted, target)) == pytest.approx(2.128926, abs=1e-5)
    scaled = (target - target.mean(-1, keepdim=True)) / target.std(-1, keepdim=True)
    assert float(audiojepa_loss(predicted, scaled)) == pytest.approx(2.128926, abs=1e-5)  # as the code divides


def test_audiojepas_rate():
    o = audiojepa.paper().optim
    steps = {0: 1e-6, 1: 1.999e-6, 500: 5.005e-4, 1000: 1e-3, 2000: 9.997483e-4, 50_500: 5e-4}
    for step, rate in steps.items():
        assert warmup_cosine(step / 100_000, o.warmup, o.lr_start, o.lr, o.lr_end) == pytest.approx(rate, rel=1e-5)


def test_the_teacher_sees_all_and_the_student_half():
    t = Trainer(tiny("audiojepa", "").check(), open_data(tiny("audiojepa", "").data), CPU)
    views = t.method.views(t.batch(0)[0], t.batch(0)[2], 0.5)
    assert views["images"].shape == (12, 1, 24, 24)
    assert views["context"].shape[1] + views["targets"].shape[2] == 16
    before = [p.clone() for p in t.method.target.parameters()]
    t.train_step()
    assert any(not torch.equal(a, b) for a, b in zip(before, t.method.target.parameters(), strict=True))


def test_ajepas_curriculum():
    values = {0.0: 0.01, 0.25: 0.500075, 0.5: 0.707142, 1.0: 1.0}
    for at, value in values.items():
        assert competence(at, 0.01) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("curriculum", ["probability", "extent"])
def test_ajepas_masks_grow_harder(curriculum):
    config = resolve(
        tiny("ajepa", ""), [f"objective.curriculum={curriculum}", "objective.start=0", "data.image_size=96x192"]
    )
    method = build(config, DataInfo(Sounds(96, 192, config.data.mel), 10), CPU)
    assert isinstance(method, AJEPA) and method.grid == (16, 32)
    left = {at: [method.masks(Rng(seed, 4), at)[0].shape[1] for seed in range(24)] for at in (0.0, 0.5, 1.0)}
    mean = {at: sum(sizes) / len(sizes) for at, sizes in left.items()}
    assert mean[1.0] < mean[0.5] < mean[0.0]
    blocks = {at: {method.masks(Rng(seed, 4), at)[1].shape[1] for seed in range(24)} for at in (0.0, 1.0)}
    assert blocks == {0.0: {4} if curriculum == "probability" else {3}, 1.0: {3}}


SOUNDS = [m for m in find.names("methods") if "sound" in find.defined(find.module("methods", m), Method).kinds]


@pytest.mark.parametrize("method", SOUNDS)
def test_every_method_of_sounds_has_a_recipe_on_the_embedded_digits_and_learns_from_it(method):
    config = resolve(
        find.recipe(method, "sound")(), ["backbone.embed_dim=32", "budget.flops=0", "budget.steps=2", "precision=fp32"]
    )
    assert config.data.name == "fsdd30" and config.budget.batch_size
    trainer = Trainer(config, open_data(config.data), CPU)
    losses = [float(trainer.train_step()["loss"]) for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(losses))) and losses[0] != losses[1]


def test_data2vec_on_spectrograms_is_eats():
    """Facts of EAT's config: all blocks averaged, 80 % hidden, CLS loss of weight 1, no augmentation."""
    config = find.recipe("data2vec", "sound")()
    o = config.objective
    assert (o.version, o.layers, o.mask_ratio, o.cls_weight) == ("2.0", config.backbone.depth, 0.8, 1.0)
    small = tiny("data2vec", "", kind="sound")
    trainer = Trainer(small, open_data(small.data), CPU)
    images, _, rng = trainer.batch(0)
    views = trainer.method.views(images, rng, 0.5)
    plain = (images - trainer.method.mean) / trainer.method.std
    assert torch.allclose(views["images"], plain, atol=1e-5) and views["keep"].shape == (12, 4, 3)


def test_mirrors_and_colours_are_refused_on_sounds_and_gain_on_pictures():
    sounds = find.recipe("mae", "sound")()
    with pytest.raises(UserError, match=r"Turned round.*objective\.augment\.flip=0"):
        Trainer(resolve(sounds, ["objective.augment.flip=0.5"]), open_data(sounds.data), CPU)
    grey = Trainer(resolve(sounds, ["objective.augment.gray_p=0.2"]), open_data(sounds.data), CPU)
    with pytest.raises(UserError, match="need 3 channels"):
        grey.train_step()
    with pytest.raises(UserError, match=r"objective\.augment\.sound has no effect on images"):
        build(resolve(tiny("mae", ""), ["objective.augment.sound.gain=1"]), DataInfo(square(24), 3), CPU)
    with pytest.raises(UserError, match="'dinov2' takes image items, and these are sounds"):
        build(tiny("dinov2", ""), DataInfo(Sounds(24, 24), 3), CPU)
