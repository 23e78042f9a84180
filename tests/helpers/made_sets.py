"""A generator of small data sets of which the right reading is known by construction.

A set is drawn: its layout and the spelling of its splits, its classes, its pictures, and one thing that is odd or wrong
with it (a twist). The twist says what the right outcome is: the same table, a table with a sentence, or a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_pictures
import numpy as np
from made_twists import TWISTS
from made_writers import WRITE, Made, Row

SPLITS = {
    "train": ("train", "Train", "TRAIN", "training", "Training_set", "seg_train", "trn", "pets-train", "TrainingSet"),
    "test": ("test", "Test", "TESTING", "test_set", "seg_test", "testset", "holdout", "eval", "Evaluation"),
    "val": ("val", "valid", "Validation", "dev", "val2017", "pets-VAL"),
}
CLASSES = (
    ("ant", "bee", "cat", "dog"), ("0", "1", "2", "10"), ("n01440764", "n02102040", "n03394916"),
    ("café", "größe", "日本", "naïve 🐜"), ("a b", "a'b", "x;rm", "$HOME"), ("-flag", "100%", "a=b", "#1"),
    ("testudo", "trainers", "latest", "validator"), ("[x]", "~tmp", "a.b", "x*"), ("Ant", "ant", "bee"),
)  # fmt: skip
PLACES = ("set", "a b", "set[1]", "set#1", "été", "train", "my:set", "100% *")
WRAPS = ("photos", "archive (1)", "chest_xray", "ü")


def make(seed: int, root: Path, size: int) -> Made:
    """Set number `seed`, written below `root`; its pictures are known at `size` pixels."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["folder", "parquet", "webdataset"]))
    classes = CLASSES[rng.integers(len(CLASSES))][: int(rng.integers(2, 5))]
    parts = [("train",), ("train", "test"), ("train", "val"), ("train", "val", "test")][rng.integers(4)]
    codes = iter(rng.permutation(np.arange(300, 65000, 7)).tolist())
    rows = [
        Row(part, name, name, made_pictures.picture(rng, next(codes), size))
        for part in parts
        for name in classes
        for _ in range(int(rng.integers(5, 8) if part == "train" else rng.integers(1, 3)))
    ]
    spelt = {p: str(rng.choice(SPLITS[p])) if len(parts) > 1 else "" for p in parts}
    made = Made(kind, root / str(rng.choice(PLACES)), rows, spelt)
    made.wrap = tuple(rng.choice(WRAPS, int(rng.integers(0, 3)), replace=False).tolist())
    made.name = f"{kind}:{made.root}"
    _labels(made, rng, list(classes))
    if parts == ("train", "val", "test"):
        made.said.append("Not used: val")
    twists = [*TWISTS["any"], *TWISTS[kind]]
    twist = twists[rng.integers(len(twists))] if rng.random() < 0.85 else None
    before = None
    if twist is not None:
        made.twist = twist.__name__.strip("_")
        before = twist(made, rng)
    made.root.mkdir(parents=True)
    WRITE[kind](made, rng)
    if before is not None:
        before()
    return made


def _labels(made: Made, rng: np.random.Generator, classes: list[str]) -> None:
    """How classes are written down: names; or, in tables and shards, numbers with or without names."""
    how = str(rng.choice(["names", "numbers", "floats", "named"]))
    digits = made.kind == "webdataset" and all(c.isdigit() for c in classes)
    if how in ("names", "named") and digits:  # a number in a shard's text is a number
        made.rows = [replace(r, label=f"{int(r.label):05d}") for r in made.rows]
    if made.kind == "folder" or how == "names" or (how == "named" and made.kind != "parquet"):
        return
    at = {c: i for i, c in enumerate(classes)}
    made.names = classes if how == "named" else []
    value: Callable[[str], Any] = (lambda c: float(at[c])) if how == "floats" else (lambda c: at[c])
    if made.kind == "webdataset" and how == "floats":
        value = lambda c: at[c]  # noqa: E731
    made.rows = [
        replace(r, typed=value(r.label), label=r.label if made.names else f"{at[r.label]:05d}") for r in made.rows
    ]
