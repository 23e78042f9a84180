"""Which file or folder is which split, told by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ssl_bench.data.source import is_pattern

PARTS = re.compile(r"(train|test|val|valid|validation|dev|unlabell?ed|unsupervised|extra)(ing)?(?![a-z])")


def part_of(path: str, location: Path) -> str:
    """train, test, val or other, from the file's name or the folders between it and `location`; else train."""
    while is_pattern(location) or location.is_file():
        location = location.parent
    below = os.path.relpath(path, location)
    for word in reversed(below.lower().split(os.sep)):
        if found := PARTS.match(word):
            return {"valid": "val", "validation": "val", "dev": "val"}.get(found[1], found[1])
    return "train"


def held_out(parts: Sequence[str], unlabelled: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Which part is which split: test is `test` or else `val`, never both; and notes on what is left out."""
    there = sorted(set(parts))
    test = next((p for p in ("test", "val") if p in there and p not in unlabelled), "")
    unused = [p for p in there if p not in ("train", test)]
    roles = {"train": "train", **({test: "test"} if test else {})}
    return roles, [f"Not used: {', '.join(unused)} (test is '{test}')."] if unused else []
