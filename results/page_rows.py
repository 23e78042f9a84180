"""The rows of the page's table: short names, what each cell shows, and the bar below its number."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from results import cells, tables
from results.parts import Cell, Cost, Row, Table

SHORT = 24  # characters; longer names hide a chart on a phone


def shortened(table: Table) -> tuple[Table, dict[str, str]]:
    """The table with short names of rows, everywhere in it; and the settings that each of these names leaves out."""
    names = {r.label: (r.label, "") for r in table.rows}
    long = [r for r in table.rows if len(r.label) > SHORT and r.label.startswith(f"{r.method} ")]
    count, number = Counter(r.method for r in long), Counter[str]()
    for r in long:
        number[r.method] += 1
        alone = count[r.method] == 1 and r.method not in names
        short = r.method if alone else f"{r.method} #{number[r.method]}"
        names[r.label] = (short, r.label.removeprefix(r.method).strip())
    rows = tuple(replace(r, label=names[r.label][0]) for r in table.rows)
    pairs = tuple(replace(p, first=names[p.first][0], second=names[p.second][0]) for p in table.pairs)
    notes = list(table.notes)
    for label, (short, _) in names.items():
        notes = [n.replace(f"`{label}`", f"`{short}`") for n in notes]
    return replace(table, rows=rows, pairs=pairs, notes=tuple(notes)), dict(names.values())


def row(one: Row, table: Table) -> dict[str, Any]:
    found = [None if c is None else _cell(c, table, i) for i, c in enumerate(one.cells)]
    shown = cells.cost_names(table)
    spent = dict(zip(cells.COSTS, _cost_values(one.cost), strict=True))
    costs = list(zip(cells.costs(one.cost, shown), [spent[name] for name in shown], strict=True))
    return {"row": one, "cells": found, "costs": costs}


def _cost_values(cost: Cost) -> list[float | None]:
    return [cost.flops, cost.hours, cost.images_per_second, cost.peak_memory_bytes]


def _cell(cell: Cell, table: Table, i: int) -> dict[str, Any]:
    """Text, and the whisker in per cent of the column's range; intervals wider than the means' range are cut."""
    column = [c for r in table.rows if (c := r.cells[i]) is not None]
    means = [c.mean for c in column]
    wide = max(means) - min(means) or 1
    low = max(min(means) - wide, min(c.mean if c.low is None else c.low for c in column)) - 0.05 * wide
    high = min(max(means) + wide, max(c.mean if c.high is None else c.high for c in column)) + 0.05 * wide
    span = high - low

    def place(value: float) -> float:
        return round(min(100, max(0, 100 * (value - low) / span)), 1)

    ends = None if cell.low is None or cell.high is None else (place(cell.low), place(cell.high))
    return {
        "cell": cell,
        "text": cells.number(cell),
        "at": place(cell.mean),
        "ends": ends,
        "what": _about(cell, table, i),
    }


def _about(cell: Cell, table: Table, i: int) -> str:
    column, top = table.columns[i], tables.ceiling(table.rows, i)
    seeds = ", ".join(f"{v:.2f}" for v in cell.values)
    text = f"{column.label}: seeds {seeds}"
    if cell.normalised is not None and top is not None:
        text += f"; {100 * cell.normalised:.0f} % of the way from the largest class ({column.chance:.1f}) to {top[0]}"
    if cell.optimism is not None:
        text += f"; picking the best candidate on the test images would have added {cell.optimism:.2f} points"
    return text
