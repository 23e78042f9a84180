"""Runs the rows of a matrix: goes on after an interruption, survives a failed cell, says what all of it cost.

Every cell runs in a process of its own through the same commands a user would type.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ssl_bench.errors import UserError
from ssl_bench.experiments.matrix import Row, settle
from ssl_bench.screen import clock
from ssl_bench.training import run_folder
from ssl_bench.training.stop import Stop


def share(jobs: int) -> tuple[int, int]:
    """Runs side by side (0: one per core, at most 8) and the threads that each of them gets."""
    cores = len(os.sched_getaffinity(0))
    jobs = max(1, jobs or min(cores, 8))
    return jobs, max(1, cores // jobs)


class Matrix:
    """Runs the rows, `jobs` at a time."""

    def __init__(self, rows: list[Row], root: Path, jobs: int) -> None:
        self.rows, self.root = rows, root
        self.jobs, threads = share(jobs)
        # `run.threads=1` is for the whole command: a probe on more threads than there are free cores waits for them.
        self.threads = max((row.config.run.threads for row in rows if row.config is not None), default=0) or threads
        self.began = time.monotonic()
        self.spent = {"pretraining": 0.0, "evaluating": 0.0}  # seconds of all rows, which may run side by side
        (root / "logs").mkdir(parents=True, exist_ok=True)
        for config in (row.config for row in rows if row.config is not None):
            run_folder.start(root, config)

    def run(self, draw: Callable[[Matrix], None], event: Callable[[str], None]) -> None:
        """Until every row is done or has failed. However it ends before, by a signal or an error, no child is left."""
        stop = Stop(told="")
        try:
            while not stop.asked:
                self._look(event)
                draw(self)
                if all(row.state in ("done", "failed") for row in self.rows):
                    break
                time.sleep(0.25)
            if stop.asked:
                raise KeyboardInterrupt
        except BaseException:
            self._end(event)
            raise
        finally:
            stop.restore()

    def _look(self, event: Callable[[str], None]) -> None:
        """Tell how far rows are, and start what comes next."""
        for row in self.rows:
            if (line := row.doing()) and line != row.told:
                row.told = line
                event(f"{row.label}: {line}")
            if row.process and row.process.poll() is not None:
                self._advance(row, row.process.returncode, event)
        for row in self._next()[: self.jobs - sum(row.process is not None for row in self.rows)]:
            self._advance(row, 0, event)

    def _end(self, event: Callable[[str], None]) -> None:
        """Ask the children to end, and wait until they have. SIGTERM: they may have had the terminal's Ctrl-C already,
        and a second one would cost a pretraining its checkpoint. A second one here is theirs too."""
        children = [row.process for row in self.rows if row.process]
        try:
            for child in children:
                child.terminate()
            event("stopping: runs end their step and write a checkpoint; Ctrl-C again stops at once")
            for child in children:
                child.wait()
        except KeyboardInterrupt:
            for child in children:
                child.send_signal(signal.SIGINT)
            raise

    def _next(self) -> list[Row]:
        """The rows that wait, in their order; references go first while another row pretrains beside them."""
        busy = any(row.state == "pretraining" for row in self.rows)
        return sorted((r for r in self.rows if r.state == "waiting"), key=lambda r: busy and r.run is not None)

    def _advance(self, row: Row, code: int, event: Callable[[str], None]) -> None:
        """Start what comes next for a row: pretraining, evaluation, the end."""
        if row.process:
            self.spent[row.state] += time.monotonic() - row.since
        row.process = None
        if code:
            row.state = "failed"
            doing = "evaluating" if self._pretrained(row) else "pretraining"
            event(f"{row.label} failed while {doing}: {row.reason()} (log: {row.log})")
            return
        if not self._pretrained(row):
            row.state, row.started = "pretraining", time.monotonic()
            own = any(argument.startswith("run.threads=") for argument in row.pretrain)
            self._start(row, ["pretrain", *row.pretrain, *([] if own else [f"run.threads={self.threads}"])])
        elif row.missing and row.state != "evaluating":
            row.state, row.started = "evaluating", row.started or time.monotonic()
            protocols = [argument for p in row.missing for argument in ("--protocol", p)]
            also = ["--seed", str(row.seed), "--threads", str(self.threads), *row.where]
            self._start(row, [row.verb, row.source, *protocols, *also])
        else:
            row.state, row.seconds = "done", time.monotonic() - row.started
        event(f"{row.label}: {row.state}")

    def _pretrained(self, row: Row) -> bool:
        return row.run is None or row.run.status().get("state") == "finished"

    def _start(self, row: Row, arguments: list[str]) -> None:
        row.log = self.root / "logs" / f"{row.label.replace(' ', '-').replace('/', '-')}.log"
        with open(row.log, "ab") as log:
            row.log_start = log.tell()
            row.process, row.since = self._spawn(arguments, log), time.monotonic()

    def _spawn(self, arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ssl_bench", *arguments, "--root", str(self.root)]
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads)

    def cost(self) -> str:
        """What it took, "" where nothing was to do."""
        if not (total := sum(self.spent.values())):
            return ""
        took, (pretraining, evaluating) = time.monotonic() - self.began, self.spent.values()
        side = f", {self.jobs} side by side" if self.jobs > 1 else ""
        return (
            f"{clock(took)} in all: {clock(pretraining)} of pretraining and {clock(evaluating)} of evaluation "
            f"({100 * evaluating / total:.0f} %){side}"
        )

    def seconds_left(self) -> float | None:
        """From the mean time of finished rows and of running ones by their own estimate."""
        done = [row.seconds for row in self.rows if row.state == "done" and row.seconds and row.run]
        running = [row.run.status().get("seconds_left") for row in self.rows if row.run and row.state == "pretraining"]
        if not (known := [s for s in running if s is not None]) and not done:
            return None
        each = sum(done) / len(done) if done else max(known)
        ahead = [each if s is None else s for s in running]
        ahead += [each for row in self.rows if row.state == "waiting" and row.run]
        return sum(ahead) / min(self.jobs, len(ahead)) if ahead else None


def run(rows: list[Row], root: Path, jobs: int, table: bool = True) -> None:
    """All rows with a live table (or lines), then the report. Raises where a row failed, after the others are done."""
    from ssl_bench import screen
    from ssl_bench.experiments import report

    drive(rows, root, jobs)
    if table:
        screen.console.print(report.show(report.load(root)))
    refuse_failed(rows)


def ready(rows: list[Row]) -> None:
    """The images of every row are there, can be read, and have what is evaluated by: told once, before any row."""
    from ssl_bench.data.dataset import open_data
    from ssl_bench.evaluation.protocol import load
    from ssl_bench.evaluation.scorable import lacking

    seen, wanted = dict[Any, Any](), {name: load(name) for row in rows for name in row.missing}
    for row in rows:
        if row.config is not None and row.state != "done":
            for where in (row.config.data, replace(row.config.data, name=row.data)):
                seen[where] = seen[where] if where in seen else open_data(where, row.config.run)
            if row.missing and (trouble := lacking(seen[where], [(name, wanted[name]) for name in row.missing])):
                raise UserError(f"{trouble}: name another set: --eval-data NAME.")


def drive(rows: list[Row], root: Path, jobs: int, look: Callable[[], None] = lambda: None) -> None:
    """All rows with a live table (or lines); `look` is called four times a second."""
    from ssl_bench import screen

    ready(rows)
    if anew := settle(rows, root):
        screen.say(f"note: {anew}", "yellow")
    there = sum(row.state == "done" for row in rows)
    screen.say(f"{len(rows)} rows in {root}" + (f"; {there} are there already" if there else ""))
    matrix = Matrix(rows, root, jobs)
    watched = screen.interactive()
    with screen.live(watched) as update:

        def draw(m: Matrix) -> None:
            look()
            if watched:
                update(screen.matrix([row.view() for row in m.rows], time.monotonic() - m.began, m.seconds_left()))

        def event(text: str) -> None:
            if not watched or " failed " in text or text.startswith("stopping"):
                screen.say(f"{clock(time.monotonic() - matrix.began)}  {text}")

        matrix.run(draw, event)
    if cost := matrix.cost():
        screen.say(cost)


def refuse_failed(rows: list[Row]) -> None:
    """Names the rows that failed, after the others are done."""
    if failed := [row.label for row in rows if row.state == "failed"]:
        more = f"{len(failed)} of {len(rows)} rows failed: {', '.join(failed)}"
        raise UserError(f"{more}. The same command tries them again.")
