"""The matrix: methods x seeds x protocols. Skips what is there, goes on after an interruption, survives a failed cell.

Every cell runs in a process of its own through the same commands a user would type.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ssl_bench.config.schema import Config, identity
from ssl_bench.errors import UserError
from ssl_bench.experiments import recorded
from ssl_bench.training import run_folder
from ssl_bench.training.method import configured
from ssl_bench.training.train import rehearse


@dataclass
class Row:
    """One encoder on its way: pretrained (unless it is a reference), then evaluated."""

    label: str
    source: str  # what `ssl-bench eval` gets
    run: run_folder.Run | None  # None for references; its folder appears when the matrix starts
    pretrain: list[str]  # arguments of `ssl-bench pretrain`, [] for references
    seed: int
    missing: list[str] = field(default_factory=list)  # protocols still to run
    state: str = "waiting"
    where: list[str] = field(default_factory=list)  # --data and --image-size, where the source does not tell
    cell: recorded.Cell = recorded.Cell("", 0, "")  # what its numbers are found by
    protocols: list[str] = field(default_factory=list)  # all that are asked for
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    started: float = 0.0
    seconds: float = 0.0
    config: Config | None = None  # of the pretraining
    told: str = ""  # how far it was
    verb: str = "eval"  # the command that follows pretraining

    @property
    def data(self) -> str:
        """The set it is evaluated on."""
        return self.cell.data

    def view(self) -> dict[str, Any]:
        """What the live table shows."""
        known = self.run.status() if self.run else {}
        return {"label": self.label, "state": self.state, "status": known, "doing": self.doing()}

    def doing(self) -> str:
        """How far its evaluation said it is."""
        line = _last_line(self.log) if self.state == "evaluating" and self.process else ""
        return line if line.endswith(" left") else ""


def plan(
    methods: Sequence[str], protocols: Sequence[str], seeds: int, recipe_name: str, overrides: Sequence[str],
    root: Path, references: bool = True, data: str = "",
) -> list[Row]:  # fmt: skip
    """Every row, checked before anything starts. A method may carry its own recipe: `ijepa:paper`.

    `data`: the set to evaluate on, where it is not the one pretrained on.
    """
    from ssl_bench.evaluation.protocol import expand

    protocols = expand(protocols)
    for protocol in protocols:
        recorded.kind(protocol)  # one that does not exist is told now
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one seed is needed, and two or more for an interval.")
    rows: list[Row] = []
    for method in methods:
        base, _, own = method.partition(":")
        for seed in range(seeds):
            config = configured(base, own or recipe_name, [*overrides, f"seed={seed}"])
            if seed == 0:
                rehearse(config)
            run = run_folder.Run(root / run_folder.run_name(config))
            arguments = ["--method", base, "--recipe", own or recipe_name, "--seed", str(seed), *overrides]
            label = f"{method} seed {seed}"
            rows.append(Row(label, run.name, run, arguments, seed, where=["--data", data] if data else [],
                            cell=recorded.Cell.of(run.name, seed, replace(config.data, name=data or config.data.name)),
                            config=config))  # fmt: skip
    if references:
        rows += _references(rows)
    recorded.refuse_other_code({r.label: r.run for r in rows if r.run and r.config and not r.config.run.keep_old})
    for row in rows:
        row.protocols = list(protocols)
    settle(rows, root)
    return rows


def settle(rows: Sequence[Row], root: Path, images: recorded.Images | None = None) -> str:
    """What is left of every row: the protocols without a number. Returns what to say of numbers that are made anew.

    `UserError` where a run was trained on other images than those its set's name means now. Where the store is not
    built nothing is known of a set: the row waits, and is settled again when its images have been opened.
    """
    there = recorded.Numbers(root, images)
    keep_old = any(row.config is not None and row.config.run.keep_old for row in rows)
    for row in rows:
        known = row.run is None or row.config is None or there.images.known(row.run, row.config.data)
        if row.verb == "eval":
            row.missing = there.missing(row.protocols, row.cell, keep_old)
        if row.state in ("waiting", "done"):
            finished = row.run is None or row.run.status().get("state") == "finished"
            row.state = "done" if known and finished and not row.missing else "waiting"
    return there.told()


def asked(given: Mapping[str, Any], data: str = "") -> list[Row]:
    """The rows that the options of `ssl-bench compare` ask for; `data` as in `plan`."""
    return plan(
        given["methods"].split(","), given["protocols"].split(","), given["seeds"], given["recipe"],
        given["settings"], given["root"], not given["no_references"], data,
    )  # fmt: skip


def _references(rows: list[Row]) -> list[Row]:
    """`random` for every backbone in the plan and seed, and `pixels`, on the data of the first run."""
    from ssl_bench.encoders.references import reference

    out, seen = [], set()
    for row in rows:
        config = row.config
        assert config is not None
        images = replace(config.data, name=row.data)
        name = identity(reference("random", row.seed, images, config.backbone))
        if name not in seen:
            seen.add(name)
            label, source = f"random seed {row.seed}", f"random:{row.source}"
            out.append(
                Row(label, source, None, [], row.seed, where=row.where, cell=recorded.Cell.of(name, row.seed, images))
            )
    assert rows[0].config is not None
    images = replace(rows[0].config.data, name=rows[0].data)
    pixels = recorded.Cell.of(identity(reference("pixels", 0, images)), 0, images)
    return [*out, Row("pixels", f"pixels:{rows[0].source}", None, [], 0, where=rows[0].where, cell=pixels)]


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
        (root / "logs").mkdir(parents=True, exist_ok=True)
        for config in (row.config for row in rows if row.config is not None):
            run_folder.start(root, config)

    def run(self, draw: Callable[[Matrix], None], event: Callable[[str], None]) -> None:
        """Until every row is done or has failed. On Ctrl-C the children checkpoint and end by themselves."""
        try:
            while True:
                for row in self.rows:
                    if (line := row.doing()) and line != row.told:
                        row.told = line
                        event(f"{row.label}: {line}")
                    if row.process and row.process.poll() is not None:
                        self._advance(row, row.process.returncode, event)
                for row in self._next()[: self.jobs - sum(row.process is not None for row in self.rows)]:
                    self._advance(row, 0, event)
                draw(self)
                if all(row.state in ("done", "failed") for row in self.rows):
                    return
                time.sleep(0.25)
        except KeyboardInterrupt:
            event("stopping: runs end their step and write a checkpoint; Ctrl-C again stops at once")
            for row in self.rows:
                if row.process:
                    row.process.wait()
            raise

    def _next(self) -> list[Row]:
        """The rows that wait, in their order; references go first while another row pretrains beside them."""
        busy = any(row.state == "pretraining" for row in self.rows)
        return sorted((r for r in self.rows if r.state == "waiting"), key=lambda r: busy and r.run is not None)

    def _advance(self, row: Row, code: int, event: Callable[[str], None]) -> None:
        """Start what comes next for a row: pretraining, evaluation, the end."""
        row.process = None
        if code:
            row.state = "failed"
            doing = "evaluating" if self._pretrained(row) else "pretraining"
            event(f"{row.label} failed while {doing}: {_last_line(row.log)} (log: {row.log})")
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
            row.process = self._spawn(arguments, log)

    def _spawn(self, arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ssl_bench", *arguments, "--root", str(self.root)]
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads)

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
                screen.say(f"{screen.clock(time.monotonic() - matrix.began)}  {text}")

        matrix.run(draw, event)


def refuse_failed(rows: list[Row]) -> None:
    """Names the rows that failed, after the others are done."""
    if failed := [row.label for row in rows if row.state == "failed"]:
        more = f"{len(failed)} of {len(rows)} rows failed: {', '.join(failed)}"
        raise UserError(f"{more}. The same command tries them again.")


def _last_line(path: Path | None) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path and path.exists() else []
    return lines[-1].strip()[:300] if lines else "no output"
