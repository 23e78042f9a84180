"""Losses, targets and schedules of V-JEPA and VideoMAE against values of the official code (see tests/models).

Values: jepa `51c59d5`, VideoMAE `14ef8d8`, VideoMAEv2 `29eab1e`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from sines import sines

from methods import vjepa, vjepa21
from methods.videomae import cubes, videomae_loss
from methods.vjepa import VJEPA, token_std, vjepa_loss
from methods.vjepa2 import VJEPA2
from methods.vjepa21 import VJEPA21
from ssl_bench.data.clips import Clips
from ssl_bench.data.images import square
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, linear, warmup_cosine
from ssl_bench.views.masks import indices

CLIPS = DataInfo(Clips(8, 24, 24), 10)


def made(cls: type[VJEPA], **objective: Any) -> VJEPA:
    config = tiny("vjepa2" if cls is VJEPA2 else "vjepa", "")
    torch.manual_seed(0)
    return cls(replace(config, objective=replace(config.objective, **objective)), CLIPS)


def test_vjepas_loss_and_regulariser():
    z = [sines(1, 2, 5, 8), sines(3, 2, 7, 8)]
    h = [F.layer_norm(x, (8,)) for x in (sines(2, 2, 5, 8), sines(4, 2, 7, 8))]
    for exponent, value in ((1.0, 1.004579), (2.0, 0.758101)):
        losses = [vjepa_loss(a, b, exponent) for a, b in zip(z, h, strict=True)]
        assert float(sum(losses)) / 2 == pytest.approx(value, abs=1e-5)
    spread = [token_std(x) for x in z]
    assert float(sum(s.mean() for s in spread)) / 2 == pytest.approx(0.721091, abs=1e-5)
    assert float(sum((1 - s).clamp(min=0).mean() for s in spread)) / 2 == pytest.approx(0.278909, abs=1e-5)


def test_videomaes_targets_and_losses():
    """Theirs undo the normalisation by ImageNet's mean and std before cubes are normalised: so is it here."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    clips = sines(21, 2, 3, 4, 8, 8).transpose(1, 2) * std + mean
    mask = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 1, 1, 1]]).bool()
    target = cubes(clips, 2, 4)[mask].view(2, 6, 96)
    assert float(target.abs().sum()) == pytest.approx(1016.174255, abs=1e-2)
    assert torch.allclose(target[0, 0, :4], torch.tensor([0.511668, 0.980413, 0.905054, -0.546654]), atol=1e-5)
    predicted = sines(22, 2, 6, 96)
    assert float(videomae_loss(predicted, target)) == pytest.approx(1.408918, abs=1e-5)
    plain = cubes(clips, 2, 4, normalise=False)[mask].view(2, 6, 96)
    assert float(videomae_loss(predicted, plain)) == pytest.approx(0.713441, abs=1e-5)
    left_out = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 0, 1, 0, 1]]).bool()
    decoded = indices(~left_out, 4)
    target = cubes(clips, 2, 4).gather(1, decoded[..., None].expand(-1, -1, 96))
    loss = videomae_loss(sines(23, 2, 4, 96), target, mask.gather(1, decoded).float())
    assert float(loss) == pytest.approx(1.510427, abs=1e-5)


def test_the_schedules_are_cut_at_four_fifths():
    for step, value in ((0, 0.998), (1, 0.99800533), (150, 0.9988), (299, 0.99959467)):
        assert linear(step / 300 / 1.25, 0.998, 1.0) == pytest.approx(value, abs=1e-8)
    optim = vjepa.paper().optim
    assert optim.lr_end == pytest.approx(7.5042e-5, rel=1e-3) and optim.weight_decay_end == pytest.approx(
        0.365623, abs=1e-3
    )
    peak = warmup_cosine(optim.warmup, optim.warmup, optim.lr_start, optim.lr, optim.lr_end)
    assert peak == pytest.approx(6.25e-4)


def test_padding_changes_no_number():
    """Clips with lists of their own length alone, and padded beside others: the same predictions."""
    method = made(VJEPA, cut="pad").eval()
    views = method.views(torch.randint(0, 256, (6, 8, 3, 24, 24), dtype=torch.uint8), Rng(2, 6), 0.5)
    masks = vjepa.Masks(*(views[f"{part}_0"] for part in vjepa.Masks.__dataclass_fields__))
    assert not masks.context_real.all() and not masks.targets_real.all()
    together = method.predict(views["clips"], masks, 0)
    for i in range(6):
        n, m = int(masks.context_real[i].sum()), int(masks.targets_real[i].sum())
        one = vjepa.Masks(
            masks.context[i : i + 1, :n], masks.targets[i : i + 1, :m],
            masks.context_real[i : i + 1, :n], masks.targets_real[i : i + 1, :m],
        )  # fmt: skip
        alone = method.predict(views["clips"][i : i + 1], one, 0)
        assert torch.allclose(together[i, :m], alone[0], atol=1e-5)


def test_each_mask_has_its_token_in_vjepa_and_vjepa_2_has_one():
    for cls, tokens in ((VJEPA, 2), (VJEPA2, 1)):
        method = made(cls)
        assert len(method.predictor.mask_token) == tokens and not method.predictor.mask_token.any()
    assert made(VJEPA2).student.rotary and not made(VJEPA).student.rotary


def test_the_loss_of_a_mute_predictor_is_the_mean_size_of_its_targets():
    method = made(VJEPA)
    torch.nn.init.zeros_(method.predictor.head.weight)
    views = method.views(torch.randint(0, 256, (6, 8, 3, 24, 24), dtype=torch.uint8), Rng(2, 6), 0.5)
    loss = float(method(views, 0.5)["loss"].detach())
    assert loss == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)


def test_images_and_mirrors_are_refused():
    config = tiny("vjepa", "")
    with pytest.raises(UserError, match="'vjepa' takes clip items, and these are images"):
        VJEPA(config, DataInfo(square(24), 10))
    mirrored = replace(config.objective, augment=replace(config.objective.augment, flip=0.5))
    with pytest.raises(UserError, match=r"names directions.*objective.augment.flip=0"):
        VJEPA(replace(config, objective=mirrored), CLIPS)


def test_vjepa21_on_clips_has_two_masks_and_a_dense_loss():
    """Both masks' losses are averaged; its encoder turns queries and keys, its last level is the whole pass'."""
    config = replace(tiny("vjepa2", ""), method="vjepa21", objective=vjepa21.clips().objective)
    assert config.backbone.pos_embed == vjepa21.clips().backbone.pos_embed == "rope"
    torch.manual_seed(0)
    method = VJEPA21(config, CLIPS)
    clips = torch.randint(0, 256, (3, 8, 3, 24, 24), dtype=torch.uint8)
    views = method.views(clips, Rng(0, 3), 0.5)
    for end in ("", "_long"):
        assert not set(views[f"keep{end}"][1].tolist()) & set(views[f"masked{end}"][1].tolist())
    levels = method.encoder.levels(views["images"], method.target_norms)
    assert torch.allclose(levels[:, :, -1], method.encoder(views["images"]), atol=1e-5)
    out, parts = method(views, 1.0), []
    for end in ("", "_long"):
        one = {"images": views["images"], "keep": views[f"keep{end}"], "masked": views[f"masked{end}"]}
        parts.append(float(method(one, 1.0)["loss"]))
    assert float(out["loss"]) == pytest.approx(sum(parts) / 2, rel=1e-5)
    with pytest.raises(UserError, match="mask_ratio is of images"):
        VJEPA21(replace(config, objective=replace(config.objective, mask_ratio=0.5)), CLIPS)
