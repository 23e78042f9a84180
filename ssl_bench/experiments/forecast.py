"""What runs will cost, before they start: steps and FLOPs are counted, time and memory measured over a few steps."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_bench.config.schema import Config
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.experiments.matrix import Row, settle
from ssl_bench.experiments.runner import share
from ssl_bench.parallel import devices
from ssl_bench.screen import clock, console, quantity, say, sheet
from ssl_bench.training import run_folder
from ssl_bench.training.rate import affordable, open_ended, time_look, time_step
from ssl_bench.training.train import Trainer, rehearse

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
    device = devices.pick_device(config.run.device)
    _forget_peak(device)
    rehearse(config)
    trainer = Trainer(open_ended(config), open_data(config.data, config.run), device)
    try:
        step_seconds, measured = time_step(trainer)
        look = time_look(trainer)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{config.method} with budget.batch_size={config.budget.batch_size} does not fit into the memory of "
            f"{devices.device_label(device)}. Lower it, or raise budget.accumulate."
        ) from error
    steps = affordable(config, step_seconds, look) if config.budget.hours else trainer.steps
    images = steps * config.budget.batch_size
    encoder = _bytes(trainer.method.encoder.state_dict())
    found = Estimate(
        steps, images, images / len(trainer.data.train), images * trainer.flops_per_image,
        steps * step_seconds + config.monitor_points * look, step_seconds, measured,
        devices.peak_memory(device), 2 * _bytes(trainer.state()) + encoder, devices.device_label(device),
    )  # fmt: skip
    del trainer
    gc.collect()  # the next method must not stand on this one's memory
    return found


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
    e, run, batch = estimate(config), run_folder.Run(root / run_folder.run_name(config)), config.budget.batch_size
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
    for row in rows:
        method = row.label.rpartition(" seed ")[0]
        if row.config is not None and method not in known:
            torch.set_num_threads(threads)
            known[method] = estimate(row.config)
    if anew := settle(rows, root):  # the stores are there now, and with them what is recorded on them
        say(f"note: {anew}", "yellow")
    above: set[str] = set()  # runs in the table already
    names = [row.run.name for row in rows if row.run]
    several = len(set(names)) < len(names)
    for row in rows:
        cells, first = [""] * 5, row.run is not None and row.run.name not in above
        if row.config is not None and row.run is not None and first:
            above.add(row.run.name)
            method = row.label.rpartition(" seed ")[0]
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


def _done(run: run_folder.Run) -> float:
    """The share of a run that is behind it."""
    status = run.status()
    return 1.0 if status.get("state") == "finished" else status.get("step", 0) / status.get("steps", 1)


def _state(run: run_folder.Run) -> str:
    status = run.status()
    if status.get("state") == "finished":
        return "finished already"
    return f"goes on at step {status['step']:,}" if status.get("step") else "new"
