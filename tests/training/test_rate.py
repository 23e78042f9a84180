"""Budgets of different kinds become steps: hours by a measured rate that a restart must not measure again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny

from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import BudgetConfig, identity
from ssl_bench.errors import UserError
from ssl_bench.parallel import devices
from ssl_bench.training import rate, run_folder
from ssl_bench.training.pretrain import pretrain


def test_hours_become_steps_once_and_the_run_ends_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "LONG", 0.0)
    monkeypatch.setattr(rate, "time_step", lambda trainer: (trainer.train_step(), (0.5, 2))[1])  # half a second a step
    config = tiny("mae", f"folder:{photos}", budget=BudgetConfig(batch_size=12, hours=3 / 3600), monitor_points=0)
    run = pretrain(config, tmp_path)
    assert run.compute()["steps"] == 6
    assert json.loads((run.folder / "steps.json").read_text())["steps"] == 6
    monkeypatch.setattr(rate, "time_step", lambda trainer: pytest.fail("measured again"))
    run_folder.set_status(run, state="interrupted")
    assert pretrain(config, tmp_path).compute()["steps"] == 6


def test_the_measuring_leaves_no_trace_in_the_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "LONG", 0.0)
    hours = tiny("simclr", f"folder:{photos}", budget=BudgetConfig(batch_size=12, hours=1e-9), monitor_points=0)
    steps = replace(hours, budget=BudgetConfig(batch_size=12, steps=1))
    one, other = pretrain(hours, tmp_path), pretrain(steps, tmp_path)
    assert one.name != other.name, "another budget is another run"
    assert (one.folder / "encoder.safetensors").read_bytes() == (other.folder / "encoder.safetensors").read_bytes()


def test_kinds_that_are_not_given_are_not_part_of_the_identity(photos: Path) -> None:
    config = tiny("mae", f"folder:{photos}")
    assert identity(resolve(config, ["budget.hours=2"])) != identity(config)
    with pytest.raises(UserError, match="exactly one of steps, epochs, images, flops, hours"):
        resolve(config, ["budget.hours=2", "budget.steps=3"])


@pytest.mark.parametrize(
    ("load", "threads", "said"), [(0.1, 2, []), (1.2, 1, []), (1.2, 2, ["run.threads=1"]), (0.3, 4, [])]
)
def test_a_run_of_several_threads_on_a_busy_machine_is_told(
    load: float, threads: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: max(2, threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    told = devices.crowded(torch.device("cpu"))
    assert len(told) == len(said) and all(word in line for word, line in zip(said, told, strict=True))
    assert not devices.crowded(torch.device("meta")), "only CPU threads wait for each other"
