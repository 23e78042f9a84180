"""Charts of the page, also written as PNG or SVG on request. Altair specs with data inline; colours of the page's
theme are set where they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from results import across
from results.cells import clean
from results.parts import LABEL_FREE, Column, Cost, Table
from results.records import Record
from results.rows import column_key, newest

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccaa22", "#22aacc", "#aa3377", "#ee8833", "#7766dd")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
GREY = "#8a8f98"
LEGEND = alt.Legend(title=None, orient="bottom", symbolLimit=40, labelLimit=180)
TILTED = 4  # more names of protocols than these do not fit side by side on a phone
Rows = list[dict[str, Any]]
Chart = Any  # Altair's own types change between `layer` and `properties`


def marks(labels: Sequence[str], rows: Rows | None = None) -> tuple[alt.Color, alt.Shape]:
    """The same colour and shape for a method in every chart; more than eight methods differ by shape too.

    With `rows` the legend names only what they hold.
    """
    names = [clean(n) for n in labels]
    legend = LEGEND
    if rows is not None:
        drawn = {r["label"] for r in rows}
        legend = alt.Legend(**LEGEND.to_dict(), values=[n for n in names if n in drawn])
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    shapes = [SHAPES[(i // len(PALETTE) + i % len(PALETTE)) % len(SHAPES)] for i in range(len(names))]
    return (
        alt.Color("label:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        alt.Shape("label:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
    )


def methods(table: Table) -> list[str]:
    return [r.label for r in table.rows if not r.reference]


def compute_charts(table: Table) -> dict[str, Chart]:
    """Accuracy against what a run took, one chart per protocol: the Pareto front, references as lines.

    None where there is nothing to see: fewer than two methods, or the same FLOPs for all and no times side by side.
    """
    out: dict[str, Chart] = {}
    axis = spent(table)
    for i, column in enumerate(table.columns):
        rows: Rows = []
        lines: Rows = []
        for r in table.rows:
            if (cell := r.cells[i]) is None:
                continue
            low, high = (cell.mean, cell.mean) if cell.low is None or cell.high is None else (cell.low, cell.high)
            row = {"label": clean(r.label), "mean": cell.mean, "low": low, "high": high, "n": cell.n}
            if r.reference:
                lines.append(row)
            elif axis and (cost := COSTS[axis](r.cost)):
                state = "collapsed runs" if cell.collapsed else "trained"
                rows.append({**row, "cost": cost, "state": state, "front": False})
        if column.ranks and len(rows) > 1:
            _front(rows, column.higher)
            out[column.label] = _compute_chart(rows, lines, column, methods(table), axis)
    return out


COSTS: dict[str, Callable[[Cost], float | None]] = {
    "training FLOPs": lambda c: c.flops,
    "seconds of a run": lambda c: c.hours and 3600 * c.hours,
}


def spent(table: Table) -> str:
    """The axis on which the methods differ: FLOPs, or time where all spent the same; "" where neither tells them apart.

    Times stand in a table only if they are of one machine.
    """
    for name, of in COSTS.items():
        found = [of(r.cost) for r in table.rows if not r.reference and any(r.cells)]
        known = [v for v in found if v]
        if len(known) > 1 and max(known) >= 1.1 * min(known):
            return name
    return ""


def equal_flops(table: Table) -> float | None:
    """What each of several methods spent, where that was the same."""
    found = [r.cost.flops for r in table.rows if not r.reference and r.cost.flops]
    return found[0] if len(found) > 1 and max(found) < 1.1 * min(found) else None


def unit_of(column: Column) -> str:
    """The title of an axis that holds a column's numbers."""
    return "accuracy (%)" if column.headline in ("top1", "accuracy") else column.headline


def _part(rows: Rows, name: str, value: Any) -> Chart:
    return alt.Chart(alt.InlineData(values=[r for r in rows if r[name] == value]))


def _ring(chart: Chart) -> list[Chart]:
    """A red ring around collapsed runs; no layer where there are none."""
    return [chart.mark_point(size=320, color="#d33", shape="circle")] if chart.data.values else []


def _front(rows: Rows, higher: bool) -> None:
    """Mark the rows that no cheaper row beats."""
    best = -np.inf
    for row in sorted(rows, key=lambda r: (r["cost"], -r["mean"] if higher else r["mean"])):
        score = row["mean"] if higher else -row["mean"]
        row["front"] = bool(score > best)
        best = max(best, score)


def scale_of(rows: Rows) -> alt.Scale:
    """The range of the means and their intervals; intervals of two seeds may be huge and are shown up to one span."""
    means = [r["mean"] for r in rows]
    span = max(means) - min(means) or 10
    low = max(min(r["low"] for r in rows), min(means) - span, 0)
    high = min(max(r["high"] for r in rows), max(means) + span)
    return alt.Scale(domain=[max(0, low - 0.05 * span), high + 0.05 * span], nice=False, zero=False)


def _compute_chart(rows: Rows, lines: Rows, column: Column, names: Sequence[str], axis: str) -> Chart:
    unit, label, scale = unit_of(column), clean(column.label), scale_of(rows + lines)
    y = alt.Y("mean:Q", scale=scale, title=unit)
    x = alt.X(
        "cost:Q",
        title=axis,
        scale=alt.Scale(type="log", padding=30, nice=False),
        axis=alt.Axis(format=".0e" if axis == "training FLOPs" else ",.3~r", tickCount=4),
    )
    color, shape = marks(names, rows)
    tips = ["label:N", alt.Tooltip("mean:Q", format=".1f"), alt.Tooltip("low:Q", format=".1f")]
    tips += [alt.Tooltip("high:Q", format=".1f"), "n:Q", alt.Tooltip("cost:Q", format=".3g", title=axis), "state:N"]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x)
    front = _part(rows, "front", True).encode(x=x).mark_line(interpolate="step-after", color=GREY, strokeDash=[2, 3])
    pick = pick_one()
    seen = alt.condition(pick, alt.value(1), alt.value(0.12))
    ends = {"y": alt.Y("low:Q", scale=scale), "y2": "high:Q"}
    whisker = base.mark_rule(clip=True, strokeWidth=1.5).encode(**ends, color=color, opacity=seen)
    points = base.mark_point(filled=True, size=90).encode(y=y, color=color, shape=shape, opacity=seen, tooltip=tips)
    named = _part(rows, "front", True).mark_text(align="left", dx=7, dy=-8, color=GREY, fontSize=11)
    ringed = _ring(_part(rows, "state", "collapsed runs").encode(x=x, y=y))
    reference = alt.Chart(alt.InlineData(values=lines)).encode(y=y)
    rule = reference.mark_rule(color=GREY, strokeDash=[6, 3])
    named_lines = _line_names(sorted(lines, key=lambda r: r["mean"]), y)
    whisker = whisker.add_params(pick)  # the first layer with a legend: in a later one a click would do nothing
    drawn = [front.encode(y=y), whisker, points, named.encode(x=x, y=y, text="label:N"), *ringed]
    layers = alt.layer(*([rule, *named_lines] if lines else []), *drawn)
    return layers.properties(width="container", height=260, description=f"{unit} against {axis}, {label}")


def _line_names(lines: Rows, y: Any) -> list[Chart]:
    """Names of the references above their lines, at either end in turn: two may lie close together."""
    out = []
    ends: Any = (("left", 0), ("right", "width"))
    for i, (end, place) in enumerate(ends):
        side = alt.Chart(alt.InlineData(values=lines[i::2])).encode(y=y, text="label:N", x=alt.value(place))
        out.append(side.mark_text(align=end, dx=4 - 8 * i, dy=-5, color=GREY, fontSize=11))
    return out[: len(lines)]


def pick_one() -> alt.Parameter:
    """A click on a name in the legend brings that method out."""
    return alt.selection_point(fields=["label"], bind="legend")


def rank_chart(table: Table) -> Chart | None:
    """Ranks per protocol: crossing lines are rankings that depend on the protocol."""
    names, columns, scores = across.matrix(table)
    if len(columns) < 2 or len(names) < 2:
        return None
    ranks = across.ranks(scores)
    rows = [
        {"label": clean(name), "column": clean(column), "rank": float(ranks[i, j]), "place": i}
        for i, column in enumerate(columns)
        for j, name in enumerate(names)
    ]
    shown = [clean(n) for n in methods(table)]
    scale = alt.Scale(domain=shown, range=[PALETTE[i % len(PALETTE)] for i in range(len(shown))])
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X(
            "column:N",
            sort=alt.EncodingSortField("place"),
            scale=alt.Scale(padding=max(0.5, len(columns) / 3)),  # room for the names at both ends
            axis=alt.Axis(labelAngle=-40 if len(columns) > TILTED else 0),
            title=None,
        ),
        y=alt.Y(
            "rank:Q",
            scale=alt.Scale(reverse=True, domain=[0.6, len(names) + 0.4], nice=False),
            axis=alt.Axis(tickMinStep=1, format="d"),
            title="rank (1 is best)",
        ),
        color=alt.Color("label:N", scale=scale, legend=None),
        tooltip=["label:N", "column:N", "rank:Q"],
    )
    sides: Any = ((0, "right", -10), (len(columns) - 1, "left", 10))
    ends = [
        base.transform_filter(f"datum.place == {place}").mark_text(align=side, dx=dx).encode(text="label:N")
        for place, side, dx in sides
    ]
    chart = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=70, opacity=1), *ends)
    height = 60 + 22 * len(names)
    return chart.properties(width="container", height=height, description="Rank of every method under every protocol")


def diagnostics_charts(records: Sequence[Record], labels: Mapping[str, str], table: Table) -> dict[str, Chart]:
    """RankMe of the features against accuracy, one point per run; collapsed runs ringed."""
    places: dict[str, Rows] = {}
    for r in newest(records):
        rank = r.collapse["rankme"]
        if r.headline in LABEL_FREE or not isinstance(rank, (int, float)) or not r.run or r.id not in labels:
            continue
        state = "collapsed" if r.collapse["flag"] else "fine"
        row = {"label": clean(labels[r.id]), "run": clean(r.run), "rankme": rank, "value": r.value, "state": state}
        places.setdefault(column_key(r), []).append(row)
    out = {}
    for column in table.columns:
        rows = [r for r in places.get(column.key, []) if r["label"] in {clean(n) for n in methods(table)}]
        if not rows:
            continue
        color, shape = marks(methods(table), rows)
        x = alt.X("rankme:Q", title="RankMe", scale=alt.Scale(zero=False, padding=20))
        y = alt.Y("value:Q", title=unit_of(column), scale=alt.Scale(zero=False, padding=15))
        base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, y=y)
        tips = ["run:N", alt.Tooltip("rankme:Q", format=".1f"), alt.Tooltip("value:Q", format=".1f"), "state:N"]
        pick = pick_one()
        seen = alt.condition(pick, alt.value(1), alt.value(0.12))
        points = base.mark_point(filled=True, size=80).encode(color=color, shape=shape, opacity=seen, tooltip=tips)
        ringed = _ring(_part(rows, "state", "collapsed").encode(x=x, y=y))
        chart = alt.layer(points.add_params(pick), *ringed).properties(width="container", height=240)
        out[column.label] = chart.properties(
            description=f"RankMe against {unit_of(column)}, {clean(column.label)}; collapsed runs are ringed"
        )
    return out


def critical_difference(ranking: across.Ranking) -> Chart:
    """Demsar's drawing: methods at their mean rank, bars join those that Nemenyi cannot separate."""
    rows = [
        {"label": clean(n), "rank": m, "y": 1 + i}
        for i, (n, m) in enumerate(zip(ranking.names, ranking.mean_ranks, strict=True))
    ]
    means = dict(zip(ranking.names, ranking.mean_ranks, strict=True))
    bars = [{"from": means[c[0]], "to": means[c[-1]], "y": -0.35 * i} for i, c in enumerate(ranking.cliques)]
    x = alt.X("rank:Q", scale=alt.Scale(domain=[0.7, len(rows) + 1.5], nice=False), title="mean rank (1 is best)")
    frame = alt.Scale(reverse=True, domain=[-0.35 * max(1, len(bars)), len(rows) + 0.6], nice=False)
    y = alt.Y("y:Q", axis=None, scale=frame)
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, y=y)
    layers = [
        base.mark_point(filled=True, size=90, color=PALETTE[0]),
        base.mark_text(align="left", dx=9, color=GREY).encode(text="label:N"),
    ]
    if bars:
        joined = alt.Chart(alt.InlineData(values=bars)).mark_rule(strokeWidth=5, color=PALETTE[1])
        layers.append(joined.encode(x=alt.X("from:Q"), x2="to:Q", y=y))
    chart = alt.layer(*layers).properties(width="container", height=60 + 24 * len(rows))
    return chart.properties(
        description=f"Critical difference {ranking.critical_difference:.2f} over {ranking.tasks} data sets"
    )
