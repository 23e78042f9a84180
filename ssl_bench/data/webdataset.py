"""WebDataset shards: uncompressed tar files with key.jpg beside key.cls (or key.json with "label", "cls" or "class").

Nothing is unpacked to disk: members are read where they lie in the tar file, so a member's name can lead nowhere.
"""

from __future__ import annotations

import json
import os
import tarfile
from functools import partial
from pathlib import Path

from ssl_bench.data.images import MAX_BYTES, SUFFIXES, Item, Unreadable
from ssl_bench.data.source import Content, Source, cut, files
from ssl_bench.data.splits import held_out, part_of
from ssl_bench.errors import UserError

MAX_LABEL_BYTES = 2**20
LABELS = ("cls", "json", "txt")

Member = tuple[int, int]  # offset, bytes
Row = tuple[str, str, Member, dict[str, Member]]  # tar file, image member's name, image, labels by extension


def source(location: Path) -> Source:
    state = files(location, ".tar")
    if not state:
        raise UserError(f"No .tar file in {location}. Compressed shards (.tar.gz) must be unpacked to .tar first.")
    return Source(state, partial(_content, location, [path for path, _, _ in state]))


def _content(location: Path, paths: list[str]) -> Content:
    parts = {path: part_of(path, location) for path in paths}
    roles, notes = held_out(list(parts.values()))
    rows = {
        path: _index(path) for path in sorted(paths, key=lambda p: (parts[p] != "train", p)) if parts[path] in roles
    }
    labelled = any(labels for found in rows.values() for *_, labels in found)
    chunks = []
    for path, found in rows.items():
        chunks += cut(roles[parts[path]], found, partial(_item, labelled))
    total = sum(size for found in rows.values() for _, _, (_, size), _ in found)
    return Content(chunks, total, labelled, notes)


def _index(path: str) -> list[Row]:
    """One pass over the headers; the key of a member is its name up to the first dot after the last slash."""
    keys: dict[str, dict[str, tuple[str, Member]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    folder, _, base = member.name.rpartition("/")
                    stem, _, extension = base.partition(".")
                    place = (member.name, (member.offset_data, member.size))
                    keys.setdefault(f"{folder}/{stem}", {})[extension.lower()] = place
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a readable tar file: {str(error)[:120]}.") from error
    out = []
    for members in keys.values():
        name, image = next((v for k, v in members.items() if f".{k.rpartition('.')[2]}" in SUFFIXES), ("", (0, 0)))
        if name:
            out.append((path, name, image, {k: members[k][1] for k in LABELS if k in members}))
    return out


def _item(labelled: bool, row: Row) -> Item:
    path, name, image, labels = row
    place = f"{path}:{name}"
    if image[1] > MAX_BYTES:
        return Item(Unreadable(f"{image[1]:,} bytes, more than {MAX_BYTES:,}"), "", place)
    try:
        label = _label(path, labels) if labelled else ""
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Item(Unreadable(f"no label ({type(error).__name__}: {str(error)[:80]})"), "", place)
    return Item(_bytes(path, image), label, place, name=name)


def _label(path: str, labels: dict[str, Member]) -> str:
    kind = next(k for k in LABELS if k in labels) if labels else ""
    if not kind:
        raise ValueError("there is none")
    if labels[kind][1] > MAX_LABEL_BYTES:
        raise ValueError(f"{labels[kind][1]:,} bytes")
    text = _bytes(path, labels[kind]).decode().strip()
    value = text
    if kind == "json":
        found = json.loads(text)
        value = next(str(found[k]) for k in ("label", "cls", "class") if k in found)
    return f"{int(value):05d}" if value.isascii() and value.isdigit() else value


def _bytes(path: str, member: Member) -> bytes:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), member[1], member[0])
