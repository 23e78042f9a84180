"""What stands beside the headline: the same probe on one frame, and every factor of the protocol `factors`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_records import fake

from results import across, answer, beside, cells, render, tables
from results.parts import Table
from results.records import Record


def of(method: str, value: float, seed: int, one: float = 11.0) -> Record:
    record = fake(method, value, seed, "linear")
    return replace(record, metrics={**record.metrics, "top1, one frame": one, "top1, reversed": 20.0})


def factors(method: str, motion: float, look: float, seed: int) -> Record:
    metrics = {"mean": 50.0, "motion": motion, "object": look}
    return fake(method, 0.0, seed, "factors", headline="mean", metrics=metrics, correct=None)


def means(table: Table, label: str) -> dict[str, float | None]:
    found = next(r for r in table.rows if r.label == label).cells
    return {c.label: None if v is None else round(v.mean, 1) for c, v in zip(table.columns, found, strict=True)}


def test_controls_have_columns_and_rank_nobody() -> None:
    made = [of(m, v, s, one) for m, v, one in (("mae", 40, 11.0), ("dino", 30, 12.0), ("vicreg", 20, 13.0))
            for s in range(3)]  # fmt: skip
    table = tables.build(made)
    expected = {"linear top1": 40.0, "linear top1, one frame": 11.0, "linear top1, reversed": 20.0}
    assert means(table, "mae") == pytest.approx(expected, abs=0.1)
    assert [c.ranks for c in table.columns] == [True, False, False]
    assert across.matrix(table)[1] == ["linear top1"] and answer.column(table) == 0
    assert {p.column for p in table.pairs} == {"linear top1"}
    assert cells.headers(table)[1:4] == list(expected)


def test_every_factor_has_a_column_that_tells_methods_apart() -> None:
    """What keeps motion and what keeps looks: the orders are opposite, and both are told."""
    made = [factors("vicreg", 40.0 + s, 15.0 + s, s) for s in range(3)]
    made += [factors("mae", 12.0 + s, 45.0 + s, s) for s in range(3)]
    table = tables.build(made)
    assert [c.label for c in table.columns] == ["factors mean", "factors motion", "factors object"]
    assert means(table, "vicreg") == {"factors mean": 50.0, "factors motion": 41.0, "factors object": 16.0}
    assert all(c.ranks for c in table.columns)
    assert cells.headers(table)[1:4] == [c.label for c in table.columns]
    leading = {c.label: [r.label for r in table.rows if (v := r.cells[i]) is not None and v.best]
               for i, c in enumerate(table.columns)}  # fmt: skip
    assert leading["factors motion"] == ["vicreg"] and leading["factors object"] == ["mae"]


def test_records_without_them_show_what_they_showed() -> None:
    plain = [fake("mae", 40.0, s) for s in range(3)]
    assert beside.columns(plain) == []
    assert [c.label for c in tables.build(plain).columns] == ["knn"]


def test_every_format_takes_them_in_any_order_of_records() -> None:
    made = [of(m, 40.0, s) for m in ("mae", "dino") for s in range(3)]
    made += [factors(m, 40.0, 20.0, s) for m in ("mae", "dino") for s in range(3)]
    for form, show in render.RENDERERS.items():
        found = show(tables.build(made))
        assert "one frame" in found and "motion" in found, form
        assert found == show(tables.build(made[::-1]))
