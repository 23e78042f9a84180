"""What is known of one run, for people: its state, its numbers with their intervals, its cost, what was changed."""

from __future__ import annotations

from pathlib import Path

from results import cells, sets, tables
from results.parts import Cell, Table
from results.records import Record, read
from results.rows import budget
from ssl_bench import find
from ssl_bench.config import reasons
from ssl_bench.config.schema import BUDGETS, Config
from ssl_bench.errors import UserError
from ssl_bench.screen import clock, quantity
from ssl_bench.training.run_folder import Run, busy


def scores(run: Run, root: Path) -> list[tuple[str, str, str]]:
    """(protocol and metric, this run's number, its row's in the table that `report` prints, or "" of one seed)."""
    folder = root / "records"
    records = sets.one_name(read(folder)) if folder.is_dir() else []
    mine = [r for r in records if r.run == run.name]
    if not mine:
        return []
    row: dict[str, tuple[str, Cell]] = {}
    for part in sets.by_title(records).values():
        row |= _cells(tables.build(part), mine) if any(r.run == run.name for r in part) else {}
    return [
        (name, cells.number(cell), cells.number(row[key][1]) if key in row and row[key][1].n > 1 else "")
        for key, (name, cell) in _cells(tables.build(mine), mine).items()
    ]


def _cells(table: Table, mine: list[Record]) -> dict[str, tuple[str, Cell]]:
    """Column -> its name and the cell of the row that has these records; {} where newer ones have replaced them."""
    ids = {r.id for r in mine}
    row = next((row for row in table.rows if any(c is not None and ids & set(c.records) for c in row.cells)), None)
    return {
        column.key: (name, cell)
        for column, name, cell in zip(table.columns, cells.headers(table)[1:], row.cells if row else (), strict=False)
        if cell is not None
    }


def cost(run: Run) -> list[tuple[str, str]]:
    """Budget and what it took, as label and sentence; only what the run has written so far."""
    config, spent = run.config(), run.compute()
    asked = [("budget", budget({"budget": vars(config.budget)}))]
    if not spent:
        return asked
    images = spent["images"]
    return [
        *asked,
        ("training", f"{spent['steps']:,} steps, {images:,} images, {quantity(spent['flops'], 'FLOP')}"),
        ("took", f"{clock(spent['seconds'])} on {spent['device']}, {spent['images_per_second']:.0f} images/s"),
        ("memory", f"{quantity(spent['peak_memory_bytes'], 'B')} at most"),
    ]


def state(run: Run) -> str:
    """finished, interrupted, failed, running, died (killed without a word) or not started; with the step.

    Where the status is lost, an encoder says that the run had finished.
    """
    status = run.status()
    found = status.get("state") or ("finished" if (run.folder / "encoder.safetensors").exists() else "not started")
    if found == "running" and not busy(run):
        found = "died"
    at = f" at step {status['step']:,} of {status['steps']:,}" if status.get("steps") and found != "finished" else ""
    return found + at


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def changed(config: Config) -> list[str]:
    """The settings in which a run differs from its recipe, as they were typed."""
    try:
        plain = find.recipe(config.method, config.recipe)()
    except UserError:  # a recipe of an earlier version
        return []
    before = {key: value for key, value, _ in reasons.explain(plain, None)}
    now = [(key, value) for key, value, _ in reasons.explain(config, None) if not key.startswith("run.")]
    given = [(k, v) for k, v in now if v != before.get(k) and k not in ("recipe", "seed", "method_version")]
    kinds = {f"budget.{kind}" for kind in BUDGETS}  # the kind that is asked for takes the place of the recipe's
    return [f"{k}={v}" for k, v in given if k not in kinds or float(v)]
