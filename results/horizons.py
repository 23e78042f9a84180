"""The page's chart of worlds: how far off what an encoder's dynamics foretell is, the further they look ahead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from results.cells import clean
from results.charts import GREY, Chart, Rows, marks, methods, pick_one
from results.parts import Table
from results.records import Record

STILL = "standing still"


def horizon_charts(table: Table, records: Sequence[Record]) -> dict[str, Chart]:
    """One chart per column of the protocol `rollout`: a line per row, the mean of its records, by steps ahead."""
    known = {r.id: r for r in records if r.protocol == "rollout"}
    out = {}
    for i, column in enumerate(table.columns):
        rows: Rows = []
        still: list[dict[int, float]] = []
        for row in table.rows:
            cell = row.cells[i]
            mine = [known[name] for name in cell.records if name in known] if cell is not None else []
            ways = [(by_steps(r, ""), by_steps(r, "_copy"), by_steps(r, "_seen")) for r in mine]
            still += [copied for _, copied, _ in ways]
            for steps in sorted(ways[0][0]) if ways else ():
                values = [found[steps] for found, _, _ in ways]
                told = {"label": clean(row.label), "steps": steps, "units": _mean(values), "n": len(mine)}
                floors = [found[steps] for _, _, found in ways if steps in found]
                rows.append(told | {"low": min(values), "high": max(values), "seen": _mean(floors) if floors else None})
        if rows:
            out[column.label] = _chart(rows, _copied(still), table)
    return out


def by_steps(record: Record, way: str) -> dict[int, float]:
    """Units of a way to foretell ("", "_copy", ...) by steps ahead."""
    found = {name: re.fullmatch(rf"px(\d+){way}", name) for name in record.metrics}
    return {int(match[1]): record.metrics[name] for name, match in found.items() if match}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _copied(still: Sequence[dict[int, float]]) -> Rows:
    """The mean of all rows: each reads the place with a probe of its own."""
    known = sorted({steps for s in still for steps in s})
    return [{"name": STILL, "steps": k, "units": _mean([s[k] for s in still if k in s])} for k in known]


def _chart(rows: Rows, still: Rows, table: Table) -> dict[str, Any]:
    others = [r.label for r in table.rows if r.reference]
    color, shape = marks([*methods(table), *others], rows)
    x = alt.X("steps:Q", title="steps ahead", scale=alt.Scale(domainMin=0), axis=alt.Axis(tickMinStep=5))
    y = alt.Y("units:Q", title="units off, of a probe's reading")
    pick = pick_one()
    seen = alt.condition(pick, alt.value(0.95), alt.value(0.1))
    tips: list[Any] = ["label:N", "steps:Q", alt.Tooltip("units:Q", format=".1f"), alt.Tooltip("low:Q", format=".1f")]
    tips += [alt.Tooltip("high:Q", format=".1f"), "n:Q"]
    tips += [alt.Tooltip("seen:Q", format=".1f", title="of the true frame")]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, y=y, color=color, opacity=seen, tooltip=tips)
    lines, points = base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=60).encode(shape=shape)
    layers = [lines.add_params(pick), points]
    if still:
        copied = alt.Chart(alt.InlineData(values=still)).encode(x=x, y=y)
        last = alt.Chart(alt.InlineData(values=still[-1:])).encode(x=x, y=y, text="name:N")
        layers += [copied.mark_line(color=GREY, strokeDash=[6, 3])]
        layers += [last.mark_text(color=GREY, align="right", dy=-8, fontSize=11)]
    told = f"Error of what is foretold against steps ahead, {len({r['label'] for r in rows})} rows"
    spec: dict[str, Any] = alt.layer(*layers).properties(width="container", height=260, description=told).to_dict()
    return spec
