"""What a table says by itself, in sentences: budgets, single seeds, collapses, and who falls short of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from results.records import Record
from results.rows import Column

if TYPE_CHECKING:
    from results.tables import Pair, Row


def falls_short(pairs: Sequence[Pair], means: Mapping[str, float], column: Column) -> list[str]:
    """Who has a worse mean than a reference, by which numbers, and whether it is certain."""
    out = []
    for reference in sorted({p.second for p in pairs}):
        said: dict[str, list[str]] = {}
        for p in pairs:
            mine, theirs = means[p.first], means[p.second]
            if p.second != reference or mine == theirs or (mine > theirs) == column.higher:
                continue
            certain = p.result.p_holm is not None and p.result.p_holm <= 0.05
            verdict = "" if certain else ", within the noise" if p.result.ranks else ", without a verdict (one seed)"
            said.setdefault(verdict, []).append(f"`{p.first}` ({mine:.1f})")
        for verdict, names in sorted(said.items()):
            verb = "falls" if len(names) == 1 else "fall"
            short = f"{verb} short of `{reference}` ({means[reference]:.1f})"
            out.append(f"In {column.label}, {', '.join(names)} {short}{verdict}.")
    return out


def budgets(rows: Sequence[Row]) -> list[str]:
    """Under which budget the table stands, or that its rows stand under different ones."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.budget:
            found.setdefault(row.budget, []).append(row.label)
    if not found:
        return []
    if len(found) == 1:
        return [f"Budget of every trained row: {next(iter(found))}."]
    text = "; ".join(f"{budget}: {', '.join(f'`{n}`' for n in names)}" for budget, names in sorted(found.items()))
    return [f"The rows stand under different budgets. {text}."]


def runs(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """Single seeds, collapsed runs, uncommitted code."""
    out = []
    single = [r.label for r in rows if r.method != "pixels" and any(c is not None and c.n == 1 for c in r.cells)]
    if single:
        names = ", ".join(f"`{n}`" for n in single)
        out.append(f"One run (n = 1): {names}. Intervals are over test images; one run neither leads nor ties.")
    out += [f"`{r.label}`: {r.collapsed} collapsed. The number is kept." for r in rows if r.collapsed]
    dirty = sum(bool(r.code["dirty"]) for r in records)
    if dirty:
        out.append(f"{dirty} of {len(records)} records were made by code with uncommitted changes.")
    return out


def optimism(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Per protocol, what choosing on the test images would have printed in place of what the table shows."""
    out = []
    for i, column in enumerate(columns):
        found = [
            (r.label, c.mean, c.optimism) for r in rows if (c := r.cells[i]) is not None and c.optimism is not None
        ]
        if found:
            gains = ", ".join(f"`{name}` {mean + gap:.1f} (+{gap:.1f})" for name, mean, gap in found)
            out.append(f"{column.label}: picking the best head on the test images would have printed {gains}.")
    return out
