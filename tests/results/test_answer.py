"""The sentence and the picture that a page begins with: right for ties, single seeds, collapses and missing rows."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_records import fake, quickstart

from results import answer, cells, charts, ordered, page_rows, render, tables
from results.page import page
from results.parts import Table
from results.records import Record


def seeds(method: str, value: float, count: int = 3, **more: Any) -> list[Record]:
    return [fake(method, value + s / 2, s, **more) for s in range(count)]


def said(made: list[Record]) -> str:
    table = tables.build(made)
    i = answer.column(table)
    assert i is not None
    return answer.sentence(table, i)


FLOOR = seeds("random", 20, 5)
PIXELS = fake("pixels", 30, None)
CLEAR = [*seeds("mae", 60, 5), *seeds("dino", 40, 5)]


def test_one_that_is_told_from_all_others() -> None:
    text = said([*CLEAR, *FLOOR, PIXELS])
    assert re.fullmatch(
        r"`mae` is the best of 2 methods by knn \(61\.0 ± \d\.\d\), surely better than `random` \(21\.0\) and "
        r"`pixels` \(30\.0\)\.",
        text,
    )


def test_the_terminal_says_it_above_the_table() -> None:
    lines = render.to_text(tables.build([*CLEAR, *FLOOR]), 200).splitlines()
    assert lines[0].startswith("mae is the best of 2 methods by knn (61.0 ±")


def test_a_tie_names_who_may_be_the_best_and_the_picture_shades_them() -> None:
    table = tables.build([*CLEAR, *seeds("simclr", 59.5, 5), *FLOOR])
    assert "`mae` has the best mean of 3 methods by knn" in answer.sentence(table, 0)
    assert "but `simclr` may be the best as well; `mae` is surely better than `random` (21.0)." in answer.sentence(
        table, 0
    )
    assert shaded(table) == ["mae", "simclr"]


def test_many_that_tie_are_counted() -> None:
    made = [*FLOOR, *(r for i in range(6) for r in seeds(f"m{i}", 50 + i / 10, 5))]
    assert "of 6 methods" in said(made) and "but 5 others may be the best as well; `m5`" in said(made)


@pytest.mark.parametrize("value", [20.0, 14.0])
def test_where_no_method_is_above_random_that_comes_first(value: float) -> None:
    text = said([*seeds("mae", value, 5), *seeds("dino", value - 0.5, 5), *FLOOR, PIXELS])
    assert text.startswith("No method is surely better than `random` (21.0) by knn: the best mean of 2 methods is ")
    assert text.endswith("(`mae`); all 2 are surely worse than `pixels` (30.0).")


def test_one_seed_ranks_nothing() -> None:
    made = [fake("mae", 60, 0), fake("dino", 40, 0), *FLOOR, PIXELS]
    text = said(made)
    assert text == "One seed ranks nothing: by knn, each of the 2 methods has one run; `--seeds 3` trains two more."
    assert shaded(tables.build(made)) == []
    assert "the method has one run" in said(made[:1])
    foreign = fake("timm:vit", 90, None, config={"method": "timm:vit", "source": "timm:vit"}, run="")
    assert said([foreign]) == "One run ranks nothing: by knn, the method has one run."


def test_rows_of_one_seed_are_neither_ranked_nor_forgotten() -> None:
    text = said([*CLEAR, *FLOOR, fake("simclr", 80, 0)])
    assert text.startswith("`mae` is the best of 2 methods by knn") and text.endswith(
        "; 1 with one seed is not ranked."
    )


def test_one_method_alone_ranks_nothing() -> None:
    made = [*seeds("mae", 60), *FLOOR, PIXELS]
    assert re.fullmatch(
        r"One method alone ranks nothing: `mae` by knn \(60\.5 ± \d\.\d\) is surely better than `random` \(21\.0\) and "
        r"`pixels` \(30\.0\)\.",
        said(made),
    )
    assert "; 1 with one seed is not ranked." in said([*made, fake("dino", 70, 0)])
    assert said([*FLOOR, PIXELS]) == "No method was measured by knn."


def test_without_random_nothing_is_said_of_learning() -> None:
    text = said([*CLEAR, fake("random", 20, 0)])
    assert "not compared with an untrained network (no `random` with several seeds)." in text
    assert "surely better" not in text


def test_a_leader_that_is_not_told_from_random_is_called_so() -> None:
    """Its seeds vary so much that its mean says little; a steady one below it does beat the untrained network."""
    wild = [fake("mae", v, s) for s, v in enumerate((20, 45, 70))]
    text = said([*wild, *seeds("dino", 32, 5), *seeds("byol", 31, 5), *FLOOR])
    assert "`mae` has the best mean of 3 methods" in text and "; `mae` is not told from `random` (21.0)." in text


def test_who_may_be_the_best_without_being_above_random_is_called_so() -> None:
    wild = [fake("mae", v, s) for s, v in enumerate((20, 45, 70))]
    text = said([*seeds("dino", 50, 5), *seeds("byol", 35, 5), *wild, *FLOOR])
    assert "but `mae` may be the best as well (not surely better than `random`);" in text


def test_collapsed_runs_are_in_the_sentence_and_ringed() -> None:
    bad = {"flag": True, "reason": "RankMe fell to 1.6", "rankme": 1.6}
    made = [fake("mae", 60 + s, s, collapse=bad if s < 2 else {**bad, "flag": False}) for s in range(3)]
    table = tables.build([*made, *seeds("dino", 40), *FLOOR])
    assert answer.sentence(table, 0).endswith("; collapsed runs are in the mean of `mae` (2 of 3).")
    assert "Red ring: collapsed runs" in ordered.reading(table, 0)
    assert said([fake("mae", 60, 0, collapse=bad)]).endswith("; collapsed runs are in the mean of `mae` (1 of 1).")


def test_lower_may_be_better() -> None:
    made = [fake(r.method, r.value, r.seeds["pretrain"], "robust", headline="error", higher_is_better=False,
                 metrics={"error": r.value}) for r in [*CLEAR, *seeds("random", 70, 5)]]  # fmt: skip
    assert "`dino` is the best of 2 methods by robust (error)" in said(made)
    assert "surely better than `random` (71.0)" in said(made)


def test_the_column_that_answers_is_chosen_without_a_look_at_the_numbers() -> None:
    def chosen(made: list[Record]) -> str:
        table = tables.build(made)
        return table.columns[answer.column(table)].label  # type: ignore[index]

    assert chosen(quickstart()) == "linear"
    assert chosen([*quickstart(), *seeds("simclr", 90)]) == "knn"  # has one more method
    assert chosen([*quickstart(), fake("simclr", 90, 0)]) == "linear"  # but not with several seeds
    only = fake("mae", 40, 0, "labelfree", headline="rankme", metrics={"rankme": 40.0})
    assert answer.column(tables.build([only])) is None
    assert '<p class="answer">No protocol here ranks methods.</p>' in page([only])
    assert '<p class="answer">No method was measured by knn.</p>' in page(FLOOR)


def shaded(table: Table) -> list[str]:
    spec = ordered.ordered_chart(table, 0).to_dict()
    bars = [layer for layer in spec["layer"] if layer["mark"]["type"] == "bar"]
    return [r["label"] for layer in bars for r in spec["datasets"][layer["data"]["name"]]]


def test_the_picture_has_methods_in_order_and_references_as_lines() -> None:
    table = tables.build([*CLEAR, *seeds("simclr", 50, 5), *FLOOR, PIXELS])
    spec = ordered.ordered_chart(table, 0).to_dict()
    (points,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert points["encoding"]["y"]["sort"] == ["mae  61.0", "simclr  51.0", "dino  41.0"]
    names = [layer for layer in spec["layer"] if layer["mark"]["type"] == "text"]
    assert [spec["datasets"][n["data"]["name"]][0]["name"] for n in names] == ["random 21.0", "pixels 30.0"]


def test_accuracy_stands_against_what_differs() -> None:
    def spending(method: str, value: float, **compute: float) -> list[Record]:
        spent = {**fake().compute["pretrain"], "flops": 1e13, "seconds": 40.0, **compute}
        return seeds(method, value, compute={"pretrain": spent, "eval": {}})

    same = tables.build([*spending("mae", 60), *spending("dino", 40)])
    assert (charts.spent(same), charts.compute_charts(same), charts.equal_flops(same)) == ("", {}, 1e13)
    slower = tables.build([*spending("mae", 60), *spending("dino", 40, seconds=90.0)])
    (chart,) = charts.compute_charts(slower).values()
    assert charts.spent(slower) == "seconds of a run" == chart.to_dict()["layer"][0]["encoding"]["x"]["title"]
    more = tables.build([*spending("mae", 60), *spending("dino", 40, flops=2e13)])
    assert charts.spent(more) == "training FLOPs" and charts.equal_flops(more) is None


def test_long_names_are_short_on_the_page_and_their_settings_are_kept() -> None:
    def tuned(rate: float, value: float) -> list[Record]:
        change = [f"optim.lr={rate}", "objective.masking=multiblock"]
        config = {"method": "ijepa", "optim": {"lr": rate}, "budget": {"steps": 300, "batch_size": 128}}
        return [
            fake("ijepa", value + s, s, overrides=change, identity=f"{rate}{s}", run=f"ijepa-{rate}-{s}", config=config)
            for s in range(3)
        ]

    made = [*tuned(0.001, 40), *tuned(0.003, 50), *seeds("mae", 30), *FLOOR]
    whole = tables.build(made)
    short, settings = page_rows.shortened(whole)
    assert [r.label for r in short.rows][:3] == ["ijepa #1", "ijepa #2", "mae"]
    assert [settings[r.label] for r in short.rows][:3] == [
        "objective.masking=multiblock, optim.lr=0.001",
        "objective.masking=multiblock, optim.lr=0.003",
        "",
    ]
    assert {n for p in short.pairs for n in (p.first, p.second)} == {"ijepa #1", "ijepa #2", "mae", "random"}
    text = page(made)
    assert "<code>ijepa #2</code> is the best of 3 rows" in text
    assert '<span class="unit settings">objective.masking=multiblock, optim.lr=0.003</span>' in text
    assert 'type="checkbox" name="settings"' in text
    assert 'type="checkbox" name="settings"' not in page([*seeds("mae", 30), *FLOOR])


def test_a_column_of_compute_in_which_no_row_shows_anything_is_not_drawn() -> None:
    spent = {k: v for k, v in fake().compute["pretrain"].items() if k != "peak_memory_bytes"}
    trained = seeds("mae", 40, compute={"pretrain": spent, "eval": {}})
    assert cells.headers(tables.build([*trained, *FLOOR])) == ["method", "knn", "FLOPs", "time", "images/s"]
    assert cells.headers(tables.build(FLOOR)) == ["method", "knn"]
    assert re.findall(r'<th scope="col"[^>]*>(\w+)', page(FLOOR))[:3] == ["method", "knn", "protocol"]
