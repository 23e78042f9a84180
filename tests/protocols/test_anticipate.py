"""Anticipation: only the beginning of a clip reaches the encoder, in fitting and in testing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protocols.anticipate import Anticipate, AnticipateConfig, begun
from protocols.linear import LinearConfig
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import Split
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.evaluation.protocol import Features, Rows, expand, load


def encode(clips: Tensor) -> dict[str, Tensor]:
    """One number per frame and half of the picture: features that hold all a clip shows."""
    return {"mean": (clips.float() / 255).mean((2, 3)).flatten(1)[:, None]}


def clips(n: int, seed: int, told: str) -> Features:
    """Noise; in the `told` half of the frames brightness says the class."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    pixels = rng.integers(0, 60, (n, 8, 1, 4, 2), dtype=np.uint8)
    at = slice(0, 4) if told == "first" else slice(4, 8)
    pixels[:, at] += (60 * labels[:, None, None, None, None]).astype(np.uint8)
    known = torch.from_numpy(labels)
    items = Rows.of(Split(pixels, np.arange(n), known[:0]))
    encoder: Any = SimpleNamespace(encode=encode)
    return Features(known, 3, "mean", encode(torch.from_numpy(pixels)), items, encoder=encoder)


def accuracy(told: str, **settings: float) -> float:
    one = Anticipate(AnticipateConfig(linear=LinearConfig(strengths=9), **settings))
    test = clips(90, 2, told)
    scores = one.fit(clips(120, 0, told), clips(30, 1, told), 0).predict(test)
    return one.score(scores, test.labels, 3)["top1"]


@pytest.mark.parametrize(
    ("seen", "frames"),
    [
        (0.5, [0, 1, 2, 3, 3, 3, 3, 3]),
        (0.01, [0] * 8),
        (0.99, [0, 1, 2, 3, 4, 5, 6, 6]),
        (0.3, [0, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_later_frames_show_the_last_that_was_seen(seen: float, frames: list[int]):
    found = begun(torch.arange(8).view(1, 8, 1, 1, 1).expand(2, 8, 3, 2, 2), seen)
    assert found.shape == (2, 8, 3, 2, 2) and (found == torch.tensor(frames).view(8, 1, 1, 1)).all()


def test_what_only_the_second_half_tells_is_not_known():
    assert accuracy("first") > 95
    assert accuracy("second") < 50  # chance is 33
    assert accuracy("second", seen=0.7) > 95


def test_features_of_whole_clips_are_not_read():
    whole = clips(60, 0, "first")
    false = replace(whole, pooled={"mean": torch.full_like(whole.pooled["mean"], torch.nan)})
    one = Anticipate(AnticipateConfig(linear=LinearConfig(strengths=5)))
    scores = [one.fit(x, x, 0).predict(x) for x in (whole, false)]
    assert torch.equal(*scores)


def test_a_record_with_controls_on_clips_and_a_sentence_on_images(tmp_path: Path):
    data = DataConfig("movingphotos:0:120", image_size=24, val_fraction=0.2)
    record = evaluate("difference", "anticipate", data, tmp_path)
    assert record.headline == "top1" and {f"top1, {c}" for c in ("one frame", "reversed")} <= set(record.metrics)
    images = DataConfig("factors:40", image_size=16, val_fraction=0.2)
    with pytest.raises(UserError, match="anticipate needs clips, and 'factors:40' has images: name another set"):
        evaluate("pixels", "anticipate", images, tmp_path)


def test_it_is_asked_for_by_name_alone():
    assert "anticipate" not in expand(["all"]) and "linear" in expand(["all"])
    with pytest.raises(UserError, match="seen between 0 and 1"):
        load("anticipate", ["seen=1"])
