"""`folder:PATH`: class folders, split folders with class folders in them, or images without labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ssl_bench.data.images import SUFFIXES, Item
from ssl_bench.data.source import Content, Source, cut, files
from ssl_bench.data.splits import PARTS, held_out, part_of


def source(location: Path) -> Source:
    """ImageFolder: PATH/<class>/*, or PATH/train/<class>/* beside PATH/test (or val); or images without labels.

    Files and folders whose names begin with a dot are left out; of other files that are no images a note tells.
    """
    state = files(location)
    return Source(state, lambda: _content(location, state))


def _content(location: Path, state: list[tuple[str, int, int]]) -> Content:
    split = (location / "train").is_dir()
    by_part: dict[str, list[tuple[str, str]]] = {}
    others: Counter[str] = Counter()
    total = 0
    for path, size, _ in state:
        words = os.path.relpath(path, location).split(os.sep)[:-1]
        part = (PARTS.match(words[0].lower()) if words else None) if split else None
        if split and part is None:
            continue  # beside train/ and test/ there may lie a devkit, a thumbnail
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in SUFFIXES:
            others[suffix or "without a suffix"] += 1
            continue
        name = part_of(words[0], Path()) if split else "train"
        by_part.setdefault(name, []).append((path, words[int(split)] if len(words) > int(split) else ""))
        total += size
    roles, notes = held_out(list(by_part))
    if others:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
        notes.append(f"Not read, for their suffix: {shown}. Images are {', '.join(sorted(SUFFIXES))}.")
    labelled = any(label for _, label in by_part.get("train", []))
    chunks = []
    for name, rows in sorted(by_part.items(), key=lambda kv: kv[0] != "train"):
        if labelled and (loose := sum(not label for _, label in rows)):
            notes.append(f"{loose} images outside the class folders are not used.")
        rows = [(p, label) for p, label in rows if label or not labelled]
        if name in roles:
            chunks += cut(roles[name], rows, lambda row: Item(Path(row[0]), row[1], row[0]))
    return Content(chunks, total, labelled, notes)
