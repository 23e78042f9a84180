"""What a source of images is: chunks that several processes can read side by side, and the files below a place.

No torch here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ssl_bench.data.images import Item

WILD = re.compile(r"[*?[]")
CHUNK = 1024  # images that one process reads, and writes, at a time


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
    kind: str = "image"  # of its items


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


def cut(split: str, items: Sequence[Any], make: Callable[[Any], Item]) -> list[Chunk]:
    """Chunks over a list from which `make` makes items."""

    def read(start: int) -> Iterator[Item]:
        return map(make, items[start : start + CHUNK])

    return [Chunk(split, min(CHUNK, len(items) - i), partial(read, i)) for i in range(0, len(items), CHUNK)]
