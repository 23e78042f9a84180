"""What is refused before a run folder is made, for every method, and what a monitor says of too few images."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny
from stopping import stopped

from ssl_bench import find
from ssl_bench.config.schema import BudgetConfig, Config
from ssl_bench.errors import UserError
from ssl_bench.experiments import matrix
from ssl_bench.training import monitor
from ssl_bench.training.method import Method
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.run_folder import Run
from ssl_bench.training.train import rehearse

METHODS = find.names("methods")
ALONE = {  # one image will do
    "actjepa", "ajepa", "audiojepa", "data2vec", "dino", "ibot", "ijepa", "iwm", "llmjepa", "mae", "nepa", "simmim",
    "supervised", "videomae", "vjepa", "vjepa2", "vjepa21", "vjepa2ac",
}  # fmt: skip


def grid(method: str, patch: int) -> Config:
    """24 px in patches of `patch`; crops as large as the images."""
    config = tiny(method, "folder:none")
    objective = config.objective
    for name in ("global_size", "local_size", "crop_size"):
        if hasattr(objective, name) and (name != "local_size" or getattr(objective, "local_crops", 1)):
            objective = replace(objective, **{name: 24})
    return replace(config, backbone=replace(config.backbone, patch_size=patch), objective=objective)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch", "accumulate"), [(1, 1), (4, 4)])
def test_a_micro_batch_of_one_is_refused_where_images_are_compared(
    method: str, batch: int, accumulate: int, photos: Path, tmp_path: Path
) -> None:
    config = tiny(method, f"folder:{photos}", monitor_points=0)
    config = replace(config, budget=BudgetConfig(batch_size=batch, accumulate=accumulate, steps=1))
    if method in ALONE:
        run = pretrain(config, tmp_path)
        assert run.status()["state"] == "finished"
        return
    with pytest.raises(UserError, match=f"needs at least 2 in each; this is budget.batch_size={batch}"):
        pretrain(config, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_the_fewest_images_give_a_loss_that_is_a_number(method: str, photos: Path, tmp_path: Path) -> None:
    fewest = find.defined(find.module("methods", method), Method).fewest
    assert fewest == (1 if method in ALONE else 2)
    budget = BudgetConfig(batch_size=fewest, steps=2)
    run = pretrain(tiny(method, f"folder:{photos}", monitor_points=0, budget=budget), tmp_path)
    assert len({row["loss"] for row in run.metrics()}) == 2  # SimCLR's was 0 at every step of one image


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patch", [24, 12, 8])
def test_grids_too_small_for_masks_are_one_sentence(method: str, patch: int, tmp_path: Path) -> None:
    masked = {"capi", "cjepa", "data2vec", "dinov2", "ibot", "ijepa", "iwm", "mae", "msn", "simmim", "vjepa21"}
    masked |= {"ajepa", "audiojepa"}
    masked |= {"videomae", "vjepa", "vjepa2"}  # their grids have a time axis, of 4 tubelets here
    if (patch == 24 and method in masked) or method == "data2vec":
        side = 24 // patch
        with pytest.raises(UserError, match=f"'{method}' cannot be trained on (4 x )?{side} x {side} patches"):
            pretrain(grid(method, patch), tmp_path)
        assert not any(tmp_path.iterdir())
    elif find.defined(find.module("methods", method), Method).kinds == ("text",):
        with pytest.raises(UserError, match="a token of a text is itself alone: set it to 1"):
            pretrain(grid(method, patch), tmp_path)
    else:
        rehearse(grid(method, patch))


@pytest.mark.parametrize("method", METHODS)
def test_a_rehearsal_of_a_large_network_computes_nothing(method: str) -> None:
    config = find.recipe(method, "paper")()
    rehearse(config)
    began = time.process_time()
    rehearse(config)
    assert time.process_time() - began < 5  # half a second alone; drawing ViT-L's weights takes many times that


def test_a_rehearsal_leaves_random_numbers_and_methods_that_need_their_weights_alone(monkeypatch) -> None:
    config, before = tiny("mae", "folder:none"), torch.get_rng_state()
    rehearse(config)
    assert torch.equal(before, torch.get_rng_state())
    cls = find.defined(find.module("methods", "mae"), Method)

    def picky(self: Method, *_: object) -> None:
        raise RuntimeError("linalg.eigh: the algorithm failed to converge")  # of weights that were never drawn

    monkeypatch.setattr(cls, "views", picky)
    rehearse(config)


def test_compare_refuses_before_any_folder(photos: Path, tmp_path: Path) -> None:
    settings = [f"data.name=folder:{photos}", "data.image_size=24", "backbone=toy_patch24"]
    with pytest.raises(UserError, match="'mae' cannot be trained on 1 x 1 patches"):
        matrix.plan(["supervised", "mae"], ["knn"], 2, "quick", settings, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_batch_that_processes_cannot_share_leaves_no_folder(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ssl_bench.parallel.sharding.world_size", lambda: 5)
    with pytest.raises(UserError, match="cannot be shared by 5 processes"):
        pretrain(tiny("mae", f"folder:{photos}"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_images_that_cannot_be_trained_on_leave_no_folder(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        pretrain(tiny("mae", f"folder:{tmp_path}/nowhere"), tmp_path / "root")
    shutil.copytree(photos / "train" / "red", tmp_path / "one" / "only")
    with pytest.raises(UserError, match=r"all images of '.*' are of one class, 'only'"):
        pretrain(tiny("supervised", f"folder:{tmp_path}/one"), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_no_collapse_is_called_on_a_handful_of_images(photos: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    config = tiny("mae", f"folder:{photos}", steps=2)
    config = replace(config, data=replace(config.data, val_fraction=0.05))  # 6 of 120, two of each class
    run = pretrain(config, tmp_path, lambda state: seen.extend(state.get("remarks", [])))
    assert sum("too few held-out images to see a collapse: 6, and 12 are needed" in text for text in seen) == 1
    assert not run.status()["collapsed"]
    assert {row["monitor_images"] for row in run.metrics() if "monitor_images" in row} == {6.0}


@pytest.mark.parametrize(("std", "untrained", "called"), [(0.04, 0.6, True), (0.04, 0.05, False), (0.004, 0.05, True)])
def test_a_collapse_is_judged_beside_what_the_untrained_network_tells_apart(
    std: float, untrained: float, called: bool
) -> None:
    values = {"std": std, "rankme_centred": 20.0, "images": 300.0, "untrained": untrained}
    assert bool(monitor.collapse_reason(values)) == called


def test_every_look_of_a_run_that_goes_on_knows_the_untrained_network(photos, tmp_path, monkeypatch) -> None:
    config = replace(tiny("mae", f"folder:{photos}", steps=4), monitor_points=4)
    config = replace(config, run=replace(config.run, checkpoint_steps=1))

    def looks(run: Run) -> list[tuple[float, float]]:
        names = "monitor_untrained", "monitor_untrained_knn"
        return [(row[names[0]], row[names[1]]) for row in run.metrics() if names[0] in row]

    whole = looks(run := pretrain(config, tmp_path / "whole"))
    stopped(config, tmp_path / "halves", monkeypatch)
    assert looks(pretrain(config, tmp_path / "halves")) == whole
    assert len(whole) == 4 and len(set(whole)) == 1 and 0 < whole[0][0] < 2
    assert run.status()["untrained_knn"] == whole[0][1] and 0 <= whole[0][1] <= 1


def test_what_was_not_trained_has_the_untrained_networks_knn(photos: Path, tmp_path: Path) -> None:
    config = replace(tiny("mae", f"folder:{photos}", steps=1), monitor_points=1)
    run = pretrain(replace(config, optim=replace(config.optim, lr=1e-30)), tmp_path)
    assert run.status()["knn"] == run.status()["untrained_knn"] > 0


@pytest.mark.parametrize(("images", "called"), [(2, False), (11, False), (12, True), (48, True)])
def test_from_twelve_images_on_one_vector_is_a_collapse(images: int, called: bool) -> None:
    values = {"std": 0.01, "rankme_centred": 1.0, "images": float(images)}
    assert bool(monitor.collapse_reason(values)) == called
    assert monitor.collapse_reason({"finite": 0.0, "images": 2.0}) == "features are not finite"


def test_rankme_of_nothing_but_zeros_is_one() -> None:
    assert monitor.rankme(torch.zeros(9, 8)) == pytest.approx(1, abs=1e-4)
