"""Learning curves of the page: one line per method, the mean of its runs, and every run's own.

Specs are filled with points after Altair has made them: it checks every point that passes through it, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import altair as alt
import numpy as np

from results.cells import clean
from results.charts import LEGEND, PALETTE, Chart, Rows, marks, pick_one

DASHES = ([1, 0], [6, 3], [2, 2])  # more than eight methods differ by dash too
BINS = 50  # of a run, in which the points of all runs are averaged
CURVES = {"loss": "loss", "knn": "online k-NN (%), validation images", "rankme": "RankMe"}


def curve_charts(curves: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All methods. Rows: {"label", "run", "at" (0 to 1), and some of "loss", "knn", "rankme"}."""
    color, _ = marks(names)
    dashes = [DASHES[i // len(PALETTE) % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=[clean(n) for n in names], range=dashes)
    dash = alt.StrokeDash("label:N", scale=scale, legend=LEGEND)
    out = {}
    for key, title in CURVES.items():
        rows = _points(curves, key, "label", "run")
        if not rows:
            continue
        rows, title = (_scaled(rows), "loss, each run scaled to 0..1") if key == "loss" else (rows, title)
        rows, pick = _mean(rows, key), pick_one()
        chart = _curve(key, title).encode(
            color=color, strokeDash=dash, opacity=alt.condition(pick, alt.value(0.9), alt.value(0.08)),
            tooltip=["label:N", alt.Tooltip("at:Q", format=".0%"), alt.Tooltip(f"{key}:Q", format=".3g"), "runs:Q"],
        )  # fmt: skip
        out[title] = {**chart.add_params(pick).to_dict(), "datasets": {"points": rows}}
    return out


def run_curves(curves: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """One run."""
    found = {key: _points(curves, key) for key in CURVES}
    return {CURVES[key]: {**_run_curve(key), "datasets": {"points": rows}} for key, rows in found.items() if rows}


@cache
def _run_curve(key: str) -> dict[str, Any]:
    spec: dict[str, Any] = _curve(key, CURVES[key]).mark_line(color=PALETTE[0]).to_dict()
    return spec


def _points(curves: Sequence[Mapping[str, Any]], key: str, *names: str) -> Rows:
    """What of the curves one chart draws; k-NN in percent."""
    factor = 100 if key == "knn" else 1
    return [
        {"at": r["at"], key: round(factor * r[key], 6), **{n: clean(r[n]) for n in names}}
        for r in curves
        if isinstance(r.get(key), (int, float))
    ]


def _curve(key: str, title: str) -> Chart:
    chart = alt.Chart(alt.NamedData("points")).mark_line(strokeWidth=1.8)
    return chart.encode(
        x=alt.X("at:Q", title="share of training", axis=alt.Axis(format="%", tickCount=5)),
        y=alt.Y(f"{key}:Q", title=None, scale=alt.Scale(zero=False)),
    ).properties(width="container", height=220, description=f"Learning curve: {title}")


def _scaled(rows: Rows) -> Rows:
    """Losses of different objectives share no unit."""
    spans: dict[str, list[float]] = {}
    for r in rows:
        spans.setdefault(r["run"], []).append(r["loss"])
    lows = {run: (min(v), max(v) - min(v) or 1.0) for run, v in spans.items()}
    return [{**r, "loss": round((r["loss"] - lows[r["run"]][0]) / lows[r["run"]][1], 4)} for r in rows]


def _mean(rows: Rows, key: str) -> Rows:
    """One point per label and bin of training."""
    bins: dict[tuple[str, float], Rows] = {}
    for r in rows:
        bins.setdefault((r["label"], round(BINS * r["at"]) / BINS), []).append(r)
    return [
        {"label": label, "at": at, "runs": len({r["run"] for r in found}), key: _digits([r[key] for r in found])}
        for (label, at), found in sorted(bins.items())
    ]


def _digits(values: Sequence[float]) -> float:
    return float(f"{np.mean(values):.4g}")
