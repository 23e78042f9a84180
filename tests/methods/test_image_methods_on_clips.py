"""Methods of images that need only a grid or views, on tubelets: one step, whole frames' masks, no mirror."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import kinds_of, tiny

from ssl_bench import find
from ssl_bench.config.schema import Config, DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.train import Trainer

CLIPS = DataConfig("movingphotos:0:120", image_size=24, val_fraction=0.2)
METHODS = [m for m in find.names("methods") if {"image", "clip"} <= set(kinds_of(m))]


def on_clips(method: str) -> Config:
    return tiny(method, "", kind="clip", precision="fp32").check()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_tubelets(method: str) -> None:
    trainer = Trainer(on_clips(method), open_data(CLIPS), torch.device("cpu"))
    losses = [float(trainer.train_step()["loss"]) for _ in range(3)]
    assert len(set(losses)) == 3 and all(abs(loss) < 500 for loss in losses)
    assert trainer.method.encoder.grid == (4, 4, 4)


def test_ijepas_blocks_last_the_whole_clip():
    trainer = Trainer(on_clips("ijepa"), open_data(CLIPS), torch.device("cpu"))
    context, targets = trainer.method.masks(Rng(0, 3))  # type: ignore[operator]
    for tokens in (context[0], targets[0, 0]):
        frames = [{int(t) % 16 for t in tokens if int(t) // 16 == frame} for frame in range(4)]
        assert frames[0] and all(frame == frames[0] for frame in frames)


@pytest.mark.parametrize("method", ["data2vec", "ibot"])
def test_what_is_hidden_of_a_clip_is_hidden_at_all_times(method):
    trainer = Trainer(on_clips(method), open_data(CLIPS), torch.device("cpu"))
    images, _, rng = trainer.batch(0)
    mask = trainer.method.views(images, rng, 0.5)["mask"]
    frames = mask.unflatten(-1, (4, 16))
    assert mask.any() and (frames == frames[..., :1, :]).all()


def test_data2vecs_student_never_sees_hidden_tubelets():
    trainer = Trainer(on_clips("data2vec"), open_data(CLIPS), torch.device("cpu"))
    images, _, rng = trainer.batch(0)
    method = trainer.method
    views = {k: v[:, :1] if k in ("keep", "mask") else v for k, v in method.views(images, rng, 0.5).items()}
    hidden = views["mask"][:, 0].unflatten(1, (4, 4, 4))
    pixels = hidden.repeat_interleave(2, 1).repeat_interleave(6, 2).repeat_interleave(6, 3)[:, :, None]
    noisy = {**views, "images": views["images"] + 9 * pixels}
    before, after = (method.predict(v)[1] for v in (views, noisy))  # type: ignore[operator]
    assert torch.equal(before, after) and before.shape == (12, 1, 64, 32)
    assert not torch.equal(*(method.targets(v["images"]) for v in (views, noisy)))  # type: ignore[operator]


def test_mirrors_and_methods_without_tubelets_are_refused():
    config = on_clips("mae")
    mirrored = replace(config, objective=replace(config.objective, augment=tiny("mae", "").objective.augment))
    with pytest.raises(UserError, match=r"names directions.*objective.augment.flip=0"):
        Trainer(mirrored, open_data(CLIPS), torch.device("cpu"))
    with pytest.raises(UserError, match="'dinov2' takes image items, and these are clips"):
        Trainer(replace(tiny("dinov2", ""), data=CLIPS), open_data(CLIPS), torch.device("cpu"))
