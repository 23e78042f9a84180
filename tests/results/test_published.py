"""Published numbers: complete, sourced, and none of those that circulate and are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_records import fake

from results import published, render, tables
from ssl_bench.errors import UserError

WRONG = [  # (method, part of the architecture, part of the protocol, value): those listed as wrong in the references
    ("I-JEPA", "H/14", "linear", 77.3),
    ("I-JEPA", "H/14", "linear", 81.7),
    ("I-JEPA", "B/16", "linear", 75.3),
    ("I-JEPA", "B", "fine-tune", 83.5),
    ("I-JEPA", "B", "fine-tune", 83.9),
    ("I-JEPA", "", "1 %", 67.0),
    ("MAE", "", "1 %", 54.1),
    ("MAE", "H/14", "linear", 76.0),
    ("MAE", "B/16", "k-NN (EP", 16.1),
    ("iBOT", "L", "linear", 81.7),
    ("DINO", "B/16", "k-NN", 71.6),
    ("iBOT", "B/16", "k-NN", 73.6),
    ("DINOv2", "B/14", "k-NN", 79.3),
    ("V-JEPA", "", "linear", 74.8),
    ("V-JEPA", "", "linear", 75.9),
    ("V-JEPA", "", "linear", 77.4),
    ("DINOv3", "7B", "ObjectNet", 91.1),
    ("LeJEPA", "H/14", "linear", 79.0),
]


def test_none_of_the_wrong_ones() -> None:
    for entry in published.load():
        for method, architecture, protocol, value in WRONG:
            assert not (
                entry["method"] == method
                and architecture in entry["architecture"]
                and protocol in entry["protocol"]
                and entry["value"] == value
            ), entry
        assert (entry["method"], entry["architecture"]) != ("DINOv2", "ViT-H/14")  # no such model


def test_complete_and_checked() -> None:
    entries = published.load()
    assert len(entries) > 100
    assert all(e["checked"] and e["source"] and 0 < e["value"] < 100 for e in entries)
    keys = [(e["method"], e["architecture"], e["protocol"], e["note"], e["source"]) for e in entries]
    assert len(set(keys)) == len(keys)
    values = {(e["method"], e["architecture"], e["protocol"]): e["value"] for e in entries if not e["note"]}
    assert values["MAE", "ViT-B/16", "linear (LIN-MAE)"] in (67.8, 68.0)  # the reproduction anchors
    assert values["DINO", "ViT-S/16", "k-NN (KNN-DINO)"] == 74.5


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[[published]]\nsource = "x"\nrows = [["MAE", "B", "linear", 1]]\n')
    with pytest.raises(UserError, match="checked"):
        published.load(path)


def test_beside_and_never_mixed() -> None:
    made = [fake("mae", 40, s) for s in range(3)]
    with_them, without = tables.build(made, published.load()), tables.build(made)
    assert with_them.rows == without.rows
    assert with_them.notes == without.notes
    assert "Published by others" in render.to_text(with_them)
    assert "Published by others" not in render.to_text(without)
