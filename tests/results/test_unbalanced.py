"""Unbalanced test classes: balanced accuracy beside the headline, and what the largest class alone would score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import fake, quickstart
from PIL import Image

from results import across, cells, render, tables
from results.parts import Row, Table
from results.records import Record, dumps, from_dict, to_dict
from ssl_bench.config.schema import DataConfig
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate

SKEWED: dict[str, Any] = {"majority": 70.6, "num_classes": 3, "test_classes": 3, "imbalance": 12.0}


def of(method: str, value: float, balanced: float, seed: int | None = 0, protocol: str = "knn", **facts: Any) -> Record:
    record = fake(method, value, seed, protocol)
    metrics = {**record.metrics, "balanced": balanced}
    return replace(record, metrics=metrics, data={**record.data, **SKEWED, **facts})


def row(table: Table, label: str) -> Row:
    return next(r for r in table.rows if r.label == label)


def means(table: Table, label: str) -> dict[str, float | None]:
    found = row(table, label).cells
    return {c.label: None if v is None else v.mean for c, v in zip(table.columns, found, strict=True)}


def test_balanced_accuracy_and_the_largest_class_stand_beside_the_headline() -> None:
    table = tables.build([of("mae", 72.0, 41.0, s) for s in range(3)] + [of("pixels", 70.0, 33.0, None)])
    assert means(table, "mae") == pytest.approx({"knn balanced": 41.0, "knn top1": 72.0}, abs=0.1)
    assert means(table, "majority") == pytest.approx({"knn balanced": 100 / 3, "knn top1": 70.6})
    assert [r.label for r in table.rows][-1] == "majority" and row(table, "majority").reference
    assert cells.headers(table)[:3] == ["method", "knn balanced", "knn top1"]
    assert "| *majority* | 33.3 | 70.6 | – |" in render.to_markdown(table)
    said = "\n".join(table.notes)
    assert "In knn top1, always answering the largest class gives 70.6: not above it: `pixels`." in said
    assert "In knn balanced, always answering the largest class gives 33.3: not above it: `pixels`." in said


def test_the_same_predictions_do_not_rank_twice() -> None:
    made = [of(m, v, v - 30, s) for m, v in (("mae", 80.0), ("dino", 75.0), ("byol", 72.0)) for s in range(3)]
    _, columns, _ = across.matrix(tables.build(made))
    assert columns == ["knn top1"]


@pytest.mark.parametrize("facts", [{"imbalance": 1.5}, {"imbalance": 1.0}])
def test_balanced_classes_need_neither(facts: dict[str, float]) -> None:
    table = tables.build([of("mae", 72.0, 71.0, **facts)])
    assert [c.label for c in table.columns] == ["knn"]
    assert "majority" not in {r.method for r in table.rows}


def test_a_class_without_test_images_is_the_smallest() -> None:
    """The imbalance of those that have some is 1."""
    table = tables.build([of("mae", 72.0, 71.0, num_classes=4, imbalance=1.0)])
    assert means(table, "majority") == pytest.approx({"knn balanced": 100 / 3, "knn top1": 70.6})
    assert not any("of one class" in note for note in table.notes)


@pytest.mark.parametrize(("only", "share"), [("a", 100.0), ("b", 0.0)])
def test_a_test_split_of_one_class_is_told(only: str, share: float, tmp_path: Path) -> None:
    """As evaluated: a is the largest class in training, and always answering the class tested scores 100."""
    rng = np.random.default_rng(0)
    for place, count in (("train/a", 12), ("train/b", 9), (f"test/{only}", 6)):
        (folder := tmp_path / "data" / place).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    data = DataConfig(f"folder:{tmp_path / 'data'}", image_size=8)
    record = evaluate("pixels", "knn", data, tmp_path / "root")
    table = tables.build([record])
    assert means(table, "majority") == {"knn balanced": share, "knn top1": share}
    assert f"All test images of `{data.name}` are of one class: always answering it scores 100." in table.notes


def test_records_that_do_not_say_show_what_they_showed() -> None:
    old = [replace(r, metrics={**r.metrics, "balanced": 20.0}) for r in quickstart()]
    assert render.to_json(tables.build(old)) == render.to_json(tables.build(quickstart()))


@pytest.mark.parametrize("headline", ["shots10", "shots10 (6 per class)"])
def test_a_few_shots_are_held_against_the_largest_class_too(headline: str) -> None:
    lowshot = replace(of("mae", 50.0, 0.0, protocol="lowshot"), headline=headline, metrics={headline: 50.0}, correct="")
    other = replace(of("mae", 50.0, 0.0, protocol="clustering"), headline="nmi", metrics={"nmi": 9.0}, correct="")
    assert means(tables.build([lowshot, other]), "majority") == {"lowshot": 70.6, "clustering": None}


def test_every_format_takes_them_and_order_does_not_matter() -> None:
    made = [of(m, 72.0, 41.0, s, p) for m in ("mae", "dino") for s in range(3) for p in ("knn", "linear")]
    for form, show in render.RENDERERS.items():
        assert "majority" in show(tables.build(made)), form
        assert show(tables.build(made)) == show(tables.build(made[::-1]))


@pytest.mark.parametrize("facts", [{"imbalance": "high"}, {"majority": None}, {"test_classes": 2.5}])
def test_what_is_no_number_is_refused(facts: dict[str, Any]) -> None:
    assert dumps(fake())
    values = to_dict(fake())
    values["data"] |= SKEWED | facts
    del values["digest"]
    with pytest.raises(UserError, match=next(iter(facts))):
        from_dict(values)


def test_the_largest_class_stands_beside_accuracies_of_all_classes_only() -> None:
    few = "top1 (6 per class)"
    knn = replace(of("mae", 50.0, 30.0, protocol="knn"), variant="fewshot", headline=few, correct="", correct_sha256="")
    knn = replace(knn, metrics={few: 50.0, "balanced": 30.0})
    ways = replace(of("mae", 50.0, 0.0, protocol="lowshot"), variant="ways", headline="shots10", correct="")
    ways = replace(ways, metrics={"shots10": 50.0}, protocol_config={"ways": 5})
    found = means(tables.build([knn, ways]), "majority")
    assert sorted(found.values(), key=str) == [pytest.approx(100 / 3), 70.6, None]


def test_why_balanced_accuracy_has_no_interval_over_images() -> None:
    made = [of(m, 72.0, 41.0 + s, s) for m in ("mae", "dino") for s in range(3)]
    said = "Intervals over seeds alone, since records hold no class per image: knn balanced."
    assert [note for note in tables.build(made).notes if "seeds alone" in note] == [said]
    bare = [replace(r, correct="", correct_sha256="") for r in made]
    assert (
        "Intervals over seeds alone, since records hold no correctness per image: knn top1." in tables.build(bare).notes
    )
