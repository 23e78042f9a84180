"""What a user sees while things run: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ssl_bench.errors import printable

T = TypeVar("T")


def speaks() -> bool:
    """Whether this process writes to the screen: of several that torchrun or srun started, only the first does."""
    env = os.environ
    if "WORLD_SIZE" in env:
        return env.get("RANK", "0") == "0"
    return env.get("SLURM_STEP_NUM_TASKS", "1") == "1" or env.get("SLURM_PROCID", "0") == "0"


def speaker() -> str:
    """`process 3: ` where several may have something to say, and this one is not the first."""
    return "" if speaks() else f"process {os.environ.get('RANK') or os.environ['SLURM_PROCID']}: "


console = Console(highlight=False, quiet=not speaks())


def clock(seconds: float | None) -> str:
    """1:05, or 2:03:04."""
    if seconds is None:
        return "-:--"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def quantity(value: float, unit: str = "") -> str:
    """1.23 T, 456 M, 78."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:  # 999.6 G reads 1 T
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g}{' ' if unit else ''}{unit}"


def say(text: str, style: str = "") -> None:
    """A line for the user, wrapped to the terminal; brackets in it are no markup."""
    console.print(Text(printable(text), style=style), soft_wrap=not console.is_terminal)


def at_root(root: Path) -> str:
    """What a suggested command needs to find the same runs, quoted for a shell; "" for the default."""
    return "" if str(root) == "runs" else f" --root {shlex.quote(str(root))}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line: the means of `width` equal stretches, from the lowest ▁ to the highest █."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    finite = [v for v in means if math.isfinite(v)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (v - low) / (span or 1))] if math.isfinite(v) else "?" for v in means)


def sheet(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table without rules; `right` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in right else "left")
    return table


def show_record(record: Any) -> None:
    """One measured number, what it was measured with, and what it took."""
    name = record.protocol + (f":{record.variant}" if record.variant else "")
    gap, cost = record.optimism, record.compute["eval"]
    say(f"{name} of {record.method}: {record.headline} {record.metrics[record.headline]:.2f}", "bold")
    if record.selected:
        with_ = (f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in record.selected.items())
        say(f"  with {', '.join(with_)}")
    controls = [
        f"{k.split(', ', 1)[1]} {v:.2f}" for k, v in record.metrics.items() if k.startswith(f"{record.headline}, ")
    ]
    if controls:
        say(f"  the same on test items without something: {', '.join(controls)}")
    if gap:
        usual, more = gap["usual"], gap["usual"] - gap["honest"]
        say(f"  picking the best of {gap['candidates']} on the test images would print {usual:.2f} ({more:+.2f})")
    say(f"  {cost['seconds']:.1f} s, features {cost['feature_seconds']:.1f} s, on {cost['device']}")


class RunDisplay:
    """One pretraining: a bar with steps, images/s, loss and time left, or a line every few seconds."""

    def __init__(self, live: bool | None = None) -> None:
        self.live = console.is_terminal if live is None else live
        words = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "knn", "left")]
        self.progress = Progress(
            BarColumn(max(8, min(40, console.width - 66))), TextColumn("{task.completed}/{task.total}"), *words,
            console=console,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=None, rate="", loss="", knn="", left="") if self.live else None
        self.last_line, self.warned = 0.0, ""

    def __enter__(self) -> RunDisplay:
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.progress.stop()

    def __call__(self, state: dict[str, Any]) -> None:
        """An observation from the loop."""
        for remark in state.get("remarks", []):
            say(f"note: {remark}", "yellow")
        if "resumed" in state:
            at = f", going on at step {state['step']} of {state['steps']}" if state["resumed"] else ""
            say(f"pretraining {state['run']}{at}")
        loss = f"loss {state['loss']:.3f}" if "loss" in state else ""
        knn = f"k-NN {100 * state['knn']:.1f} %" if "knn" in state else ""
        rate = f"{state['images_per_second']:,.0f} images/s" if "images_per_second" in state else ""
        left = f"{clock(state['seconds_left'])} left" if "seconds_left" in state else ""
        if state.get("collapse") and not self.warned:
            say(f"warning: {state['run']} collapses: {state['collapse']}", "bold red")
        self.warned = state.get("collapse", self.warned)
        if "step" not in state:  # nothing was trained yet
            return
        if self.task is not None:
            self.progress.update(
                self.task, completed=state["step"], total=state["steps"], rate=rate, loss=loss, knn=knn, left=left
            )
        elif rate and (time.monotonic() - self.last_line > 5 or state["step"] == state["steps"]):
            self.last_line = time.monotonic()
            say(f"step {state['step']}/{state['steps']}  {rate}  {loss}  {knn}  {left}")


def counted(doing: str, names: Sequence[str]) -> Iterator[str]:
    """Every name in turn, with a bar and the time left; a line every few seconds where no person watches."""
    began = said = time.monotonic()
    columns = (TextColumn(f"{doing} {{task.description}}"), BarColumn(20), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not interactive()) as progress:
        task = progress.add_task("", total=len(names))
        for i, name in enumerate(names):
            now = time.monotonic()
            if not interactive() and now - said > 5:
                said, left = now, (now - began) / i * (len(names) - i)
                say(f"{doing} {name}, {i + 1} of {len(names)}, {clock(left)} left")
            progress.update(task, description=printable(name), completed=i)
            yield name
        progress.update(task, description="", completed=len(names))


PATIENCE = 10.0  # seconds without a word


def paced(doing: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Every item in turn; what takes longer than PATIENCE says how far it is and how long it will take, as often."""
    began = said = time.monotonic()
    for i, item in enumerate(items):
        now = time.monotonic()
        if i and now - said > PATIENCE:
            said = now
            say(f"{doing}: {i / total:.0%}, {clock((now - began) / i * max(total - i, 0))} left")
        yield item


def matrix(rows: list[dict[str, Any]], elapsed: float, left: float | None, height: int = 0) -> Group:
    """The live table of `compare`: a line per run, collapses in words, and the whole below; `height`: lines there are.

    Where not every run has a line, those at work and those that failed have.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "state", "steps", "images/s", "loss", "k-NN", "left"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=True)
    fallen = {row["label"]: why for row in rows if (why := _collapse(row["status"]))}
    lines = [f"{label} collapses: {why}" for label, why in fallen.items()][-3:]
    shown = _most_wanted(rows, (height or console.height) - 4 - 2 * len(lines))
    for row in shown:
        status, state, works = row["status"], row["state"], row["state"] == "pretraining"
        done = f"{status['step'] / status['steps']:.0%}" if status.get("steps") else ""
        style = {"done": "green", "waiting": "dim", "failed": "bold red"}.get(state, "")
        if row["label"] in fallen:
            state, style = f"{state} ⚠", "bold red"
        state = printable(f"{state} {row['doing']}" if row.get("doing") else state)
        cells = (
            f"{status['images_per_second']:,.0f}" if works and "images_per_second" in status else "",
            f"{status['loss']:.3f}" if "loss" in status else "",
            f"{100 * status['knn']:.1f} %" if "knn" in status else "",
            clock(status.get("seconds_left")) if works and "seconds_left" in status else "",
        )
        table.add_row(row["label"], state, done, *cells, style=style)
    finished = sum(row["state"] == "done" for row in rows)
    told = f"{finished} of {len(rows)} rows done, {clock(elapsed)} elapsed"
    told += "" if left is None else f", about {clock(left)} left"
    told += f"; {len(rows) - len(shown)} rows not shown" if len(shown) < len(rows) else ""
    return Group(table, *(Text(printable(f"⚠ {line}"), style="bold red") for line in lines), Text(told, style="italic"))


def _collapse(status: dict[str, Any]) -> str:
    return str(status.get("collapse") or status.get("collapse_reason") or "")


def _most_wanted(rows: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """As many rows as there is room for, in their order."""
    order = {"failed": 1, "waiting": 2, "done": 3}
    first = sorted(range(len(rows)), key=lambda i: order.get(rows[i]["state"], 0))[: max(room, 1)]
    return [rows[i] for i in sorted(first)]


@contextmanager
def live(enabled: bool) -> Iterator[Any]:
    """A function that redraws a renderable; does nothing when not on a terminal."""
    if not enabled:
        yield lambda _: None
        return
    with Live(console=console, refresh_per_second=4, transient=False) as view:
        yield view.update


def interactive() -> bool:
    """Whether a person watches."""
    return console.is_terminal and sys.stdout.isatty()
