"""The page's chart of how far ahead: which numbers it draws, and that it is there only where there are some."""

from __future__ import annotations

from typing import Any

import pytest
from fake_records import fake, quickstart

from results import tables
from results.horizons import horizon_charts
from results.page import page
from results.records import Record


def told(method: str, seed: int | None, near: float, far: float, **changes: Any) -> Record:
    """A record of `rollout` at 5 and 40 steps; standing still is 4 and 20 units off."""
    metrics = {"px5": near, "px40": far, "px5_copy": 4.0, "px40_copy": 20.0, "px5_seen": 0.5, "px40_seen": 0.5}
    metrics |= {"px40_still": 19.0, "latent40": 1.0, "distance": 90.0}
    own = {"headline": "px40", "higher_is_better": False, "metrics": metrics, "correct": None}
    return fake(method, 50.0, seed, "rollout", **(own | changes))


def points(chart: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in chart["datasets"].values() for row in rows]


RECORDS = [told("lewm", 0, 1.0, 2.0), told("lewm", 1, 2.0, 4.0), told("random", 0, 5.0, 18.0)]


def test_lines_are_means_over_records_by_steps_ahead():
    (chart,) = horizon_charts(tables.build(RECORDS), RECORDS).values()
    rows = {(r["label"], r["steps"]): r for r in points(chart) if "label" in r}
    assert set(rows) == {("lewm", 5), ("lewm", 40), ("random", 5), ("random", 40)}
    lewm = rows["lewm", 40]
    assert (lewm["units"], lewm["low"], lewm["high"], lewm["n"], lewm["seen"]) == (3.0, 2.0, 4.0, 2, 0.5)
    still = {r["steps"]: r["units"] for r in points(chart) if r.get("name") == "standing still"}
    assert still == {5: 4.0, 40: 20.0}


def test_each_setting_of_the_protocol_has_a_chart_of_its_own():
    both = [*RECORDS, told("lewm", 0, 3.0, 6.0, variant="brief")]
    charts = horizon_charts(tables.build(both), both)
    values = {t: [r["units"] for r in points(c) if r.get("label") == "lewm"] for t, c in charts.items()}
    assert len(charts) == 2 and {max(v) for v in values.values()} == {3.0, 6.0}


def test_the_page_has_it_where_something_was_foretold():
    assert "How far ahead" in page(RECORDS)
    assert "How far ahead" not in page(quickstart())


def test_a_record_without_a_baseline_is_drawn_all_the_same():
    bare = told("lewm", 0, 1.0, 2.0, metrics={"px5": 1.0, "px40": 2.0})
    (chart,) = horizon_charts(tables.build([bare]), [bare]).values()
    assert [r["units"] for r in points(chart)] == pytest.approx([1.0, 2.0])
