"""`folder:PATH`: class folders, split folders with class folders in them, or images without labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ssl_bench.data import groups, mask_files, split_lists
from ssl_bench.data.images import SUFFIXES, Item, Unreadable
from ssl_bench.data.items import KINDS, Kind, of_kind
from ssl_bench.data.labels import tidy
from ssl_bench.data.source import Content, Source, cut, files
from ssl_bench.data.splits import DECIDE, MASKS, NO_CHOICE, Choice, folder_roles, held_out, role_of
from ssl_bench.errors import UserError, nearest

Row = tuple[str, list[str]]  # an image's path, and the folders it lies in below the place looked at


def source(location: Path, by_hand: Choice = NO_CHOICE) -> Source:
    """ImageFolder: PATH/<class>/*, or PATH/train/<class>/* beside PATH/test (or val); or images without labels.

    Folders that only wrap the others are looked through. Files and folders whose names begin with a dot are left out;
    of other files that are no images a note tells. `#group=PATTERN`: what that regular expression matches from the
    start of an image's path, from its class on, says what belongs together (see groups),
    as `#group=.+(?=_)` for a/tile7_2.jpg.

    `#masks=FOLDER`, a folder in PATH: masks for every pixel (mask_files says what their values mean). That of
    images/a/x.jpg is FOLDER/images/a/x.png or FOLDER/a/x.png, or has another suffix of images.

    Text files that list the splits, as those of UCF101 and HMDB51: see split_lists.
    """
    by_hand.only("train", "test", "splits", "lists", "group", "kind", "views", *MASKS)
    state = files(location)
    return Source(state, lambda: _content(location, state, by_hand), by_hand.kind)


def _content(location: Path, state: list[tuple[str, int, int]], by_hand: Choice) -> Content:
    items, beside = of_kind(by_hand.kind), _masks(location, state, by_hand)
    lists = split_lists.read(location, [path for path, _, _ in state], by_hand)
    inside = [entry for entry in state if not (beside and entry[0].startswith(beside.folder + os.sep))]
    inside = [entry for entry in inside if not (lists and entry[0].endswith(split_lists.SUFFIX))]
    files_of, others = _items(inside, items)
    if beside and not files_of:
        raise UserError(f"All images lie in {beside.folder}, the folder of #masks=: give the masks one of their own.")
    rows: list[Row] = [(path, os.path.relpath(path, location).split(os.sep)[:-1]) for path in files_of]
    rows, through = _unwrapped(rows)
    notes = [f"Looked through the folder {os.sep.join(through)}."] if through else []
    parts, names, absent, more = _by_lists(rows, lists) if lists else _by_folders(rows, by_hand)
    classes = any(words for _, words in parts.get("train", []))
    blank = [part for part, found in parts.items() if classes and not any(words for _, words in found)]
    roles, unused = held_out(parts, blank)
    notes += more + unused
    if others:
        shown = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"Not read, for their suffix: {shown}. {items.known()}{_of_another_kind(others)}")
    chunks, read = [], []
    for part, found in sorted(parts.items(), key=lambda kv: kv[0] != "train"):
        if part not in roles:
            continue
        if classes and (loose := sum(not words for _, words in found)):
            notes.append(f"{loose} images outside the class folders are not used.")
        kept = [
            (path, tidy(words[0]) if words else "", "/".join([*words, os.path.basename(path)]))
            for path, words in found
            if words or not classes
        ]
        read.append(f"{roles[part]}: {names.get(part) or location}")
        chunks += cut(roles[part], kept, partial(_item, by_hand.one("group"), beside))
        chunks += cut(roles[part], absent.get(part, []), _absent)
    if not beside:
        return Content(chunks, sum(files_of.values()), classes, notes, read)
    if not classes:
        notes.append(
            "The class of an image is that which covers most of its mask, the first one where there is no other."
        )
    return Content(chunks, sum(files_of.values()), True, notes, [*read, str(beside.meaning)], beside.meaning.told)


Parts = tuple[dict[str, list[Row]], Mapping[str, str], Mapping[str, list[str]], list[str]]
# part -> its images; part -> where that stands, in words; part -> what should be there and is not; notes


def _by_folders(rows: Sequence[Row], by_hand: Choice) -> Parts:
    """The splits that the names of folders tell, or one part."""
    told, notes = folder_roles(_below(rows), by_hand)
    parts = _parts(rows, told) if told else {"train": list(rows)}
    if not told and not by_hand.none:
        _refuse_splits_in_classes(rows)
    if not by_hand.none and not by_hand.roles:
        _refuse_unlabelled_classes(parts)
    if told and (loose := sum(not words for _, words in rows)):
        notes = [*notes, f"{loose} images beside the folders of the splits are not used."]
    return parts, {part: ", ".join(n for n, r in told.items() if r == part) for part in parts}, {}, notes


def _by_lists(rows: Sequence[Row], lists: Sequence[split_lists.Line]) -> Parts:
    parts, absent, notes = split_lists.parts(rows, lists)
    return parts, split_lists.told(lists), absent, notes


def _absent(place: str) -> Item:
    return Item(Unreadable("listed and not there"), "", place)


def _items(state: list[tuple[str, int, int]], kind: type[Kind]) -> tuple[dict[str, int], Counter[str]]:
    """Path -> bytes of every item, and the suffixes of the files that are none.

    A folder that holds parts of items (frames) and no whole one is an item; beside whole ones they are thumbnails.
    """
    found, parts, others = dict[str, int](), dict[str, list[tuple[str, int]]](), Counter[str]()
    for path, size, _ in state:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in kind.suffixes:
            found[path] = size
        elif suffix in kind.parts:
            parts.setdefault(os.path.dirname(path), []).append((suffix, size))
        else:
            others[suffix or "without a suffix"] += 1
    whole = {os.path.dirname(path) for path in found}
    for folder, files_in in parts.items():
        if folder in whole:
            others.update(suffix for suffix, _ in files_in)
        else:
            found[folder] = sum(size for _, size in files_in)
    return dict(sorted(found.items())), others


@dataclass(frozen=True)
class Beside:
    """The mask files of a folder."""

    location: str  # of the images
    folder: str
    files: Mapping[str, str]  # path below the folder, without suffix -> the whole path
    meaning: mask_files.Rules

    def item(self, item: Item) -> Item:
        """The image with its mask, and with a class where it has none of its own."""
        below = os.path.splitext(os.path.relpath(item.place, self.location))[0]
        short = os.path.join(*below.split(os.sep)[1:] or [below])
        found, name = self.files.get(below) or self.files.get(short), os.path.basename(self.folder)
        mask = Path(found) if found else Unreadable(f"it has no mask: {os.path.join(name, short)}.png is not there")
        return mask_files.attached(item, mask, Path(item.place), self.meaning)


def _masks(location: Path, state: list[tuple[str, int, int]], by_hand: Choice) -> Beside | None:
    """What `#masks=` names; `UserError` where it is no folder in the set's, which the seal shuts."""
    named = by_hand.one("masks")
    if not named:
        mask_files.idle(by_hand)
        return None
    parts = Path(named).parts
    folder = os.path.join(location, *parts)
    paths = [p for p, _, _ in state if p.startswith(folder + os.sep) and os.path.splitext(p)[1].lower() in SUFFIXES]
    if os.path.isabs(named) or not parts or ".." in parts:
        raise UserError(f"#masks={named}: write the name of a folder with mask files that lies in {location}.")
    if not os.path.isdir(folder):
        inside = {words[0] for p, _, _ in state if len(words := os.path.relpath(p, location).split(os.sep)) > 1}
        raise UserError(f"#masks={named}: {location} has no folder '{named}'. {nearest(named, inside)}")
    if not paths:
        others = sorted({os.path.splitext(p)[1] for p, _, _ in state if p.startswith(folder + os.sep)})
        held = f"only {', '.join(others)}" if others else "no files"
        raise UserError(f"#masks={named}: {folder} holds {held}, and masks are images, best PNG: put them there.")
    known: dict[str, str] = {}
    for path in paths:
        below = os.path.splitext(os.path.relpath(path, folder))[0]
        if below in known:
            raise UserError(f"Two masks for one image: {known[below]} and {path}. Remove one of them.")
        known[below] = path
    return Beside(str(location), folder, known, mask_files.rules(by_hand))


def _item(pattern: str, beside: Beside | None, row: tuple[str, str, str]) -> Item:
    path, label, below = row
    item = Item(Path(path), label, path, group=groups.named(below, pattern, path) if pattern else None)
    return beside.item(item) if beside else item


def _of_another_kind(others: Counter[str]) -> str:
    found = {name: sorted(of_kind(name).suffixes & set(others)) for name in KINDS}
    return "".join(f" #kind={name} after the data's name reads {', '.join(s)}." for name, s in found.items() if s)


def _refuse_unlabelled_classes(parts: dict[str, list[Row]]) -> None:
    """A folder of images without labels beside the class folders: read as a class, it would be one."""
    for part, rows in parts.items():
        names = {words[0] for _, words in rows if words}
        if found := sorted(name for name in names if role_of(name) == "unlabeled" and len(names) > 1):
            raise UserError(
                f"The folder '{found[0]}' lies among the class folders of {part} and its name says that its images "
                f"have no class: move it out. Or, if it is one: {DECIDE}."
            )


def _unwrapped(rows: Sequence[Row], role: str = "") -> tuple[list[Row], list[str]]:
    """The rows below the folders that only wrap others, and the names of those.

    A folder wraps where it is the only one and holds folders and no image; below a split, also where it reads as that
    split (seg_train/seg_train). Images beside it stay where they are.
    """
    rows, through = list(rows), list[str]()
    while len(alone := {words[0] for _, words in rows if words}) == 1:
        name = next(iter(alone))
        if not (role and role_of(name) == role) and not all(len(words) > 1 for _, words in rows if words):
            break
        rows, through = [(path, words[1:]) for path, words in rows], [*through, name]
    return rows, through


def _below(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """Folder -> the number of images directly in it, and of those in folders in it."""
    out: dict[str, tuple[int, int]] = {}
    for _, words in rows:
        if words:
            here, deeper = out.get(words[0], (0, 0))
            out[words[0]] = (here + (len(words) == 1), deeper + (len(words) > 1))
    return out


def _parts(rows: Sequence[Row], told: dict[str, str]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for name, role in told.items():
        if role:
            inside = [(path, words[1:]) for path, words in rows if words and words[0] == name]
            parts.setdefault(role, []).extend(_unwrapped(inside, role)[0])
    return parts


def _refuse_splits_in_classes(rows: Sequence[Row]) -> None:
    """ant/train, ant/test: read as one class, its test images would be trained on."""
    inside: dict[str, set[str]] = {}
    for _, words in rows:
        if len(words) > 1 and (role := role_of(words[1])):
            inside.setdefault(words[0], set()).add(role)
    for name, roles in inside.items():
        if "train" in roles and len(roles) > 1:
            raise UserError(
                f"The splits lie inside the class folders ('{name}'): put train and test above. Or: {DECIDE}."
            )
