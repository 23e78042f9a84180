"""Protocol `flow` on motion that is known, and its scorer on cases that a hand can check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from protocols.flow import Flow, FlowConfig
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import Split, open_data, open_test, open_truth
from ssl_bench.encoders.references import pixels
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.evaluation.features import Held, Moving
from ssl_bench.evaluation.map_scorers import Endpoint
from ssl_bench.evaluation.protocol import Features, Rows
from ssl_bench.models.flow import warp

SET, SIDE = DataConfig("movingphotos:2:80", image_size=32), 24


def moved(n: int, step: tuple[int, int], seed: int) -> Features:
    """Clips of two frames of noise, the second `step` (x, y) pixels further on, over a frame that is a torus."""
    noise = torch.randint(256, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    clips = torch.stack([noise, noise.roll((step[1], step[0]), (2, 3))], 1)
    store = Split(clips.numpy(), np.arange(n), torch.empty(0, dtype=torch.int64))
    flows = torch.tensor(step).float().view(1, 2, 1, 1).expand(n, -1, SIDE, SIDE)
    return Features(
        torch.zeros(n), 1, "mean", {"mean": torch.zeros(n, 1, 1)}, Rows.of(store), encoder=pixels(None),
        flows=Rows.of(Held(flows)),
    )  # fmt: skip


@pytest.mark.parametrize(("step", "patch", "places"), [((2, -1), 4, 4), ((-3, 2), 3, 3), ((4, 0), 4, 2)])
def test_raw_patches_find_the_motion_of_noise(step: tuple[int, int], patch: int, places: int) -> None:
    config = FlowConfig(raw_patch=patch, places=places)
    found = Flow(config).fit(moved(4, step, 0), moved(4, step, 1), 0)
    test = moved(3, step, 2)
    assert test.flows is not None
    flow = found.predict(test.bare())
    inner = (..., slice(8, -8), slice(8, -8))  # of what stays in the frame
    assert (flow[inner] - test.flows.batch(np.arange(3))[inner]).norm(dim=1).max() < 0.1
    assert found.selected["temperature"] < 0.3 and found.selected["candidates"] == 7


def test_the_error_of_an_answer_is_what_a_hand_counts() -> None:
    truth = torch.zeros(2, 2, 1, 2)
    truth[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # one of four pixels moves, by 5
    score = Endpoint(draws=50)
    still, right = score(torch.zeros_like(truth), truth, 1), score(truth, truth, 1)
    assert still["epe"] == still["epe_zero"] == 1.25 and still["epe_moving"] == 5
    assert right["epe"] == right["epe_moving"] == right["epe_high"] == 0 and right["epe_zero"] == 1.25
    assert still["epe_low"] < 1.25 < still["epe_high"]
    assert score.kept(torch.zeros_like(truth), truth) == {"clip_epe": [2.5, 0.0]}
    with pytest.raises(UserError, match="finite"):
        score(truth / 0, truth, 1)


def test_the_motion_of_a_set_brings_its_second_frame_onto_its_first() -> None:
    train, truth = open_data(SET).train, open_truth(SET, "flows")
    parts = {"test": (open_test(SET).batch(np.arange(20)), truth["flows"])}
    parts["train"] = (train.batch(np.arange(20)), Moving(train).batch(np.arange(20)))
    for clips, flows in parts.values():  # the test split's store is in another order than its clips are made
        first, second = clips[:, 0].float(), clips[:, 1].float()
        inner = (..., slice(4, -4), slice(4, -4))
        apart, raw = ((first - x)[inner].abs().median() for x in (warp(second, flows), second))
        assert apart < 0.35 * raw
    still = open_truth(replace(SET, name="movingphotos:0:80"), "flows")["flows"]
    moving = (still != 0).any(1).double().mean()
    assert 0.05 < moving < 0.16 and still.norm(dim=1).max() == pytest.approx(2.5)  # the disc alone
    assert "flows" not in open_truth(SET)


def test_what_cannot_be_read_is_told() -> None:
    x = moved(4, (1, 0), 0)
    for config, word in ((FlowConfig(raw_patch=5), "whole"), (FlowConfig(places=3), "divide")):
        with pytest.raises(UserError, match=word):
            Flow(config).fit(x, x, 0)
    with pytest.raises(UserError, match="movingphotos:2"):
        Flow(FlowConfig()).fit(replace(x, flows=None), x, 0)
    with pytest.raises(UserError, match="temperatures"):
        Flow(FlowConfig(temperatures=(0.0,)))


def test_the_record_of_a_whole_evaluation(tmp_path) -> None:
    overrides = ["places=1", "reach=1"]
    for source in ("pixels", "random:micro_patch8@32"):
        record = evaluate(source, "flow", SET, tmp_path, overrides=overrides + ["raw_patch=8"] * (source == "pixels"))
        assert not record.higher_is_better and record.metrics["epe_low"] < record.value < record.metrics["epe_high"]
        assert len(record.data["clip_epe"]) == 20 and record.metrics["epe_zero"] == pytest.approx(1.118, abs=0.02)
        assert np.mean(record.data["clip_epe"]) == pytest.approx(record.value, abs=1e-3)
    with pytest.raises(UserError, match="motion is known"):
        evaluate("pixels", "flow", DataConfig("factors:80", image_size=48), tmp_path)
