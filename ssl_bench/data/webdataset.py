"""WebDataset shards: uncompressed tar files with key.jpg beside key.cls (or key.json with "label", "cls" or "class").

Nothing is unpacked to disk: members are read where they lie in the tar file, so a member's name can lead nowhere.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ssl_bench.data.images import MAX_BYTES, Item, Unreadable
from ssl_bench.data.items import of_kind
from ssl_bench.data.labels import as_text, class_name
from ssl_bench.data.source import Content, Source, cut, files, natural
from ssl_bench.data.splits import NO_CHOICE, Choice, held_out, parts_of, split_lines
from ssl_bench.errors import UserError

MAX_LABEL_BYTES = 2**20
LABELS = ("cls", "label", "json", "txt")  # members that may hold the class, the first that is there and holds one
FIELDS = ("label", "cls", "class")  # of a .json
LOOKED_AT = 1000  # samples of a file that tell whether its .json and .txt hold classes

Member = tuple[int, int]  # offset, bytes
Row = tuple[str, str, list[Member], dict[str, Member]]  # tar file, name, members of the item, labels by extension


def source(location: Path, by_hand: Choice = NO_CHOICE) -> Source:
    """Shards below a place; `#image=EXTENSION` and `#label=EXTENSION` choose members where samples hold several.

    `#label=none` reads images without classes, whatever lies beside them.
    """
    state = files(location, ".tar")
    if not state:
        raise UserError(f"No .tar file in {location}. Compressed shards (.tar.gz) must be unpacked to .tar first.")
    return Source(state, partial(_content, location, [path for path, _, _ in state], by_hand), by_hand.kind)


def _content(location: Path, paths: list[str], by_hand: Choice) -> Content:
    parts, notes = parts_of(paths, location, by_hand)
    found = {path: _index(path, by_hand, notes) for path in paths if parts[path]}
    kinds = _kinds(found, by_hand, notes)
    if not kinds and by_hand.one("label") != "none":
        _refuse_folders(found)
    blank = {part for part in parts.values() if kinds and not _any_label(parts, found, kinds, part)}
    roles, unused = held_out(parts.values(), sorted(blank))
    notes += unused
    labelled = bool(kinds)
    chunks, total = [], 0
    for path in sorted(found, key=lambda p: (parts[p] != "train", p)):
        if parts[path] in roles:
            chunks += cut(roles[parts[path]], found[path], partial(_item, kinds, of_kind(by_hand.kind).parts))
            total += sum(size for _, _, members, _ in found[path] for _, size in members)
    return Content(chunks, total, labelled, notes, split_lines(parts, roles))


def _index(path: str, by_hand: Choice, notes: list[str]) -> list[Row]:
    """One pass over the headers; the key of a member is its name up to the first dot after the last slash."""
    keys: dict[str, dict[str, tuple[str, Member]]] = {}
    links = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                links += member.islnk() or member.issym()
                if member.isfile() and not base.startswith("."):  # macOS's tar puts ._x.jpg beside every x.jpg
                    stem, _, extension = base.partition(".")
                    place = (member.name, (member.offset_data, member.size))
                    sample = keys.setdefault(f"{folder}/{stem}", {})
                    if extension.lower() in sample:
                        raise UserError(f"{path} holds {member.name} twice: which of them is meant is not known.")
                    sample[extension.lower()] = place
            _refuse_cut(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a readable tar file: {str(error)[:120]}.") from error
    out: list[Row] = []
    beside: Counter[str] = Counter()
    for members in keys.values():
        if not (chosen := _chosen(path, members, by_hand, beside)):
            continue
        name, image = members[chosen[0]][0], [members[k][1] for k in chosen]
        own = {k: place for k, (_, place) in members.items() if k in LABELS or k == by_hand.one("label")}
        ends = [k for k in members if k.endswith(".cls")]  # target.cls, as webdataset's pages have it
        if not own and len(ends) == 1:
            own = {"cls": members[ends[0]][1]}
        out.append((path, name, image, own))
    if links:
        notes.append(f"{links:,} links in {os.path.basename(path)} are not followed (tar --dereference packs files).")
    if len(out) < len(keys):
        notes.append(f"{len(keys) - len(out):,} samples of {os.path.basename(path)} have no image and are not used.")
    notes += [f"Not read, beside the images of {os.path.basename(path)}: {n:,} .{k}." for k, n in beside.items()]
    return out


def _refuse_cut(path: str, after: int) -> None:
    """Two blocks of zeros end a tar file; Python's reader takes one without for whole, and leaves out what follows."""
    with open(path, "rb") as file:
        file.seek(after)
        end = file.read(512)
        if len(end) < 512 or end.strip(b"\0"):
            raise UserError(f"{path} is not a readable tar file: it has no end, so it was cut off or is being written.")
        while more := file.read(2**20):
            if more.strip(b"\0"):
                raise UserError(f"{path} is not a readable tar file: more follows its end (tar -A joins two).")


def _refuse_folders(found: dict[str, list[Row]]) -> None:
    """An archive of class folders is no shard: its classes would be lost."""
    folders = sorted({name.rpartition("/")[0] for rows in found.values() for _, name, _, _ in rows})
    if len(folders) > 1:
        shown = ", ".join(f"'{name}'" for name in folders[:3]) + ", ..." * (len(folders) > 3)
        raise UserError(
            f"No sample has a class (.cls, .json), and the images lie in {len(folders)} folders ({shown}): if these "
            "are classes, unpack the files and write folder:PATH; if not, #label=none after the data's name."
        )


def _chosen(path: str, members: dict[str, tuple[str, Member]], by_hand: Choice, beside: Counter[str]) -> list[str]:
    """The extension of a sample's item: the one asked for, the only one, or the only plain one (not depth.png).

    Of a sample without one, those of all its parts: frames in the order of their names (key.0001.jpg).
    """
    kind, wanted = of_kind(by_hand.kind), by_hand.one("image")
    images = [k for k in members if f".{k.rpartition('.')[2]}" in kind.suffixes]
    parts = [k for k in members if f".{k.rpartition('.')[2]}" in kind.parts]
    if parts and not images and wanted in ("", *parts):
        return sorted((k for k in parts if k.rpartition(".")[2] == (wanted or k).rpartition(".")[2]), key=natural)
    if wanted:
        chosen = [k for k in images if k == wanted]
    else:
        chosen = images if len(images) < 2 else [k for k in images if "." not in k]
    if len(images) > 1 and len(chosen) != 1 and not wanted:
        one, two = (members[k][0] for k in images[:2])
        todo = f"Say which is the image, as #image={images[0]} after the data's name."
        if len(images) > 4:  # no sample has so many: the names have dots
            todo = "Write shards whose keys have no dot."
        raise UserError(
            f"{path} has {len(images)} images under one key, among them {one} and {two}: a key ends at the first dot "
            f"of a name. {todo}"
        )
    beside.update(k for k in images if k not in chosen)
    return chosen[:1]


def _kinds(found: dict[str, list[Row]], by_hand: Choice, notes: list[str]) -> list[str]:
    """The members that hold classes, of the set as a whole; [] where none does: a caption is no class."""
    wanted = by_hand.one("label")
    if wanted == "none":
        return []
    if wanted:
        if not any(wanted in labels for rows in found.values() for *_, labels in rows):
            raise UserError(f"#label={wanted}: no sample has a member .{wanted}.")
        return [wanted]
    there = {k for rows in found.values() for *_, labels in rows for k in labels}
    kinds: list[str] = [k for k in ("cls", "label") if k in there]
    if "json" in there and any(_field(text) is not None for text in _texts(found, "json")):
        kinds.append("json")
    if "txt" in there and not kinds:
        texts = list(_texts(found, "txt"))
        if 1 < len(set(texts)) <= len(texts) / 2:
            return ["txt"]
        notes.append("The .txt members are read as captions, not as classes (#label=txt: as classes).")
    return kinds


def _texts(found: dict[str, list[Row]], kind: str) -> Iterator[str]:
    for rows in found.values():
        for path, _, _, labels in rows[:: -(-len(rows) // LOOKED_AT) or 1]:
            if kind in labels and labels[kind][1] <= MAX_LABEL_BYTES:
                yield _bytes(path, labels[kind]).decode(errors="replace").strip()


def _field(text: str) -> tuple[Any] | None:
    """The label of a .json in a tuple, for it may be null; None where it has no such field."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return next(((found[k],) for k in FIELDS if k in found), None) if isinstance(found, dict) else None


def _any_label(parts: dict[str, str], found: dict[str, list[Row]], kinds: list[str], part: str) -> bool:
    """Whether some sample of a part has a class: published test shards have none."""
    rows = (row for path, own in found.items() if parts[path] == part for row in own)
    return any(not isinstance(_item(kinds, frozenset(), row).image, Unreadable) for row in rows)


def _item(kinds: list[str], frames: frozenset[str], row: Row) -> Item:
    """The image with its class, or why there is none."""
    path, name, image, labels = row
    place = f"{path}:{name}"
    if (size := sum(size for _, size in image)) > MAX_BYTES:
        return Item(Unreadable(f"{size:,} bytes, more than {MAX_BYTES:,}"), "", place)
    try:
        label = _label(path, kinds, labels) if kinds else ""
    except Unreadable as why:
        return Item(why, "", place)
    except (ValueError, OSError) as error:
        return Item(Unreadable(f"no label ({type(error).__name__}: {str(error)[:80]})"), "", place)
    parts = [_bytes(path, member) for member in image]
    several = f".{name.rpartition('.')[2].lower()}" in frames
    return Item(parts if several else parts[0], label, place, name=name)


def _label(path: str, kinds: list[str], labels: dict[str, Member]) -> str:
    kind = next((k for k in kinds if k in labels), "")
    if not kind:
        raise Unreadable(f"no label: there is no .{' or .'.join(kinds)} beside it")
    if labels[kind][1] > MAX_LABEL_BYTES:
        raise Unreadable(f"no label: .{kind} has {labels[kind][1]:,} bytes")
    text = _bytes(path, labels[kind]).decode().strip()
    value: Any = text
    if kind == "json":
        if (found := _field(text)) is None:
            raise Unreadable(f"no label: .json has none of {', '.join(FIELDS)}")
        value = found[0]
    number = as_text(value) or ""
    return class_name(int(number) if number.isascii() and number.isdigit() else value)


def _bytes(path: str, member: Member) -> bytes:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), member[1], member[0])
