"""How fast a device trains a config: measured over a few steps, and hours turned into steps by it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from ssl_bench.config.schema import Config
from ssl_bench.data.dataset import Dataset
from ssl_bench.parallel import collectives, sharding
from ssl_bench.training import run_folder
from ssl_bench.training.monitor import Monitor
from ssl_bench.training.train import Trainer

WARM = 2  # steps before the clock starts: the first ones allocate


LONG = 1.0  # seconds to measure for: two steps at least, more where steps are short


def in_steps(config: Config, data: Dataset, device: torch.device, kept: Path) -> Config:
    """A budget of hours as steps, by this device's rate. `kept` (JSON) holds them: a restart must not count anew."""
    if not collectives.first(kept.exists):
        trainer = Trainer(open_ended(config), data, device)
        step_seconds, _ = time_step(trainer)
        look = time_look(trainer)
        found = {"steps": affordable(config, step_seconds, look), "step_seconds": step_seconds}
        collectives.first(lambda: run_folder.write_json(kept, found))
    steps = collectives.first(lambda: json.loads(kept.read_text())["steps"])
    return replace(config, budget=replace(config.budget, hours=0, steps=steps))


def open_ended(config: Config) -> Config:
    """A run whose budget is time has no last step while its rate is being measured."""
    long = replace(config.budget, hours=0, steps=1_000_000)
    return replace(config, budget=long) if config.budget.hours else config


def affordable(config: Config, step_seconds: float, look_seconds: float) -> int:
    """Steps that fit into the hours beside the monitor's looks, at least one."""
    return max(1, round((3600 * config.budget.hours - config.monitor_points * look_seconds) / step_seconds))


def time_step(trainer: Trainer) -> tuple[float, int]:
    """Seconds per step, and over how many."""
    for _ in range(WARM):
        trainer.train_step()
    began, count = time.perf_counter(), 0
    while count < 2 or collectives.first(lambda: time.perf_counter() - began < LONG):
        trainer.train_step()
        count += 1
    return (time.perf_counter() - began) / count, count


def time_look(trainer: Trainer) -> float:
    """Seconds of one look at the encoder, 0 where none is asked for."""
    if not trainer.config.monitor_points:
        return 0.0
    monitor = Monitor(trainer)
    began = time.perf_counter()
    with sharding.gathered(trainer.method):
        monitor(trainer.method.encoder)
    return time.perf_counter() - began
