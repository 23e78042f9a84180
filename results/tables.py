"""The table: a pure function of records. Shuffled records give the same one, to the byte.

Rows are method x recipe (overrides and whatever else differs in the label), columns are protocol x data set. A cell is
the mean over pretraining seeds with its 95 % interval and n. `random`, `pixels` and `supervised` stand apart. Where the
test classes are unbalanced, balanced accuracy has a column beside accuracy, and always answering the largest class
(`majority`) has a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from results import notes, unbalanced
from results import rows as grouping
from results.parts import MAJORITY, REFERENCES, Cell, Column, Cost, Pair, Row, Table
from results.records import Record, unique
from results.rows import Group
from results.statistics import best_and_tied, compare_with, interval


def build(records: Iterable[Record], published: Sequence[dict[str, Any]] = ()) -> Table:
    """The table of any records, in any order. `published` numbers ride along and enter no statistics."""
    found = unique(records)
    kept = grouping.newest(found)
    shown = [*kept, *unbalanced.balanced(kept)]
    columns = grouping.columns(shown)
    rows = sorted((_row(group, columns) for group in grouping.groups(shown)), key=_place)
    pairs: list[Pair] = []
    said: list[str] = []
    for i in range(len(columns)):
        rows, judged, sentences = _judge(rows, columns, i)
        pairs += judged
        said += sentences
    for name in REFERENCES:
        if rows and not any(r.method == name for r in rows):
            rows.append(Row(name, name, "", (), "", Cost(), (None,) * len(columns), ""))
            said.append(f"`{name}` was not measured.")
    if largest := _majority(shown, columns):
        said += notes.majority(rows, columns, largest)
        rows.append(largest)
    rows = sorted(rows, key=_place)
    named = {i: row.label for row in rows for c in row.cells if c is not None for i in c.records}
    said = [*notes.budgets(rows), *notes.runs(rows, kept), *notes.code(kept, named), *said]
    said += [*notes.optimism(rows, columns), *notes.repeats(found)]
    said += [*notes.own_scorers(columns, kept), *notes.labels_seen(rows)]
    return Table(tuple(columns), tuple(rows), tuple(said), tuple(pairs), tuple(published))


def _place(row: Row) -> tuple[int, str]:
    known = (*REFERENCES, MAJORITY)
    apart = row.method if row.method in known else "supervised"  # another that saw labels
    return (1 + known.index(apart) if row.reference else 0, row.label)


def _majority(records: Sequence[Record], columns: Sequence[Column]) -> Row | None:
    """What needs no encoder, where some test classes are much larger than others."""
    found = [unbalanced.majority([r for r in records if grouping.column_key(r) == c.key]) for c in columns]
    cells = tuple(None if v is None else Cell(v, None, None, 0, "none", (), {}, collapsed=0) for v in found)
    return Row(MAJORITY, MAJORITY, "", (), "", Cost(), cells, "") if any(cells) else None


def _row(group: Group, columns: Sequence[Column]) -> Row:
    runs = {r.run or r.id: r for r in group.records}
    bad = sum(bool(r.collapse["flag"]) for r in runs.values())
    cells = [_cell([r for r in group.records if grouping.column_key(r) == c.key]) for c in columns]
    return Row(
        *(group.label, group.method, group.recipe, group.overrides, grouping.budget(group.config)),
        *(grouping.cost(group.records), tuple(cells), f"{bad} of {len(runs)} runs" if bad else "", group.labels_seen),
    )


def _cell(records: Sequence[Record]) -> Cell | None:
    if not records:
        return None
    sample, spread, units = grouping.sample(records)
    found = interval(sample)
    usual = [r.optimism["usual"] - r.optimism["honest"] for r in records if r.optimism]
    return Cell(
        *(found.mean, found.low, found.high, sample.n, found.over, tuple(map(float, sample.values)), spread),
        collapsed=sum(bool(r.collapse["flag"]) for r in units),
        optimism=float(np.mean(usual)) if usual else None,
        records=tuple(r.id for r in records),
        sample=sample,
    )


def _judge(rows: list[Row], columns: Sequence[Column], i: int) -> tuple[list[Row], list[Pair], list[str]]:
    """Mark the best and the tied of column i, normalise, and compare every row with the references."""
    column = columns[i]
    samples = {r.label: c.sample for r in rows if (c := r.cells[i]) is not None and c.sample is not None}
    methods = {r.label: samples[r.label] for r in rows if not r.reference and r.label in samples}
    best, tied, compared = best_and_tied(methods, column.higher) if column.ranks else (None, set(), {})
    pairs = [Pair(column.label, a, b, result) for (a, b), result in compared.items()]
    tops = [c.mean for r in rows if r.method == "supervised" and (c := r.cells[i]) is not None]
    out = []
    for row in rows:
        if (cell := row.cells[i]) is not None:
            cell = replace(
                cell, best=row.label == best, tied=row.label in tied, normalised=_normalised(cell.mean, column, tops)
            )
        out.append(replace(row, cells=(*row.cells[:i], cell, *row.cells[i + 1 :])))
    if not column.ranks:
        return out, pairs, []
    floors = {r.label: samples[r.label] for r in rows if r.method in ("random", "pixels") and r.label in samples}
    against = compare_with(methods, floors)
    found = [Pair(column.label, a, b, result) for (a, b), result in against.items()]
    means = {r.label: c.mean for r in rows if (c := r.cells[i]) is not None}
    return out, pairs + found, notes.against(found, means, column)


def _normalised(mean: float, column: Column, tops: Sequence[float]) -> float | None:
    if not tops or column.chance is None or max(tops) <= column.chance:
        return None
    return (mean - column.chance) / (max(tops) - column.chance)
