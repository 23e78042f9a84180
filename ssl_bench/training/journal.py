"""What a run writes about itself while it trains: metrics.jsonl, timing.jsonl, status.json.

metrics.jsonl holds values that a restart reproduces to the bit; everything with seconds in it goes to timing.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.files import write_atomic
from ssl_bench.parallel import collectives, sharding
from ssl_bench.training import run_folder
from ssl_bench.training.monitor import Monitor, collapse_reason
from ssl_bench.training.trackers import Trackers
from ssl_bench.training.train import Trainer

Observer = Callable[[dict[str, Any]], None]
STATUS_SECONDS = 0.5  # between updates of status.json


class Journal:
    """Rows, status and monitor of one run; tells the observer (the screen) what it writes."""

    def __init__(self, trainer: Trainer, run: run_folder.Run, observe: Observer, monitor: Monitor | None) -> None:
        self.trainer, self.run, self.observe, self.monitor = trainer, run, observe, monitor
        config = trainer.config
        points = config.monitor_points
        self.watched = {round(trainer.steps * (i + 1) / points) for i in range(points)}
        self.signals: dict[str, float] = {}
        self.clock = self.last_status = self.last_save = time.monotonic()
        self.base, self.began = trainer.seconds, trainer.step
        self.writes = collectives.rank() == 0
        self.trackers = Trackers(config, run, self.writes)
        for name in ("metrics", "timing") if self.writes else ():
            truncate(run.folder / f"{name}.jsonl", trainer.step)

    def record(self, logs: dict[str, Tensor], skipped: str = "") -> None:
        """After a step: add to the sums, write a row when one is due, refresh the status.

        `skipped` says why the step made no update; it has no logs then.
        """
        trainer, run = self.trainer, self.trainer.config.run
        for key, value in logs.items():
            trainer.window[key] = trainer.window.get(key, 0.0) + float(value)
        trainer.window["count"] = trainer.window.get("count", 0) + (not skipped)
        row: dict[str, Any] = {}
        if (trainer.step % run.log_every == 0 or trainer.step == trainer.steps) and trainer.window["count"]:
            row = self._means()
        if skipped:
            row |= {"skipped": skipped, "batch": trainer.order(trainer.step - 1).tolist()}
            told = f"step {trainer.step} skipped: non-finite {skipped} ({len(trainer.skipped)} of {run.nan_skips})"
            self.observe({"run": self.run.name, "step": trainer.step, "steps": trainer.steps, "remarks": [told]})
        if self.monitor and trainer.step in self.watched:
            with sharding.gathered(trainer.method):  # so every process looks, and process 0 writes
                self.signals = self.monitor(trainer.method.encoder)
            row |= {f"monitor_{key}": value for key, value in self.signals.items()}
        now = time.monotonic()
        trainer.seconds = self.base + now - self.clock
        if not self.writes:
            return
        if row:
            append(self.run.folder / "metrics.jsonl", {"step": trainer.step, **row})
            self.trackers.add(trainer.step, row)
            timing = {"step": trainer.step, "seconds": trainer.seconds, "images_per_second": self.rate()}
            append(self.run.folder / "timing.jsonl", timing)
        if now - self.last_status > STATUS_SECONDS or trainer.step == trainer.steps:
            self.last_status = now
            self._status({"loss": float(logs["loss"])} if logs else {})

    def close(self) -> None:
        self.trackers.close()

    def checkpoint_due(self) -> bool:
        """By steps or by minutes, as `run` asks and process 0 counts; the clock starts again when this says yes."""
        run = self.trainer.config.run
        if not self.writes:
            return False
        by_steps = run.checkpoint_steps and self.trainer.step % run.checkpoint_steps == 0
        due = bool(by_steps) or time.monotonic() - self.last_save > 60 * run.checkpoint_minutes
        if due:
            self.last_save = time.monotonic()
        return due

    def rate(self) -> float:
        """Images per second since this process began to train."""
        images = (self.trainer.step - self.began) * self.trainer.config.budget.batch_size
        return images / max(time.monotonic() - self.clock, 1e-9)

    def _means(self) -> dict[str, float]:
        """Means since the last row; the sums are part of the checkpoint, so a restart writes the same row."""
        window, self.trainer.window = self.trainer.window, {}
        count = window.pop("count")
        group = self.trainer.optimizer.param_groups[0]
        return {key: total / count for key, total in window.items()} | {k: group[k] for k in ("lr", "weight_decay")}

    def _status(self, seen: dict[str, Any]) -> None:
        trainer, rate = self.trainer, self.rate()
        left = (trainer.steps - trainer.step) * trainer.config.budget.batch_size / rate
        seen |= {"step": trainer.step, "steps": trainer.steps, "skipped": trainer.skipped}
        seen |= {"images_per_second": rate, "seconds_left": left, "collapse": collapse_reason(self.signals)}
        seen |= {key: self.signals[key] for key in ("knn", "untrained_knn", "rankme", "std") if key in self.signals}
        run_folder.set_status(self.run, state="running", **seen)
        self.observe({"run": self.run.name, **seen})


def append(path: Path, row: dict[str, Any]) -> None:
    """One line of JSON."""
    try:
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            f"Cannot write {path} ({error.strerror}). The last checkpoint is intact: mend this, and the same command "
            "goes on from there."
        ) from error


def truncate(path: Path, step: int) -> None:
    """Drop rows after the checkpoint, which will be written again, the same; and lines that are damaged."""
    if path.exists():
        kept = [line for line, row in run_folder.rows(path) if row["step"] <= step]
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
