"""Charts of the page, also written as PNG or SVG on request. Altair specs with data inline; colours of the page's
theme are set where they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from results import across
from results.cells import clean
from results.records import Record
from results.rows import LABEL_FREE, column_key, newest
from results.tables import Table

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccaa22", "#22aacc", "#aa3377", "#ee8833", "#7766dd")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [6, 3], [2, 2])  # more than eight methods differ by dash too
GREY = "#8a8f98"
LEGEND = alt.Legend(title=None, orient="bottom", columns=3, symbolLimit=40, labelLimit=180)
Rows = list[dict[str, Any]]
Chart = Any  # Altair's own types change between `layer` and `properties`


def _marks(labels: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """The same colour and shape for a method in every chart; more than eight methods differ by shape too."""
    names = [clean(n) for n in labels]
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    shapes = [SHAPES[(i // len(PALETTE) + i) % len(SHAPES)] for i in range(len(names))]
    return (
        alt.Color("label:N", scale=alt.Scale(domain=names, range=colours), legend=LEGEND),
        alt.Shape("label:N", scale=alt.Scale(domain=names, range=shapes), legend=LEGEND),
    )


def methods(table: Table) -> list[str]:
    return [r.label for r in table.rows if not r.reference]


def compute_charts(table: Table) -> dict[str, Chart]:
    """Accuracy against training compute, one chart per protocol: the Pareto front, references as lines.

    Compute is FLOPs; where all runs spent the same (an equal budget), it is the time they took.
    """
    out = {}
    spent = [r.cost.flops for r in table.rows if not r.reference and r.cost.flops]
    equal = len(spent) > 1 and max(spent) < 1.1 * min(spent) and all(r.cost.hours for r in table.rows if r.cost.flops)
    for i, column in enumerate(table.columns):
        rows: Rows = []
        lines: Rows = []
        for r in table.rows:
            if (cell := r.cells[i]) is None:
                continue
            low, high = (cell.mean, cell.mean) if cell.low is None or cell.high is None else (cell.low, cell.high)
            row = {"label": clean(r.label), "mean": cell.mean, "low": low, "high": high, "n": cell.n}
            if not r.reference and r.cost.flops:
                state = "collapsed runs" if cell.collapsed else "trained"
                spend = 60 * (r.cost.hours or 0) if equal else r.cost.flops
                rows.append({**row, "cost": spend, "state": state, "front": False})
            elif r.reference:
                lines.append(row)
        if column.ranks and rows:
            _front(rows, column.higher)
            axis = f"minutes of training, {spent[0]:.2g} FLOPs each" if equal else "training FLOPs"
            out[column.label] = _compute_chart(rows, lines, column.label, axis, methods(table))
    return out


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


def _compute_chart(rows: Rows, lines: Rows, label: str, axis: str, names: Sequence[str]) -> Chart:
    means = [r["mean"] for r in rows + lines]
    span = max(means) - min(means) or 10  # intervals of two seeds may be huge: they are shown up to one span
    low = max(min(r["low"] for r in rows + lines), min(means) - span, 0)
    high = min(max(r["high"] for r in rows + lines), max(means) + span)
    scale = alt.Scale(domain=[max(0, low - 0.05 * span), high + 0.05 * span], nice=False, zero=False)
    y = alt.Y("mean:Q", scale=scale, title="accuracy (%)")
    x = alt.X(
        "cost:Q",
        title=axis,
        scale=alt.Scale(type="log", padding=30, nice=False),
        axis=alt.Axis(format=".0e" if axis == "training FLOPs" else ".2~g", tickCount=4),
    )
    color, shape = _marks(names)
    tips = ["label:N", alt.Tooltip("mean:Q", format=".1f"), alt.Tooltip("low:Q", format=".1f")]
    tips += [alt.Tooltip("high:Q", format=".1f"), "n:Q", alt.Tooltip("cost:Q", format=".3g", title=axis), "state:N"]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x)
    front = _part(rows, "front", True).encode(x=x).mark_line(interpolate="step-after", color=GREY, strokeDash=[2, 3])
    whisker = base.mark_rule(clip=True, strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q", color=color)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(y=y, color=color, shape=shape, tooltip=tips)
    ringed = _ring(_part(rows, "state", "collapsed runs").encode(x=x, y=y))
    reference = alt.Chart(alt.InlineData(values=lines)).encode(y=y)
    rule = reference.mark_rule(color=GREY, strokeDash=[6, 3])
    text = reference.mark_text(align="left", dx=4, dy=-5, color=GREY, fontSize=11).encode(
        text="label:N", x=alt.value(0)
    )
    layers = alt.layer(*([rule, text] if lines else []), front.encode(y=y), whisker, points, *ringed)
    return layers.properties(width="container", height=260, description=f"Accuracy against {axis}, {clean(label)}")


def curve_charts(curves: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Chart]:
    """Learning curves over the share of training. Rows: {"label", "run", "at", and some of "loss", "knn", "rankme"}."""
    titles = {"loss": "loss, each run scaled to 0..1", "knn": "online k-NN (%), training images", "rankme": "RankMe"}
    color, _ = _marks(names)
    dashes = [DASHES[i // len(PALETTE) % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=[clean(n) for n in names], range=dashes)
    dash = alt.StrokeDash("label:N", scale=scale, legend=LEGEND)
    out = {}
    for key, title in titles.items():
        rows = [{k: r[k] for k in ("label", "run", "at", key)} for r in curves if isinstance(r.get(key), (int, float))]
        if not rows:
            continue
        rows = _scaled(rows) if key == "loss" else rows
        rows = [
            {**r, "label": clean(r["label"]), "run": clean(r["run"]), key: 100 * r[key] if key == "knn" else r[key]}
            for r in rows
        ]
        line = alt.Chart(alt.InlineData(values=rows)).mark_line(strokeWidth=1.8, opacity=0.9)
        out[title] = line.encode(
            x=alt.X("at:Q", title="share of training", axis=alt.Axis(format="%")),
            y=alt.Y(f"{key}:Q", title=None, scale=alt.Scale(zero=False)),
            color=color,
            strokeDash=dash,
            detail="run:N",
            tooltip=["run:N", alt.Tooltip("at:Q", format=".0%"), alt.Tooltip(f"{key}:Q", format=".3g")],
        ).properties(width="container", height=220, description=f"Learning curves: {title}")
    return out


def _scaled(rows: Rows) -> Rows:
    """Losses of different objectives share no unit."""
    spans: dict[str, list[float]] = {}
    for r in rows:
        spans.setdefault(r["run"], []).append(r["loss"])
    lows = {run: (min(v), max(v) - min(v) or 1.0) for run, v in spans.items()}
    return [{**r, "loss": (r["loss"] - lows[r["run"]][0]) / lows[r["run"]][1]} for r in rows]


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
    color, shape = _marks(methods(table))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("column:N", sort=alt.EncodingSortField("place"), title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y(
            "rank:Q",
            scale=alt.Scale(reverse=True, domain=[0.6, len(names) + 0.4], nice=False),
            axis=alt.Axis(tickMinStep=1, format="d"),
            title="rank (1 is best)",
        ),
        color=color,
        tooltip=["label:N", "column:N", "rank:Q"],
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=2.5), base.mark_point(filled=True, size=110, opacity=1).encode(shape=shape)
    )
    return chart.properties(width="container", height=240, description="Rank of every method under every protocol")


def diagnostics_charts(records: Sequence[Record], labels: Mapping[str, str], table: Table) -> dict[str, Chart]:
    """RankMe of the features against accuracy, one point per run; collapsed runs ringed."""
    color, shape = _marks(methods(table))
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
        x = alt.X("rankme:Q", title="RankMe", scale=alt.Scale(zero=False, padding=20))
        y = alt.Y("value:Q", title="accuracy (%)", scale=alt.Scale(zero=False, padding=15))
        base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, y=y)
        tips = ["run:N", alt.Tooltip("rankme:Q", format=".1f"), alt.Tooltip("value:Q", format=".1f"), "state:N"]
        points = base.mark_point(filled=True, size=80, opacity=1).encode(color=color, shape=shape, tooltip=tips)
        ringed = _ring(_part(rows, "state", "collapsed").encode(x=x, y=y))
        chart = alt.layer(points, *ringed).properties(width="container", height=240)
        out[column.label] = chart.properties(
            description=f"RankMe against accuracy, {clean(column.label)}; collapsed runs are ringed"
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
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(reverse=True, zero=False))
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
