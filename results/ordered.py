"""The picture of a column: methods from the best mean down with their intervals, references as lines, what may be the
best shaded."""

from __future__ import annotations

from typing import Any

import altair as alt

from results import answer
from results.cells import clean
from results.charts import GREY, PALETTE, Chart, Rows, scale_of, unit_of
from results.parts import Cell, Row, Table

SHADE = "#228833"
LINE = 13  # pixels of a line of small text


def ordered_charts(table: Table) -> dict[str, Chart]:
    """One for every column that ranks and holds a method, the answering one first."""
    first = answer.column(table)
    places = sorted((i for i, c in enumerate(table.columns) if c.ranks), key=lambda i: i != first)
    return {table.columns[i].label: ordered_chart(table, i) for i in places if answer.methods(table, i)}


def ordered_chart(table: Table, i: int) -> Chart:
    """Column i. The numbers stand beside the names: a picture is read on paper too."""
    column = table.columns[i]
    rows = [_values(r, c) for r, c in answer.methods(table, i)]
    lines = [_values(r, c) for r in table.rows if r.reference and (c := r.cells[i]) is not None]
    scale = scale_of([*rows, *lines])
    x = alt.X("mean:Q", scale=scale, title=unit_of(column) + ("" if column.higher else ", lower is better"))
    y = alt.Y(
        "shown:N",
        sort=[r["shown"] for r in rows],
        title=None,
        axis=alt.Axis(labelLimit=190, labelFontSize=12, ticks=False),
    )
    tips = ["label:N", *[alt.Tooltip(f"{name}:Q", format=".1f") for name in ("mean", "low", "high")], "n:Q"]

    base = alt.Chart(alt.InlineData(values=rows)).encode(y=y)
    layers = [
        _where(rows, "leading", True).encode(y=y).mark_bar(color=SHADE, opacity=0.22, height={"band": 0.94}).encode(
            x=alt.value(0), x2=alt.value("width")
        ),
        *_reference_lines(lines, x, scale),
        base.mark_rule(clip=True, strokeWidth=2, color=PALETTE[0]).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
        *[
            _where(rows, "several", several).encode(x=x, y=y, tooltip=tips)
            .mark_point(size=80, opacity=1, color=PALETTE[0], filled=several)
            for several in (True, False)
        ],
        _where(rows, "collapsed", True).encode(y=y).mark_point(size=320, color="#d33", shape="circle").encode(x=x),
    ]  # fmt: skip
    drawn = alt.layer(*[layer for layer in layers if layer.data.values])
    about = f"{unit_of(column)} of the methods in order, {clean(column.label)}"
    return drawn.properties(width="container", height=30 + 20 * len(rows), description=about)


def reading(table: Table, i: int) -> str:
    """What the marks of the picture mean, of those that are in it."""
    found = [c for _, c in answer.methods(table, i)]
    said = ["Means with their 95 % intervals."]
    said += ["Shaded: may be the best (95 %)."] if any(c.leading for c in found) else []
    said += ["Dashed lines: references."] if any(r.reference and r.cells[i] for r in table.rows) else []
    said += ["~: not told from random."] if any(c.unclear for c in found) else []
    said += ["Hollow: one run, over test images alone, not ranked."] if any(c.n < 2 for c in found) else []
    said += ["Red ring: collapsed runs in the mean."] if any(c.collapsed for c in found) else []
    return " ".join(said)


def _values(row: Row, cell: Cell) -> dict[str, Any]:
    low, high = (cell.mean, cell.mean) if cell.low is None or cell.high is None else (cell.low, cell.high)
    label = clean(row.label)
    return {
        "label": label, "shown": f"{label}{' ~' * cell.unclear}  {cell.mean:.1f}", "mean": cell.mean, "low": low,
        "high": high, "n": cell.n, "leading": cell.leading, "several": cell.n > 1, "collapsed": bool(cell.collapsed),
    }  # fmt: skip


def _where(rows: Rows, name: str, value: bool) -> Chart:
    return alt.Chart(alt.InlineData(values=[r for r in rows if r[name] == value]))


def _reference_lines(lines: Rows, x: alt.X, scale: alt.Scale) -> list[Chart]:
    """Their names stand above the frame, each on a line of its own: two references may lie close together."""
    out: list[Chart] = []
    low, high = scale.domain
    for k, line in enumerate(sorted(lines, key=lambda r: r["mean"])):
        base = alt.Chart(alt.InlineData(values=[{**line, "name": f"{line['label']} {line['mean']:.1f}"}])).encode(x=x)
        place = (line["mean"] - low) / (high - low)
        align: Any = "left" if place < 0.3 else "right" if place > 0.7 else "center"  # inside the frame on a phone too
        dx = {"left": -3, "right": 3, "center": 0}[align]
        named = base.mark_text(color=GREY, fontSize=11, align=align, dx=dx, dy=-7 - LINE * k)
        out += [base.mark_rule(color=GREY, strokeDash=[5, 3]), named.encode(y=alt.value(0), text="name:N")]
    return out
