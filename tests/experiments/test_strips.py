"""Contact strips of runs on clips: frames from left to right, masks over time, on the page and on a sheet."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny
from PIL import Image

from ssl_bench import find
from ssl_bench.cli.data import command
from ssl_bench.data.clips import Clips
from ssl_bench.experiments import strips
from ssl_bench.experiments.pictures import of_run
from ssl_bench.models.vit import ViT
from ssl_bench.training.pretrain import pretrain


def test_a_mask_greys_its_tubelets_in_their_frames_alone():
    vit = ViT(replace(tiny("vjepa", "").backbone, patch_size=6, class_token=False), Clips(4, 12, 12))
    shown = torch.zeros(1, vit.num_patches, dtype=torch.bool)
    shown[0, [0, 7]] = True  # first tubelet, upper left; second tubelet, lower right
    seen = strips.only(torch.ones(1, 4, 3, 12, 12), shown, vit)
    assert (seen[0, :2, :, :6, :6] == 1).all() and (seen[0, :2, :, 6:] == 0.5).all()
    assert (seen[0, 2:, :, 6:, 6:] == 1).all() and (seen[0, 2:, :, :6] == 0.5).all()


def test_rows_are_those_of_one_clip_after_another():
    made = Image.open(io.BytesIO(strips.strips([torch.zeros(3, 5, 3, 8, 8), torch.ones(3, 5, 3, 8, 8)])))
    assert made.size == (5 * 10 - 2, 6 * 10 - 2)


@pytest.mark.parametrize("method", ["vjepa", "videomae", "ijepa"])
def test_a_run_on_clips_has_its_pictures(method: str, tmp_path: Path):
    run = pretrain(tiny(method, "movingphotos:0:120", steps=1), tmp_path)
    found = of_run(run)
    titles = [picture.title for picture in found]
    assert titles[-1] == "PCA of tubelet features over time" and len(found) == 2
    wanted = {"vjepa": "context_0", "videomae": "keep", "ijepa": "context"}[method]
    assert titles[0].startswith("Views and masks over time: clip, ") and wanted in titles[0]


def test_the_sheet_of_a_set_of_clips_shows_frames(tmp_path: Path):
    path = tmp_path / "sheet.png"
    name = "movingphotos:0:40"
    done = CliRunner().invoke(command, ["check", name, "data.image_size=24", "--sheet", str(path)])
    assert done.exit_code == 0, done.output
    assert Image.open(path).size[0] == 8 * 26 + 120
    stored = np.arange(2 * 8 * 3 * 4 * 4).reshape(2, 8, 3, 4, 4).astype(np.uint8)
    assert (Clips(8, 4, 4).pictures(stored) == stored[0]).all()


@pytest.mark.parametrize(("method", "first"), [
    ("audiojepa", "Views and masks: image"), ("lewm", "Trajectories"), ("pointjepa", ""), ("mae", ""),
])  # fmt: skip
def test_the_page_of_a_run_on_any_kind_is_made(method: str, first: str, tmp_path: Path):
    """Points have no pictures on the page: it stopped there with a traceback."""
    config = tiny(method, "", steps=1)
    if method == "mae":
        config = replace(find.recipe("mae", "points")(), budget=replace(config.budget, steps=1), precision="fp32")
    titles = [picture.title for picture in of_run(pretrain(config, tmp_path))]
    assert titles[0].startswith(first) and "PCA of patch features" in titles if first else titles == []
