"""The table: a pure function of records. Shuffled records give the same one, to the byte.

Rows are method x recipe (overrides and whatever else differs in the label), columns are protocol x data set. A cell is
the mean over pretraining seeds with its 95 % interval and n. `random`, `pixels` and `supervised` stand apart. Where the
test classes are unbalanced, balanced accuracy has a column beside accuracy, and always answering the largest class
(`majority`) has a row. What `beside` names has columns of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from results import beside, by_image, costs, notes, other_code, samples, unbalanced
from results import rows as grouping
from results.parts import MAJORITY, RAW, REFERENCES, Cell, Column, Cost, Pair, Row, Table
from results.records import Record, unique
from results.rows import Group
from results.sets import compared
from results.statistics import LEVEL, Comparison, candidates, compare_all, compare_with, interval, share


def build(records: Iterable[Record], published: Sequence[dict[str, Any]] = ()) -> Table:
    """The table of any records, in any order. `published` numbers ride along and enter no statistics."""
    found, left = compared(unique(records))
    kept = grouping.newest(found)
    shown = [*kept, *unbalanced.balanced(kept), *beside.columns(kept)]
    columns = grouping.columns(shown)
    groups = grouping.groups(shown)
    rows = sorted((_row(group, columns) for group in groups), key=_place)
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
        said += [*notes.one_class(kept), *notes.majority(rows, columns, largest)]
        rows.append(largest)
    rows, mixed = costs.side_by_side(sorted(rows, key=_place))
    named = {i: row.label for row in rows for c in row.cells if c is not None for i in c.records}
    said = [
        *notes.budgets(rows), *notes.other_names(kept), *mixed, *notes.runs(rows, kept),
        *other_code.differing(kept, named), *notes.footnotes(groups),
        *notes.seeds_alone(rows, columns), *said, *by_image.notes(groups, columns), *notes.optimism(rows, columns),
        *notes.repeats(found),
        *notes.own_scorers(columns, kept), *notes.labels_seen(rows), *notes.without_encoder(columns, kept),
        *notes.left_out(left, [*found, *left]),
    ]  # fmt: skip
    return Table(tuple(columns), tuple(rows), tuple(said), tuple(pairs), tuple(published))


def _place(row: Row) -> tuple[int, str]:
    known = (*dict.fromkeys((*REFERENCES, *RAW)), MAJORITY)
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
        *(costs.cost(group.records), tuple(cells), f"{bad} of {len(runs)} runs" if bad else "", group.labels_seen),
        *(grouping.network(group.config), grouping.trained_as(group)),
    )


def _cell(records: Sequence[Record]) -> Cell | None:
    if not records:
        return None
    sample, spread, units = samples.sample(records)
    found = interval(sample)  # `_judge` gives it what the rows of the column know together
    usual = [r.optimism["usual"] - r.optimism["honest"] for r in records if r.optimism]
    return Cell(
        *(found.mean, found.low, found.high, sample.n, found.over, tuple(map(float, sample.values)), spread),
        collapsed=sum(bool(r.collapse["flag"]) for r in units),
        optimism=float(np.mean(usual)) if usual else None,
        records=tuple(r.id for r in records),
        sample=sample,
    )


def _judge(rows: list[Row], columns: Sequence[Column], i: int) -> tuple[list[Row], list[Pair], list[str]]:
    """Intervals and marks of column i, every pair of methods, and every method with every reference."""
    column = columns[i]
    samples = {r.label: c.sample for r in rows if (c := r.cells[i]) is not None and c.sample is not None}
    shared = share(samples.values())
    methods = {r.label: samples[r.label] for r in rows if not r.reference and r.label in samples}
    compared = compare_all(methods, shared) if column.ranks else {}
    best, leading = candidates(methods, compared, column.higher) if column.ranks else (None, set())
    floors = {r.label: samples[r.label] for r in rows if r.method in ("random", "pixels") and r.label in samples}
    against = {name: compare_with(methods, floor, shared) for name, floor in floors.items()} if column.ranks else {}
    top = ceiling(rows, i)
    out = []
    for row in rows:
        if (cell := row.cells[i]) is not None and cell.sample is not None:
            found, untrained = interval(cell.sample, shared), _untrained(row, rows, against)
            above = [_above(c, column.higher) for c in untrained]
            cell = replace(
                cell, low=found.low, high=found.high, best=row.label == best,
                bold=row.label in leading and bool(above) and all(a is True for a in above),
                unclear=not row.reference and any(a is None for a in above),
                leading=row.label in leading, above=tuple(above),
                normalised=_normalised(cell.mean, column, top[1] if top else None),
            )  # fmt: skip
        out.append(replace(row, cells=(*row.cells[:i], cell, *row.cells[i + 1 :])))
    pairs = [Pair(column.label, a, b, result) for (a, b), result in compared.items()]
    pairs += [Pair(column.label, a, floor, c) for floor, found in against.items() for a, c in found.items()]
    means = {r.label: c.mean for r in rows if (c := r.cells[i]) is not None}
    said = notes.against([p for p in pairs if p.second in floors], means, column) if column.ranks else []
    if leading and not any(_untrained(r, rows, against) for r in rows if r.label in leading):
        said.append(f"In {column.label}, nothing is bold: `random` was not measured with several seeds.")
    return out, pairs, said


def _untrained(row: Row, rows: Sequence[Row], against: dict[str, dict[str, Comparison]]) -> list[Comparison]:
    """The comparisons of a row with its own network untrained; where that was not measured, with every `random`."""
    found = [r for r in rows if r.method == "random" and row.label in against.get(r.label, {})]
    own = [r for r in found if r.network == row.network] or found
    return [c for r in own if (c := against[r.label][row.label]).ranks]


def _above(c: Comparison, higher: bool) -> bool | None:
    """Whether it surely is, or None where the two cannot be told apart."""
    return (c.difference > 0) == higher if c.p_holm is not None and c.p_holm <= 1 - LEVEL else None


def ceiling(rows: Sequence[Row], i: int) -> tuple[str, float] | None:
    """The best `supervised` row of column i: its label and mean."""
    tops = [(c.mean, r.label) for r in rows if r.method == "supervised" and (c := r.cells[i]) is not None]
    return (max(tops)[1], max(tops)[0]) if tops else None


def _normalised(mean: float, column: Column, top: float | None) -> float | None:
    if top is None or column.chance is None or top <= column.chance:
        return None
    return (mean - column.chance) / (top - column.chance)
