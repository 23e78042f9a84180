"""Which records one table compares: of one budget, and of the same images, by whatever name they were evaluated."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from fake_records import fake, quickstart

from results import render, tables
from results.records import Record
from results.sets import by_table, together
from ssl_bench.data.items import RAW
from ssl_bench.experiments import report


@pytest.mark.parametrize("form", render.RENDERERS)
def test_rows_of_another_budget_stand_in_another_table(form: str) -> None:
    """mae is the best of its table; a longer dino, in one table with it, would take its bold."""
    longer = {"seed": 0, "method": "dino", "budget": {"steps": 3000, "batch_size": 128}}
    made = [*quickstart(), *(fake("dino", 70 + s, s, "linear", config=longer, identity=f"{s}") for s in range(3))]
    text = report.report(made, form)
    if form == "csv":
        assert {r["bold"] for r in csv.DictReader(io.StringIO(text)) if r["method"] == "mae"} == {"True", "False"}
    elif form == "json":
        assert [t["title"] for t in json.loads(text)] == [
            f"clothing48 · {n} steps, batch 128" for n in ("300", "3,000")
        ]
    else:
        assert text.count("3,000 steps") == 2 and "different budgets" not in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"flops": 2.2e12}, {"flops": 2.203e12}),
        ({"epochs": 2}, {"epochs": 2.4}),
        ({"images": 1e7}, {"images": 1.0004e7}),
        ({"hours": 1 / 3}, {"hours": 0.333}),
        ({"steps": 300}, {"steps": 300, "batch_size": 256}),
    ],
)
def test_budgets_that_round_to_the_same_words_are_not_the_same(one: dict[str, float], other: dict[str, float]) -> None:
    made = [
        fake(m, 40, 0, config={"method": m, "budget": {"batch_size": 128, **b}})
        for m, b in (("mae", one), ("dino", other))
    ]
    parts = by_table([*made, fake("random", 20, 0)])["clothing48"]
    assert sorted([r.method for r in members] for members in parts.values()) == [["dino", "random"], ["mae", "random"]]


@pytest.mark.parametrize("raw", RAW)
def test_networks_trained_elsewhere_are_not_rows_of_a_budget(raw: str) -> None:
    foreign = fake("timm:vit", 90, None, config={"method": "timm:vit", "source": "timm:vit", "seed": None}, run="")
    moved = fake(raw, 30, None, config={"method": raw, "backbone": {}}, run="")
    parts = by_table([*quickstart(), foreign, moved])["clothing48"]
    assert [*parts] == ["300 steps, batch 128", "trained elsewhere"]
    methods = [{r.method for r in members} for members in parts.values()]
    assert "timm:vit" not in methods[0] and methods[1] == {"timm:vit", "random", "pixels", raw}
    assert next(r for r in tables.build(parts["300 steps, batch 128"]).rows if r.label == raw).reference


def test_a_reference_in_csv_says_whose_table_it_stands_in() -> None:
    longer = {"seed": 0, "method": "dino", "budget": {"steps": 3000, "batch_size": 128}}
    made = [*quickstart(), *(fake("dino", 70 + s, s, config=longer, identity=f"{s}") for s in range(3))]
    found = [r for r in csv.DictReader(io.StringIO(report.report(made, "csv"))) if r["protocol"] == "knn"]
    titles = [f"clothing48 · {n} steps, batch 128" for n in ("300", "3,000")]
    assert [r["table"] for r in found if r["method"] == "random"] == titles
    assert {(r["budget"], r["table"]) for r in found if r["budget"]} == {(t.split(" · ")[1], t) for t in titles}


def test_lines_of_one_csv_differ_in_what_they_are_of_and_columns_in_json_too() -> None:
    """Columns of other settings, of other images under one name and of another metric; rows of two budgets."""
    skewed = {"majority": 70.0, "test_classes": 10, "imbalance": 9.0}
    longer = {"seed": 0, "method": "dino", "budget": {"steps": 3000, "batch_size": 128}}
    made = []
    for i, (k, images) in enumerate([(5, "x"), (20, "x"), (20, "y")]):
        for method, more in (("mae", {}), ("dino", {"config": longer}), ("random", {}), ("pixels", {})):
            r = fake(method, 40.0 + i, protocol_config={"k": k}, **more)
            facts = {**r.data, **skewed, "fingerprint": images}
            made.append(replace(r, id=f"{method}{i}", data=facts, metrics={**r.metrics, "balanced": 30.0 + i}))
    values = ("mean", "low", "high", "n", "interval_over", "best", "bold", "unclear", "collapsed", "normalised")
    values += ("optimism", "flops", "hours", "images_per_second", "peak_memory_bytes", "machines")
    lines = list(csv.DictReader(io.StringIO(report.report(made, "csv"))))
    assert len(lines) == 2 * 6 * 4, "two tables, six columns, a method, two references and the largest class"
    assert len({tuple(v for name, v in line.items() if name not in values) for line in lines}) == len(lines)
    assert {line["fingerprint"] for line in lines} == {"x", "y"}
    told = {c.label for c in tables.build(made).columns}
    assert {line["column"] for line in lines} == told and any("k=5" in label for label in told)
    for table in json.loads(report.report(made, "json")):
        columns = table["columns"]
        assert len({(c["label"], c["fingerprint"]) for c in columns}) == 6
        assert {c["fingerprint"] for c in columns} == {"x", "y"}


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "json"])
def test_columns_that_no_trained_row_has_are_named_in_one_line(form: str) -> None:
    """Of the table they would fill with references alone; where nothing was trained they are the table."""
    others = [fake("pixels", 30.0, None, "clustering"), fake("pixels", 31.0, None, protocol_config={"k": 7})]
    others += [fake("random", 20.0, s, "clustering") for s in range(2)]
    table = tables.build([*quickstart(), *others])
    assert [c.label for c in table.columns] == ["knn", "linear"]
    assert [n for n in table.notes if "no trained row" in n] == [
        "Left out, for no trained row has them: clustering (`pixels`, `random`); knn k=7 (`pixels`)."
    ]
    assert "no trained row" in report.report([*quickstart(), *others], form)
    many = [fake("pixels", 30.0, None, f"p{i}") for i in range(9)]
    (said,) = (n for n in tables.build([*quickstart(), *many]).notes if "no trained row" in n)
    assert said == "Left out, for no trained row has them: p0, p1, p2 and 6 more columns (`pixels`)."
    alone = tables.build(others)
    assert len(alone.columns) == 2 and not any("no trained row" in n for n in alone.notes)


def test_sets_on_which_one_run_was_evaluated_share_a_table_with_a_column_each() -> None:
    of_run = {"run": "mae-quick-s0", "pretrain_data": {"name": "a", "fingerprint": "f"}}
    made = [fake("mae", 40.0, data="a", **of_run), fake("mae", 30.0, data="b", **of_run)]
    made += [fake("random", 20.0, data=name, config={"data": {"name": name}}) for name in ("a", "b")]
    made += [fake("dino", 50.0, data="c", run="dino-quick-s0")]
    assert {name: len(rows) for name, rows in together(made).items()} == {"a, b": 4, "c": 1}
    assert [r.label for r in tables.build(together(made)["a, b"]).rows] == ["mae", "random", "pixels", "supervised"]
    shown = report.report(made, "markdown")
    assert "## a, b" in shown and "knn · a | knn · b" in shown and "## c" in shown


def measured(name: str, *args: Any, **changes: Any) -> Record:
    """A number of the images of set `a`, evaluated by this name of theirs."""
    made = fake(*args, data="a", **changes)
    return replace(made, data={**made.data, "name": name})


def test_images_of_two_names_stand_in_one_table() -> None:
    """As where a folder was evaluated again by its full path: the record of that number has the other name now."""
    made = [measured("a", "dino", 50.0, s) for s in range(2)] + [measured("/d/a", "mae", 40.0 + s, s) for s in range(2)]
    made += [measured("a", "byol", 45.0)]
    assert list(by_table(made)) == list(together(made)) == ["a"]
    table = tables.build(together(made)["a"])
    cells = {r.label: r.cells[0].n for r in table.rows if r.cells[0]}
    assert len(table.columns) == 1 and cells == {"byol": 1, "dino": 2, "mae": 2}
    assert "`a`: the same images were evaluated as `/d/a` too; all stand here." in table.notes


def test_a_reference_under_two_names_is_one_number() -> None:
    made = [
        measured(name, "random", 20.0, 0, config={"data": {"name": name}, "seed": 0}, identity=name)
        for name in ("a", "/d/a")
    ]
    table = tables.build(together([fake("mae", 40.0, 0, data="a"), *made])["a"])
    (cell,) = (r.cells[0] for r in table.rows if r.label == "random")
    assert cell is not None and len(cell.records) == 1


def test_other_images_of_the_same_method_keep_their_names() -> None:
    found = by_table([fake("mae", 40.0, data="a"), fake("mae", 30.0, data="b")])
    assert sorted(found) == ["a", "b"]
    assert not any("stand here" in note for parts in found.values() for made in parts.values()
                   for note in tables.build(made).notes)  # fmt: skip


def test_films_in_other_views_keep_a_table_of_their_own() -> None:
    """Their frames have the same fingerprint: what is seen of them is said in the name and in the reading."""
    made = [measured("films#kind=clip", "mae", 40.0), measured("films#kind=clip#views=2x3", "mae", 45.0)]
    made += [measured("/d/films#kind=clip#views=2x3", "dino", 45.0)]
    assert sorted(by_table(made)) == ["films#kind=clip", "films#kind=clip#views=2x3"]
