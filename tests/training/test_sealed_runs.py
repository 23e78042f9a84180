"""What a finished run says stays true: files changed later, flags that get lost, parts trained on other machines."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from torch import Tensor

from results.costs import cost as table_cost
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.training import checkpoint, cost, run_folder
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer
from tests.helpers.fake_records import fake


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> run_folder.Run:
    return pretrain(tiny("mae", f"folder:{photos}", steps=2), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copied(finished: run_folder.Run, tmp_path: Path) -> run_folder.Run:
    shutil.copytree(finished.folder, tmp_path / finished.name)
    return run_folder.Run(tmp_path / finished.name)


def change(run: run_folder.Run, file: str, how: Callable[[dict[str, Any]], Any]) -> None:
    values = run.read_json(file)
    how(values)
    (run.folder / file).write_text(json.dumps(values))


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "steps": ("config.json", lambda v: v["budget"].update(steps=3000)),
    "seed": ("config.json", lambda v: v.update(seed=7)),
    "FLOPs": ("compute.json", lambda v: v.update(flops=5e15)),
    "pooling": ("encoder.json", lambda v: v.update(pooling="cls")),
    "mean": ("encoder.json", lambda v: v.update(mean=[0.1, 0.2, 0.3])),
    "images": ("provenance.json", lambda v: v["data"].update(fingerprint="0" * 16)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_files_changed_after_the_end_are_refused(what: str, copied: run_folder.Run) -> None:
    """3,000 steps in place of 3, another seed or 5e15 FLOPs stood in tables without a word."""
    from_run(copied)
    file, how = CHANGES[what]
    change(copied, file, how)
    with pytest.raises(UserError, match=rf"{file} was changed after the run had ended"):
        from_run(copied)


@pytest.mark.parametrize("left", [3, "x", [], None, {}])
def test_a_seal_that_is_none_is_refused(left: Any, copied: run_folder.Run) -> None:
    change(copied, "encoder.json", lambda v: v.update(seal=left))
    with pytest.raises(UserError, match="was changed after the run had ended"):
        from_run(copied)


def test_what_changes_no_number_may_be_changed(copied: run_folder.Run) -> None:
    change(copied, "config.json", lambda v: v["run"].update(threads=2))
    change(copied, "provenance.json", lambda v: v.update(note="mine"))
    change(copied, "encoder.json", lambda v: v.pop("seal"))  # of a run from before there was one
    change(copied, "compute.json", lambda v: v.update(flops=1.0))
    assert from_run(copied).compute["flops"] == 1.0


def test_the_encoder_of_another_run_is_refused(copied: run_folder.Run, photos: Path, tmp_path: Path) -> None:
    other = pretrain(tiny("simclr", f"folder:{photos}", steps=2), tmp_path)
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copy(other.folder / name, copied.folder / name)
    with pytest.raises(UserError, match=r"config.json was changed"):
        from_run(copied)


def test_the_checkpoint_of_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
    config = tiny("mae", f"folder:{photos}", steps=2)
    first, second = (pretrain(replace(config, seed=seed), tmp_path) for seed in (0, 1))
    shutil.copy(first.folder / checkpoint.LAST, second.folder / checkpoint.LAST)
    run_folder.set_status(second, state="interrupted")
    with pytest.raises(UserError, match="The checkpoint is of a run with another config"):
        pretrain(replace(config, seed=1), tmp_path)


def test_a_collapse_is_flagged_also_where_the_status_is_lost(copied: run_folder.Run) -> None:
    assert from_run(copied).collapse == {"flag": False, "reason": "", "rankme": None}
    row = {"step": 1, "monitor_collapsed": 1.0, "monitor_finite": 0.0, "monitor_images": 300.0}
    (copied.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    change(copied, "encoder.json", lambda v: [v.pop("seal"), v.pop("collapse")])  # as runs were left before
    (copied.folder / "status.json").unlink()
    assert from_run(copied).collapse == {"flag": True, "reason": "features are not finite at step 1", "rankme": None}


def test_a_run_without_an_update_leaves_no_encoder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "trouble", lambda self, loss: "gradient")
    config = tiny("mae", f"folder:{photos}", steps=2)
    with pytest.raises(UserError, match="None of the 2 steps made an update"):
        pretrain(replace(config, run=replace(config.run, nan_skips=9)), tmp_path)
    assert not list(tmp_path.rglob("encoder.*"))


def test_a_run_that_goes_on_elsewhere_counts_each_part_as_it_was(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of one device were multiplied by the two that had ended the run."""
    config = tiny("mae", f"folder:{photos}", steps=6)
    step = Trainer.train_step

    def stopped(self: Trainer) -> dict[str, Tensor]:
        logs = step(self)
        signal.raise_signal(signal.SIGTERM) if self.step == 3 else None
        return logs

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path)
    monkeypatch.setattr(cost, "device_label", lambda device: "another")
    spent = pretrain(config, tmp_path).compute()
    here, there = spent["legs"]
    assert here["device"].startswith("cpu") and there["device"] == spent["device"] == "another"
    assert spent["seconds"] == pytest.approx(here["seconds"] + there["seconds"], abs=2e-3)


def test_legs_of_one_machine_are_one_and_tables_count_their_devices() -> None:
    a = {"seconds": 5.82, "device": "x", "instructions": "", "precision": "fp32", "devices": 1, "peak_memory_bytes": 7}
    b = {**a, "seconds": 1.08, "devices": 2, "peak_memory_bytes": 9}
    legs = cost.added(cost.added(cost.added([], a), {**a, "seconds": 1.0, "peak_memory_bytes": 3}), b)
    assert [(leg["seconds"], leg["peak_memory_bytes"]) for leg in legs] == [(6.82, 7), (1.08, 9)]
    spent = {**b, "seconds": 7.9, "flops": 1e12, "legs": legs}
    found = table_cost([fake("mae", compute={"pretrain": spent, "eval": {}})])
    assert found.hours == pytest.approx((6.82 + 2 * 1.08) / 3600)
    elsewhere = [*legs, {**b, "device": "y"}]
    assert table_cost([fake("mae", compute={"pretrain": {**spent, "legs": elsewhere}, "eval": {}})]).hours is None
