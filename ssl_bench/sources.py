"""A data set's name -> where its images lie, in chunks that several processes can read side by side.

`data.name` is a name of the catalogue, `folder:PATH`, `parquet:PATH`, `webdataset:PATH` or `hf:NAME`. No torch here.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ssl_bench.errors import UserError, nearest
from ssl_bench.images import SUFFIXES, Item, Unreadable

EMBEDDED = {"clothing48": Path(__file__).parent / "embedded" / "clothing48"}
KINDS = {"folder": "PATH", "parquet": "PATH", "webdataset": "PATH", "hf": "NAME"}
WILD = re.compile(r"[*?[]")
CHUNK = 1024  # images that one process reads, and writes, at a time
PARTS = re.compile(r"(train|test|val|valid|validation|dev|unlabell?ed|unsupervised|extra)(ing)?(?![a-z])")
LABEL = ("label", "labels", "cls", "fine_label", "class", "target")  # a column of any of these names


@dataclass(frozen=True)
class Chunk:
    """Some images of one split, read in a fixed order."""

    split: str  # "train" or "test"
    count: int
    read: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class Content:
    """What a source holds."""

    chunks: list[Chunk]
    encoded_bytes: int  # about what the encoded images take
    labelled: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(chunk.count for chunk in self.chunks)


@dataclass(frozen=True)
class Source:
    """A place with images. `state` is cheap and tells a changed source; `content` lists everything."""

    state: list[tuple[str, int, int]]  # path, bytes, modification time of every file
    content: Callable[[], Content]


def find(name: str) -> Source:
    """The source of a data set's name. `UserError` with the nearest name, or with how to get the set."""
    kind, _, rest = name.partition(":")
    if name in EMBEDDED:
        return _of_path("parquet", str(EMBEDDED[name]))
    if kind == "factors":
        return _drawn(rest)
    if kind in KINDS and rest:
        if kind == "hf":
            from ssl_bench import hub

            return hub.source(rest)
        return _of_path(kind, rest)
    from ssl_bench import catalogue

    if kind in catalogue.names():
        return catalogue.source(name)
    if name and Path(name).expanduser().exists():
        kind = {".parquet": "parquet", ".tar": "webdataset"}.get(Path(name).suffix, "folder")
        raise UserError(f"'{name}' is a path: write {kind}:{name}.")
    raise UserError(f"Unknown data '{name}'. {nearest(name, known())} See 'ssl-bench list datasets'.")


def known() -> list[str]:
    """Every name, for hints."""
    from ssl_bench import catalogue

    return [*EMBEDDED, "factors", *catalogue.names(), *(f"{kind}:{what}" for kind, what in KINDS.items())]


def _of_path(kind: str, rest: str) -> Source:
    location = Path(rest).expanduser()
    if not (location.exists() or (kind != "folder" and WILD.search(rest))):
        raise UserError(
            f"No such path: {location}. Give an existing {'folder' if kind == 'folder' else 'file or folder'}."
        )
    if kind == "folder":
        if not location.is_dir():
            raise UserError(f"{location} is a file: folder: needs a folder with one sub-folder per class.")
        return folder(location)
    from ssl_bench import parquet, shards

    return (parquet if kind == "parquet" else shards).source(location)


def _drawn(rest: str) -> Source:
    """The set `factors`."""
    from ssl_bench import factors

    number = factors.count(rest)

    def make(split: str, i: int) -> Item:
        image, shape, values = factors.item(split, i)
        return Item(image, shape, f"factors {split} image {i}", values)

    def content() -> Content:
        train, test = range(number), range(number // 4)
        chunks = cut("train", train, partial(make, "train")) + cut("test", test, partial(make, "test"))
        return Content(chunks, number * 3 * factors.SIDE**2)

    return Source(files(Path(factors.__file__)), content)


def is_pattern(location: Path) -> bool:
    """Whether a path is a glob; a file or folder that is there under that very name is none."""
    return bool(WILD.search(str(location))) and not location.exists()


def files(location: Path, suffix: str = "") -> list[tuple[str, int, int]]:
    """(path, bytes, modification time) of a file, a glob or everything below a folder, sorted by path."""
    if is_pattern(location):
        found = [(p, os.stat(p)) for p in glob.glob(str(location), recursive=True) if os.path.isfile(p)]
    elif location.is_file():
        found = [(str(location), location.stat())]
    else:
        found = list(_walk(location))
    return sorted((p, s.st_size, s.st_mtime_ns) for p, s in found if p.lower().endswith(suffix))


def _walk(location: Path | str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(location) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue  # .DS_Store, and macOS's ._x.jpg beside every x.jpg on a memory card
            if entry.is_dir():
                yield from _walk(entry.path)
            elif entry.is_file():
                yield entry.path, entry.stat()


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


def cut(split: str, items: Sequence[Any], make: Callable[[Any], Item]) -> list[Chunk]:
    """Chunks over a list from which `make` makes items."""

    def read(start: int) -> Iterator[Item]:
        return map(make, items[start : start + CHUNK])

    return [Chunk(split, min(CHUNK, len(items) - i), partial(read, i)) for i in range(0, len(items), CHUNK)]


def folder(location: Path) -> Source:
    """ImageFolder: PATH/<class>/*, or PATH/train/<class>/* beside PATH/test (or val); or images without labels.

    Files and folders whose names begin with a dot are left out; of other files that are no images a note tells.
    """
    state = files(location)
    return Source(state, lambda: _folder_content(location, state))


def _folder_content(location: Path, state: list[tuple[str, int, int]]) -> Content:
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


def labelled(data: Any, label: Any, names: Sequence[str], place: str, file: str = "") -> Item:
    """An item from a row's image and label; what cannot be right becomes `Unreadable`."""
    if not isinstance(data, (bytes, Path, Image.Image)):
        data = Unreadable("the row has no image bytes; paths in a row are not followed")
    if label is None or (isinstance(label, int) and (label < 0 or (names and label >= len(names)))):
        return Item(Unreadable(f"label {label} is none of the {len(names) or 'known'} classes"), "", place)
    text = str(names[label] if names else f"{label:05d}") if isinstance(label, int) else str(label)
    return Item(data, text, place, name=file)
