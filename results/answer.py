"""What a table says first: one sentence on one of its columns, whatever the rows are: ties, single seeds, collapses.

A sentence holds what the tests of the column hold and no more: "the best" is for a method that no other may surpass
(95 %), "may be the best" for those that no other is surely better than, "surely better" for Holm's 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence

from results.parts import Cell, Column, Row, Table
from results.statistics import LEVEL

FIRST = ("linear", "knn")  # of columns that as many methods have; what the field reads first
NAMED = 3  # more rows than these are counted and not named: the picture has their names
HOW = {True: "surely better than", False: "surely worse than", None: "not told from"}
Found = list[tuple[Row, Cell]]


def column(table: Table) -> int | None:
    """Of the columns that rank, the one that most methods have with several seeds, or at all where none has several.

    No number is looked at.
    """
    places = [i for i, c in enumerate(table.columns) if c.ranks]
    counts = {i: [c.n > 1 for _, c in methods(table, i)] for i in places}
    several = any(True in found for found in counts.values())

    def first(i: int) -> tuple[int, int, int, str]:
        c = table.columns[i]
        usual = FIRST.index(c.protocol) if c.protocol in FIRST else len(FIRST)
        return -(sum(counts[i]) if several else len(counts[i])), usual, -c.version, c.label

    return min(places, key=first, default=None)


def methods(table: Table, i: int) -> Found:
    """The rows of column i that are compared, the best mean first."""
    found = [(r, c) for r in table.rows if not r.reference and (c := r.cells[i]) is not None]
    sign = -1 if table.columns[i].higher else 1
    return sorted(found, key=lambda f: (sign * f[1].mean, f[0].label))


def sentence(table: Table, i: int) -> str:
    """On column i; names in backticks."""
    found, by = methods(table, i), f"by {title(table.columns[i])}"
    able = [(r, c) for r, c in found if c.n > 1]
    if not found:
        return f"No method was measured {by}."
    if not able:
        names = "the method has" if len(found) == 1 else f"each of the {len(found)} methods has"
        fixed = all(c.sample and c.sample.fixed for _, c in found)  # others' networks: there is no other seed
        said = [f"One {'run' if fixed else 'seed'} ranks nothing: {by}, {names} one run"]
        said += [] if fixed else ["`--seeds 3` trains two more"]
    elif len(able) == 1:
        row, cell = able[0]
        said = [f"One method alone ranks nothing: `{row.label}` {by} ({value(cell)}) is {_stands(table, i, row, cell)}"]
    else:
        said = _ranked(table, i, by, able)
    if able and (one := len(found) - len(able)):
        said.append(f"{one} with one seed {'is' if one == 1 else 'are'} not ranked")
    bad = [f"`{r.label}` ({c.collapsed} of {c.n})" for r, c in found if c.collapsed]
    if bad:
        said.append(f"collapsed runs are in the mean of {_listed(bad, 'methods')}")
    return "; ".join(said) + "."


def title(column: Column) -> str:
    return column.label if column.headline == "top1" else f"{column.label} ({column.headline})"


def value(cell: Cell) -> str:
    return f"{cell.mean:.1f}" if cell.high is None else f"{cell.mean:.1f} ± {cell.high - cell.mean:.1f}"


def _ranked(table: Table, i: int, by: str, able: Found) -> list[str]:
    """Who leads, who may, and how that stands to the untrained network and the raw input."""
    best, top = next((r, c) for r, c in able if c.best)
    others = [(r, c) for r, c in able if c.leading and not c.best]
    count = f"{len(able)} {'methods' if len({r.method for r, _ in able}) == len(able) else 'rows'}"
    raw = [(name, mean) for name, mean, told in _raw(table, i) if all(told.get(r.label) is False for r, _ in able)]
    short = [f"all {len(able)} are surely worse than `{name}` ({mean:.1f})" for name, mean in raw]
    if any(c.above for _, c in able) and not any(c.above and all(c.above) for _, c in able):
        start = f"No method is surely better than {_random(table, i, best)} {by}"
        return [f"{start}: the best mean of {count} is {value(top)} (`{best.label}`)", *short]
    if not others:
        lead = f"`{best.label}` is the best of {count} {by} ({value(top)})"
        return [f"{lead}, {_stands(table, i, best, top, bool(short))}", *short]
    may = f"{_listed([f'`{r.label}`' for r, _ in others], 'others')} may be the best as well{_unsure(others)}"
    lead = f"`{best.label}` has the best mean of {count} {by} ({value(top)}), but {may}"
    return [lead, f"`{best.label}` is {_stands(table, i, best, top, bool(short))}", *short]


def _stands(table: Table, i: int, row: Row, cell: Cell, short: bool = False) -> str:
    """How a row stands to its network untrained and to the raw input, unless `short` says that of all."""
    said: dict[str, list[str]] = {}
    if cell.above:
        surely = True if all(cell.above) else None if None in cell.above else False
        said[HOW[surely]] = [_random(table, i, row)]
    else:
        said["not compared with an untrained network"] = ["(no `random` with several seeds)"]
    for name, mean, told in [] if short else _raw(table, i):
        if row.label in told:
            said.setdefault(HOW[told[row.label]], []).append(f"`{name}` ({mean:.1f})")
    return " and ".join(f"{how} {(' or ' if how == HOW[None] else ' and ').join(names)}" for how, names in said.items())


def _random(table: Table, i: int, row: Row) -> str:
    """The row's own network untrained, with its number where there is one such row."""
    found = [(r, c) for r in table.rows if r.method == "random" and (c := r.cells[i]) is not None and c.n > 1]
    own = [(r, c) for r, c in found if r.network == row.network] or found
    return f"`{own[0][0].label}` ({own[0][1].mean:.1f})" if len(own) == 1 else "`random`"


def _raw(table: Table, i: int) -> list[tuple[str, float, dict[str, bool | None]]]:
    """Per row of raw input its mean, and which rows are surely better (True) or worse, or not told from it (None)."""
    column, out = table.columns[i], []
    for floor in table.rows:
        if floor.method == "pixels" and (cell := floor.cells[i]) is not None:
            pairs = [p for p in table.pairs if (p.column, p.second) == (column.label, floor.label) and p.result.ranks]
            sure = {p.first: p.result.p_holm is not None and p.result.p_holm <= 1 - LEVEL for p in pairs}
            above = {p.first: (p.result.difference > 0) == column.higher for p in pairs}
            out.append((floor.label, cell.mean, {name: above[name] if sure[name] else None for name in sure}))
    return out


def _unsure(found: Found) -> str:
    """Which of those that may be the best are not surely better than their network untrained."""
    low = [f"`{r.label}`" for r, c in found if c.above and not all(c.above)]
    if not low:
        return ""
    who = f"{_listed(low, 'of these')} not" if len(low) < len(found) else "not" if len(found) == 1 else "none"
    return f" ({who} surely better than `random`)"


def _listed(names: Sequence[str], many: str) -> str:
    """A few by name, more by their number."""
    if len(names) > NAMED:
        return f"{len(names)} {many}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
