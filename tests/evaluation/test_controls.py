"""The controls of clips: the same predictor on one frame, on shuffled frames and on reversed ones, in every record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_bench import screen
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.clips import Clips
from ssl_bench.data.images import square
from ssl_bench.evaluation import protocol
from ssl_bench.evaluation.evaluate import evaluate, evaluate_all

CONTROLS = ("one frame", "shuffled frames", "reversed")


def test_what_each_control_takes_from_a_clip():
    kind = Clips(8, 2, 2, 1)
    stored = np.arange(3 * 8).repeat(4).reshape(3, *kind.shape).astype(np.uint8)
    rows = np.array([5, 0, 7])
    one, shuffled, back = (kind.changed(stored, name, rows)[:, :, 0, 0, 0] for name in kind.controls)
    plain = stored[:, :, 0, 0, 0]
    assert kind.controls == CONTROLS
    assert (one == plain[:, 4, None]).all() and (back == plain[:, ::-1]).all()
    assert (np.sort(shuffled) == plain).all() and not (shuffled == plain).all(1).any()
    assert (kind.changed(stored[1:], "shuffled frames", rows[1:])[:, :, 0, 0, 0] == shuffled[1:]).all()  # by its row
    assert len({tuple(order - order.min()) for order in shuffled}) == 3


def test_controls_stand_in_the_record_and_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The difference of frames has no order and nothing of one frame: reversed is the same, one frame a constant."""
    data = DataConfig("movingphotos:0:200", image_size=24, val_fraction=0.2)
    record, _ = evaluate_all("difference", ["knn", "linear"], data, tmp_path)
    found = [record.metrics[f"top1, {name}"] for name in CONTROLS]
    assert found[2] == pytest.approx(record.value) and found[0] < record.value - 20  # 10.0 and 44.0
    capsys.readouterr()
    screen.show_record(record)
    said = " ".join(capsys.readouterr().out.split())
    assert "the same on test items without something: " in said
    assert all(f"{name} {value:.2f}" in said for name, value in zip(CONTROLS, found, strict=True))


def test_images_have_no_controls_and_protocols_that_score_otherwise_take_none(tmp_path: Path):
    assert square(8).controls == ()
    assert protocol.load("attentive").controlled and protocol.load("knn").controlled
    assert not protocol.load("robust").controlled and not protocol.load("factors").controlled
    record = evaluate("pixels", "factors", DataConfig("movingphotos:0:120", image_size=24, val_fraction=0.2), tmp_path)
    assert not any(", " in name for name in record.metrics)
