"""What runs will cost, before they start: steps and FLOPs are counted, time and memory measured over a few steps."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_bench import compute, distributed, runs, sharding
from ssl_bench.compare import Row, share
from ssl_bench.config import Config
from ssl_bench.data import Dataset, open_data
from ssl_bench.errors import UserError
from ssl_bench.monitor import Monitor
from ssl_bench.screen import clock, console, quantity, say, sheet
from ssl_bench.train import Trainer

WARM = 2  # steps before the clock starts: the first ones allocate
LONG = 1.0  # seconds to measure for: two steps at least, more where steps are short

NUMBERS = ("steps", "FLOPs", "time", "memory", "disk")


@dataclass(frozen=True)
class Estimate:
    """Of one run from its first step to its last."""

    steps: int
    images: int
    epochs: float
    flops: float
    seconds: float  # of training, as in compute.json: start-up is left out
    step_seconds: float
    measured: int  # steps behind it
    memory: int  # bytes, peak
    disk: int  # bytes: two checkpoints and the encoder
    device: str


def estimate(config: Config) -> Estimate:
    """Trains a few steps in memory and throws them away; no file is written but the store of the images."""
    config = replace(config.check(), run=replace(config.run, devices=1, sharding="auto"))
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = compute.pick_device(config.run.device)
    _forget_peak(device)
    trainer = Trainer(_open_ended(config), open_data(config.data, config.run), device)
    try:
        step_seconds, measured = _measure(trainer)
        look = _measure_monitor(trainer)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{config.method} with budget.batch_size={config.budget.batch_size} does not fit into the memory of "
            f"{compute.device_label(device)}. Lower it, or raise budget.accumulate."
        ) from error
    steps = _affordable(config, step_seconds, look) if config.budget.hours else trainer.steps
    images = steps * config.budget.batch_size
    encoder = _bytes(trainer.method.encoder.state_dict())
    found = Estimate(
        steps, images, images / len(trainer.data.train), images * trainer.flops_per_image,
        steps * step_seconds + config.monitor_points * look, step_seconds, measured,
        compute.peak_memory(device), 2 * _bytes(trainer.state()) + encoder, compute.device_label(device),
    )  # fmt: skip
    del trainer
    gc.collect()  # the next method must not stand on this one's memory
    return found


def in_steps(config: Config, data: Dataset, device: torch.device, kept: Path) -> Config:
    """A budget of hours as steps, by this device's rate. `kept` (JSON) holds them: a restart must not count anew."""
    if not distributed.first(kept.exists):
        trainer = Trainer(_open_ended(config), data, device)
        step_seconds, _ = _measure(trainer)
        look = _measure_monitor(trainer)
        found = {"steps": _affordable(config, step_seconds, look), "step_seconds": step_seconds}
        distributed.first(lambda: runs.write_json(kept, found))
    steps = distributed.first(lambda: json.loads(kept.read_text())["steps"])
    return replace(config, budget=replace(config.budget, hours=0, steps=steps))


def _open_ended(config: Config) -> Config:
    """A run whose budget is time has no last step while its rate is being measured."""
    long = replace(config.budget, hours=0, steps=1_000_000)
    return replace(config, budget=long) if config.budget.hours else config


def _affordable(config: Config, step_seconds: float, look_seconds: float) -> int:
    """Steps that fit into the hours beside the monitor's looks, at least one."""
    return max(1, round((3600 * config.budget.hours - config.monitor_points * look_seconds) / step_seconds))


def _measure(trainer: Trainer) -> tuple[float, int]:
    """Seconds per step, and over how many."""
    for _ in range(WARM):
        trainer.train_step()
    began, count = time.perf_counter(), 0
    while count < 2 or distributed.first(lambda: time.perf_counter() - began < LONG):
        trainer.train_step()
        count += 1
    return (time.perf_counter() - began) / count, count


def _measure_monitor(trainer: Trainer) -> float:
    """Seconds of one look at the encoder, 0 where none is asked for."""
    if not trainer.config.monitor_points:
        return 0.0
    monitor = Monitor(trainer)
    began = time.perf_counter()
    with sharding.gathered(trainer.method):
        monitor(trainer.method.encoder)
    return time.perf_counter() - began


def _bytes(state: Any) -> int:
    """Of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(_bytes, parts))


def _forget_peak(device: torch.device) -> None:
    """Start the high-water mark of memory again, so that it is this method's own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def show_run(config: Config, root: Path) -> None:
    """What `ssl-bench pretrain --dry-run` prints."""
    e, run, batch = estimate(config), runs.Run(root / runs.run_name(config)), config.budget.batch_size
    say(f"{run.name}: {_state(run)}", "bold")
    say(f"  budget   {e.steps:,} steps of {batch} images, {e.epochs:.3g} epochs of {config.data.name}")
    say(f"  compute  {quantity(e.flops, 'FLOP')}, {quantity(e.flops / e.images, 'FLOP')} an image")
    say(f"  time     about {clock(e.seconds)} on {e.device}, from {e.measured} steps of {1000 * e.step_seconds:.3g} ms")
    say(f"  memory   about {quantity(e.memory, 'B')}")
    say(f"  disk     about {quantity(e.disk, 'B')} in {root}: two checkpoints and the encoder")
    if config.run.devices > 1:
        say(f"  This is what one process would take with the whole batch; {config.run.devices} will share it.")
    say("Nothing was started: the same line without --dry-run does.")


def show_matrix(rows: Sequence[Row], root: Path, jobs: int) -> None:
    """What `ssl-bench compare --dry-run` prints: each method is measured once, for all its seeds.

    A run that is evaluated on several data sets has a row for each, and is pretrained once.
    """
    jobs, threads = share(jobs)
    known: dict[str, Estimate] = {}
    table = sheet("run", "state", "steps", "FLOPs", "time", "memory", "disk", "evaluations", right=NUMBERS)
    seconds = flops = disk = 0.0
    above: set[str] = set()  # runs in the table already
    names = [row.run.name for row in rows if row.run]
    several = len(set(names)) < len(names)
    for row in rows:
        cells, first = [""] * 5, row.run is not None and row.run.name not in above
        if row.config is not None and row.run is not None and first:
            above.add(row.run.name)
            method = row.label.rpartition(" seed ")[0]
            if method not in known:
                torch.set_num_threads(threads)
                known[method] = estimate(row.config)
            e, left = known[method], 1 - _done(row.run)
            cells = [
                f"{e.steps:,}", quantity(e.flops), clock(e.seconds * left), quantity(e.memory, "B"),
                quantity(e.disk, "B"),
            ]  # fmt: skip
            seconds, flops, disk = seconds + e.seconds * left, flops + e.flops * left, disk + e.disk * bool(left)
        state = "reference" if row.run is None else _state(row.run) if first else "as above"
        label = f"{row.label} on {row.data}" if several else row.label
        table.add_row(label, state, *cells, ", ".join(row.missing) or "there already")
    console.print(table)
    to_do = sum(len(row.missing) for row in rows)
    device = next(iter(known.values())).device if known else ""
    say(
        f"pretraining: {quantity(flops, 'FLOP')}, about {clock(seconds / jobs)} with {jobs} side by side"
        f"{' on ' + device if device else ''}, {quantity(disk, 'B')} in {root}; then {to_do} evaluations, not measured"
    )
    say("Nothing was started: the same line without --dry-run does.")


def _done(run: runs.Run) -> float:
    """The share of a run that is behind it."""
    status = run.status()
    return 1.0 if status.get("state") == "finished" else status.get("step", 0) / status.get("steps", 1)


def _state(run: runs.Run) -> str:
    status = run.status()
    if status.get("state") == "finished":
        return "finished already"
    return f"goes on at step {status['step']:,}" if status.get("step") else "new"
