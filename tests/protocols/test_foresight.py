"""`foresight`: a predictor that knows the future is right, one that says nothing is `copy`, and others are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny

from protocols.foresight import ForesightConfig, Seer
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.evaluation.world_scorers import Ahead
from ssl_bench.models.thinker import Thinker
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.run_folder import Run

SET = DataConfig("cues:60", image_size=24, frames=40, val_fraction=0.2)


def test_places_are_means_of_the_frames_of_a_cell():
    film = torch.arange(80.0).view(1, 80)  # x and y of frame t are 2 t and 2 t + 1
    truth = torch.cat([torch.zeros(1, 1), film], 1)
    columns = tuple(range(1, 81))
    each = Ahead(("",), (1,), 1, (0, 1), 2, columns, 40, 31)
    assert torch.equal(each.places(truth)[0, :, 0], 2 * torch.arange(40.0))
    pairs = replace(each, every=2, frames=20)  # frames 0, 2, 4, ...: a cell has two of them
    assert torch.equal(pairs.places(truth)[0, :, 0], 4 * torch.arange(20.0).view(10, 2).mean(1))


def test_distances_are_counted_from_the_last_seen_frame():
    """Against a plain loop."""
    torch.manual_seed(0)
    truth, output = torch.rand(5, 81), torch.rand(2, 5, 2, 3)
    found = Ahead(("", "copy"), (1, 8), 1, (0, 1), 2, tuple(range(1, 81)), 40, 31)(output, truth, 4)
    for w, name in enumerate(("", "_copy")):
        for i, h in enumerate((1, 8)):
            total = 0.0
            for n in range(5):
                x, y = truth[n, 1 + 2 * (31 + h) : 3 + 2 * (31 + h)].tolist()
                total += ((float(output[w, n, i, 0]) - x) ** 2 + (float(output[w, n, i, 1]) - y) ** 2) ** 0.5 / 5
            assert found[f"px{h}{name}"] == pytest.approx(total, rel=1e-5)
            assert found[f"latent{h}{name}"] == pytest.approx(float(output[w, :, i, 2].mean()), rel=1e-5)


QUICK = ["foresight.epochs=2"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two steps: its root and its name."""
    root = tmp_path_factory.mktemp("foresight")
    return root, pretrain(replace(tiny("thinkjepa", "", steps=2), data=SET), root).name


def test_a_run_is_judged_by_its_predictor(kept):
    root, run = kept
    own = evaluate(run, "foresight", SET, root, overrides=QUICK).metrics
    assert own["latent8"] != own["latent8_copy"]
    assert own["latent8_seen"] == 0.0
    assert own["px8_seen"] < own["px8_copy"]


def test_who_knows_the_future_is_as_good_as_the_probe(kept, monkeypatch):
    (root, run), shown, ways = kept, [], Seer.ways

    def watched(self: Seer, clips: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        shown.append(self.read(clips, self.cells.future))
        return ways(self, clips, others)

    monkeypatch.setattr(Seer, "ways", watched)
    monkeypatch.setattr(Thinker, "forward", lambda self, recent, past=None: shown[-1])
    found = evaluate(run, "foresight", SET, root, overrides=[*QUICK, "foresight.batch_size=7"]).metrics
    for h in (1, 4, 8):
        assert found[f"px{h}"] == found[f"px{h}_seen"]
        assert found[f"latent{h}"] == 0.0 < found[f"latent{h}_copy"]


def test_what_has_kept_no_predictor_says_that_all_stays(kept):
    root, run = kept
    for source in (f"random:{run}", "pixels"):
        found = evaluate(source, "foresight", SET, root, overrides=QUICK).metrics
        for h in (1, 4, 8):
            assert found[f"px{h}"] == found[f"px{h}_copy"] == found[f"px{h}_other"]
            assert found[f"latent{h}"] == found[f"latent{h}_copy"] > 0


def test_copy_is_what_the_encoder_would_see_if_all_stayed(kept):
    """Stopped clips: the last seen frame goes on. Then what stays is the truth, frame by frame."""
    root, run = kept
    found = evaluate(run, "foresight", SET, root, overrides=QUICK)
    encoder, data = from_run(Run(root / run)), open_data(SET)
    clips = data.train.batch(np.arange(6))
    clips[:, 32:] = clips[:, 31:32]
    seer = Seer(SimpleNamespace(encoder=encoder, items=data.train), ForesightConfig(epochs=2))
    own, copy, other, truth = seer.ways(clips, clips.roll(1, 0)).unbind(1)
    assert torch.equal(copy, truth)
    assert not torch.allclose(own, truth, atol=1e-3)
    assert not torch.equal(own, other) or float(encoder.kept.guidance.gates.detach().abs().max()) == 0
    assert found.selected["last_seen"] == 31 and found.selected["horizons"] == [1, 4, 8]


def test_rows_that_were_asked_for_other_frames_are_never_side_by_side(kept, tmp_path):
    half = tiny("thinkjepa", "", steps=2)
    half = replace(half, data=SET, objective=replace(half.objective, seen=0.5))
    run = pretrain(half, tmp_path)
    with pytest.raises(UserError, match=r"what comes after 20.*foresight\.seen=0\.5"):
        evaluate(run.name, "foresight", SET, tmp_path, overrides=QUICK)
    found = evaluate(run.name, "foresight", SET, tmp_path, overrides=[*QUICK, "foresight.seen=0.5"])
    assert found.selected["last_seen"] == 19 and "px20" in found.metrics
    assert found.protocol_config["seen"] == 0.5


def test_fewer_frames_to_come_are_asked_for_where_there_are_fewer(kept):
    root = kept[0]
    found = evaluate("pixels", "foresight", replace(SET, frames=10), root, overrides=QUICK)
    assert found.headline == "px2" and found.selected["horizons"] == [1, 2]


@pytest.mark.parametrize("file", ["thinker.json", "thinker.safetensors"])
def test_a_run_that_lost_its_predictor_is_not_taken_for_one_without(kept, tmp_path, file):
    root, run = kept
    shutil.copytree(root / run, tmp_path / run)
    (tmp_path / run / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        evaluate(run, "foresight", SET, tmp_path, overrides=QUICK)


def test_differences_of_frames_are_no_frames(kept):
    with pytest.raises(UserError, match="'difference' does not give"):
        evaluate("difference", "foresight", SET, kept[0], overrides=QUICK)


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        (replace(SET, name="movingphotos:0:40"), [], "clips whose track is known, which 'movingphotos:0:40' lacks"),
        (SET, ["foresight.horizons=9"], "horizons=9 must be at most 8"),
        (SET, ["foresight.horizons=0"], "1 or more"),
        (SET, ["foresight.horizons=2,2"], "different numbers"),
        (SET, ["foresight.seen=1"], "below 1"),
        (replace(SET, name="factors:40", frames=8), [], "foresight needs clips"),
    ],
)
def test_what_cannot_be_foreseen_is_said(kept, data, settings, said):
    with pytest.raises(UserError, match=said):
        evaluate("pixels", "foresight", data, kept[0], overrides=settings)
