"""What is odd or wrong with a drawn data set: each twist changes what is to be written and says what is right.

It may return what is to be done once the set is on disk.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import made_pictures
import numpy as np
import pyarrow as pa
from made_writers import Made, Row


def _change(made: Made, rng: np.random.Generator, change: Callable[[Row], Row], part: str = "") -> int:
    """Change one to three rows (of a part); how many."""
    at = [i for i, r in enumerate(made.rows) if part in ("", r.part)]
    chosen = rng.permutation(at)[: int(rng.integers(1, 4))].tolist()
    for i in chosen:
        made.rows[i] = change(made.rows[i])
    return len(chosen)


def _broken_images(made: Made, rng: np.random.Generator) -> None:
    def breaks(row: Row) -> Row:
        data, how = made_pictures.broken(rng, row.picture.data)
        return replace(row, picture=replace(row.picture, data=data), bad=how)

    _change(made, rng, breaks)


def _unknown_test_classes(made: Made, rng: np.random.Generator) -> None:
    if made.kind == "folder" and made.test:
        made.rows = [
            replace(r, label=f"01_{r.label}", typed=f"01_{r.label}") if r.part == made.test else r for r in made.rows
        ]
        made.outcome, made.said = "sentence", ["without a training image"]


def _two_spellings_of_a_letter(made: Made, rng: np.random.Generator) -> None:
    if made.kind == "folder" or isinstance(made.rows[0].typed, str):
        forms = {"train": "NFC", "test": "NFD", "val": "NFD"}
        made.rows = [replace(r, typed=unicodedata.normalize(forms[r.part], r.typed)) for r in made.rows]


def _blanks_after_names(made: Made, rng: np.random.Generator) -> None:
    if isinstance(made.rows[0].typed, str):
        _change(made, rng, lambda r: replace(r, typed=f"{r.typed} "))


def _twins(made: Made, rng: np.random.Generator) -> None:
    if made.test:
        first = next(r for r in made.rows if r.part == "train")
        label = next((r for r in made.rows if r.part == made.test and r.label == first.label), None)
        if label is not None:
            made.rows.append(replace(label, picture=first.picture))
            made.said.append("1 of .* test images are also in the training split")


def _junk_beside(made: Made, rng: np.random.Generator) -> Callable[[], None]:
    def after() -> None:
        for name in ("README.txt", ".DS_Store", "._0.png", "Thumbs.db", "labels.csv", ".hidden/0.png"):
            path = made.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(made.rows[0].picture.data)

    return after


def _test_without_labels(made: Made, rng: np.random.Generator) -> None:
    if "test" in made.spelt:
        none = {"folder": "", "parquet": -1, "webdataset": None}[made.kind]
        if made.kind == "parquet" and isinstance(made.rows[0].typed, str):
            return
        made.rows = [replace(r, label="", typed=none) if r.part == "test" else r for r in made.rows]
        made.said = ["Not used: test"]


def _nothing(made: Made, rng: np.random.Generator) -> None:
    made.rows, made.outcome, made.said = [], "sentence", []


def _unlabelled(made: Made, rng: np.random.Generator) -> None:
    if made.kind != "parquet":
        made.rows = [replace(r, label="", typed="" if made.kind == "folder" else None) for r in made.rows]
        made.labelled, made.said = False, ["no labels"]
        made.wrap = made.wrap if len(made.parts) > 1 else ()  # a folder of images alone in another one is a class


def _loose_images(made: Made, rng: np.random.Generator) -> Callable[[], None]:
    made.said.append(r"images? (outside the class folders|beside the folders)")
    if made.wrap:
        made.outcome = "either"
    picture = made_pictures.picture(rng, 5, 16)
    return lambda: (made.root / f"loose{picture.suffix}").write_bytes(picture.data) and None


def _links(made: Made, rng: np.random.Generator) -> Callable[[], None]:
    def after() -> None:
        inside = next(p for p in sorted(made.root.rglob("*")) if p.is_file()).parent
        os.symlink(made.root, inside / "back")
        away = made.root.parent / "elsewhere"
        inside.rename(away)
        os.symlink(away, inside)

    return after


def _dangling_links(made: Made, rng: np.random.Generator) -> None:
    _change(made, rng, lambda r: replace(r, bad="link", link=True))


def _empty_class(made: Made, rng: np.random.Generator) -> Callable[[], None]:
    return lambda: [p.mkdir() for p in [made.root / "empty"]] and None


def _blank_class(made: Made, rng: np.random.Generator) -> None:
    made.rows = [replace(r, typed="  ") if r.label == made.rows[0].label else r for r in made.rows]
    made.outcome, made.said = "sentence", []


def _unlabelled_folder(made: Made, rng: np.random.Generator) -> None:
    extra = [replace(r, label="?", typed="Unlabeled") for r in made.rows if r.part == "train"][:6]
    codes = iter(range(7, 7 + 24, 2))
    made.rows += [replace(r, picture=made_pictures.picture(rng, next(codes), 16)) for r in extra]
    made.outcome, made.said = "sentence", ["Unlabeled"]


def _missing_labels(made: Made, rng: np.random.Generator) -> None:
    text = isinstance(made.rows[0].typed, str) or made.kind == "webdataset"
    values: list[Any] = ["", "  ", "nan", "NULL", "-1", None] if text else [None, -1]
    value = values[rng.integers(len(values))]
    _change(made, rng, lambda r: replace(r, typed=value, bad="label"), "train")


def _lists(made: Made, rng: np.random.Generator) -> None:
    made.rows = [replace(r, typed=[r.typed]) for r in made.rows]
    made.outcome, made.said = "sentence", ["one class per image"]


def _cut_file(made: Made, rng: np.random.Generator) -> Callable[[], None]:
    made.outcome, made.said = "sentence", ["not a readable"]

    def after() -> None:
        path = next(p for p in sorted(made.root.rglob("*")) if p.is_file())
        data = path.read_bytes().rstrip(b"\0")  # a tar file ends with zeros, which are no loss
        path.write_bytes(data[: len(data) // 2])

    return after


def _other_types(made: Made, rng: np.random.Generator) -> None:
    texts = [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.binary()]
    numbers = [pa.int8(), pa.uint8(), pa.float32()]
    value = made.rows[0].typed
    made.table["type"] = (texts if isinstance(value, str) else numbers)[rng.integers(3)]


def _depth_beside(made: Made, rng: np.random.Generator) -> None:
    made.table["beside"] = ".depth.png"
    made.said.append("depth.png")


def _two_images(made: Made, rng: np.random.Generator) -> None:
    made.table |= {"beside": ".left.jpg", "ext": ".right"}
    made.outcome, made.said = "sentence", ["images under one key"]


def _linked_members(made: Made, rng: np.random.Generator) -> None:
    made.table["linked"] = True
    made.said.append("links")


def _members_twice(made: Made, rng: np.random.Generator) -> None:
    made.table["twice"] = True
    made.outcome, made.said = "sentence", ["twice"]


def _class_folders(made: Made, rng: np.random.Generator) -> None:
    made.table["folders"] = True
    made.outcome, made.said = "sentence", ["folder"]


TWISTS: dict[str, list[Callable[[Made, np.random.Generator], Callable[[], None] | None]]] = {
    "any": [_broken_images, _unknown_test_classes, _two_spellings_of_a_letter, _blanks_after_names, _twins,
            _junk_beside, _test_without_labels, _nothing, _unlabelled],
    "folder": [_loose_images, _links, _dangling_links, _empty_class, _blank_class, _unlabelled_folder],
    "parquet": [_missing_labels, _lists, _cut_file, _other_types],
    "webdataset": [_missing_labels, _cut_file, _depth_beside, _two_images, _linked_members, _members_twice,
                   _class_folders],
}  # fmt: skip
