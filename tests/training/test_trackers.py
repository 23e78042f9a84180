"""What trackers write is what metrics.jsonl says: TensorBoard's events and wandb's offline file, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from ssl_bench.config.schema import identity
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain


def tracked(photos: Path, root: Path, **tracker: Any) -> run_folder.Run:
    plain = tiny("mae", f"folder:{photos}", steps=4)
    config = replace(plain, run=replace(plain.run, **tracker))
    assert identity(config) == identity(plain), "watching a run does not change it"
    return pretrain(config, root)


def test_tensorboard_events_hold_the_metrics(photos: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tracked(photos, tmp_path, tensorboard=True)
    events = reader.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in run.metrics()]
    assert [event.step for event in events.Scalars("monitor_knn")] == [2, 4]


@pytest.mark.slow
def test_wandb_offline_holds_the_metrics(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tracked(photos, tmp_path, wandb="offline")
    files = list((run.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1
    written = files[0].read_bytes()  # records whose values are JSON text
    assert run.name.encode() in written
    losses = [row["loss"] for row in run.metrics()]
    assert len(losses) == 4 and all(json.dumps(loss).encode() in written for loss in losses)
