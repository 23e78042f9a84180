"""The same images under two names are one set: nothing falls out of a table for the name it was last evaluated by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fake_records import fake

from results import tables
from results.records import Record
from results.rows import by_table, together


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
