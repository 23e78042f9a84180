"""What a source of images is: chunks that several processes can read side by side, and the files below a place.

No torch here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ssl_bench.data.images import Item
from ssl_bench.data.masks import Masks
from ssl_bench.errors import UserError

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
    read: list[str] = field(default_factory=list)  # which file or folder became which split, in words
    masks: Masks | None = None  # of every image, or of none

    def __post_init__(self) -> None:
        """Without labels there is nothing to test by: all images are for training, and lie in its part of the store."""
        held = sum(chunk.count for chunk in self.chunks if chunk.split == "test")
        if held and not self.labelled:
            self.chunks[:] = [replace(chunk, split="train") for chunk in self.chunks]
            self.read[:] = [line.replace("test: ", "train: ", 1) for line in self.read]
            self.notes.append(f"Without labels {held:,} images of its test split are for pretraining too.")

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
        found = [(p, _stat(p)) for p in glob.glob(str(location), recursive=True) if not os.path.isdir(p)]
    elif location.is_file():
        found = [(str(location), location.stat())]
    else:
        found = list(_walk(location, ()))
    return sorted((p, s.st_size, s.st_mtime_ns) for p, s in found if p.lower().endswith(suffix))


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which frame2 comes before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _stat(path: str) -> os.stat_result:
    """Of what a link leads to; of the link itself where it leads nowhere: reading it then says so."""
    try:
        return os.stat(path)
    except OSError:
        return os.lstat(path)


def _walk(location: Path | str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder. A link back to a folder above it is not followed: its files are read there."""
    try:
        about = os.stat(location)
        entries = sorted(os.scandir(location), key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError(
            f"The folder {location} may not be read ({error.strerror}): what it holds is not known."
        ) from error
    here = (about.st_dev, about.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue  # .DS_Store, and macOS's ._x.jpg beside every x.jpg on a memory card
        if stat.S_ISDIR((about := _stat(entry.path)).st_mode):
            yield from _walk(entry.path, (*above, here))
        elif stat.S_ISLNK(about.st_mode) and not os.path.splitext(entry.name)[1]:
            raise UserError(
                f"{entry.path} is a link that leads nowhere (to {os.readlink(entry.path)}): a folder may be missing. "
                "Mount it, or remove the link."
            )
        elif stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode):
            yield entry.path, about


def number_of(name: str, rest: str, what: str, default: int, least: int, most: int = 0) -> int:
    """Training items of a set that is made here, from what follows `name:`; `most` 0: no bound."""
    if rest and not (rest.isdecimal() and least <= int(rest) <= (most or int(rest))):
        bounds = f"{least} to {most:,}" if most else f"{least} or more"
        raise UserError(f"'{name}:{rest}': write a number of training {what}, {bounds}, as in {name}:2000.")
    return int(rest or default)


def sizes(number: int) -> dict[str, int]:
    """Items in each split of a set that is made here: a quarter as many to test as to train."""
    return {"train": number, "test": number // 4}


def drawn(number: int, make: Callable[[str, int], Item]) -> list[Chunk]:
    """Chunks of a set that is made here, from what makes item i of a split."""
    return [chunk for split, n in sizes(number).items() for chunk in cut(split, range(n), partial(make, split))]


def cut(split: str, items: Sequence[Any], make: Callable[[Any], Item]) -> list[Chunk]:
    """Chunks over a list from which `make` makes items."""

    def read(start: int) -> Iterator[Item]:
        return map(make, items[start : start + CHUNK])

    return [Chunk(split, min(CHUNK, len(items) - i), partial(read, i)) for i in range(0, len(items), CHUNK)]
