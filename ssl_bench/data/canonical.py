"""From the hashes of all images to one canonical data set: order, labels, test split, fingerprint, moments, duplicates.

The same pixels under the same class names give the same set, from whatever source and in whatever order they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ssl_bench.data import groups
from ssl_bench.data.items import Kind
from ssl_bench.data.source import Content
from ssl_bench.errors import UserError

PLAIN = 0.05  # share of images of one single colour above which a note asks


def canonical(
    content: Content, tables: Sequence[dict[str, Any]], name: str, items: Kind
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays to save, and meta: classes, fingerprint, mean, std, notes, bad images.

    `train_rows` and `test_rows` are int64 rows of the file of `home[split]`, in canonical order (by content hash), with
    `*_labels` and `*_pixels`, 16 bytes that tell an image's pixels, beside them. `*_table` [M, 3] is (chunk, offset,
    length) of the packed images of a file. `train_files` is
    bytes [N], the name each image's file has in the source; none is kept of test images: it may tell the class.
    `train_groups` is int64 [N] where the source tells groups.
    """
    classes = sorted({n for t in tables for n in t["names"]} - ({""} if content.labelled else set()))
    place = {n: i for i, n in enumerate(classes)}
    labels = np.concatenate([np.array([place.get(n, -1) for n in t["names"]], np.int64)[t["label"]] for t in tables])
    split = np.repeat([c.split for c in content.chunks], [c.count for c in content.chunks])
    digest, ok, sums, squares, pixels, group = (
        np.concatenate([t[k] for t in tables]) for k in ("digest", "ok", "sums", "squares", "pixels", "group")
    )
    rows = np.empty(len(ok), np.int64)
    for part in ("train", "test"):
        rows[split == part] = np.arange((split == part).sum())
    notes = list(content.notes) + _remarks(tables, int((~ok).sum()))
    order = np.lexsort((split == "test", *digest.view(">u8").T[::-1]))  # by digest; of equal ones training ones first
    order = order[ok[order]]
    if not len(order):
        raise UserError(f"No image of '{name}' can be read: {_shown(tables)}.")
    if content.labelled:
        chosen, own = _labelled(split[order], labels[order], group[order], name, items, notes)
        notes += _apart(classes, labels[order], chosen, name)
    else:
        chosen, own = np.full(len(order), "train"), False
        notes.append("The set has no labels: it is for pretraining; evaluate on another with --data.")
    home = {"train": "train", "test": "test" if own else "train"}
    grouped, more = groups.facts(group[order], chosen)
    notes += more
    text = _all_of(content, chosen, digest[order], group[order] if grouped else None)
    plain = (squares[order] * items.places == sums[order] ** 2).all(1)  # no channel varies
    if plain.mean() > PLAIN:
        notes.append(f"{plain.sum():,} of {len(order):,} {items.noun} are {items.plain}: are they read rightly?")
    notes += _twins(pixels[order], chosen)
    parts = {part: order[chosen == part] for part in ("train", "test")}
    mean, std = items.moments(sums[parts["train"]], squares[parts["train"]])
    arrays = _arrays(tables, split, parts, pixels=pixels, rows=rows, labels=labels)
    arrays |= {"train_groups": group[parts["train"]]} if grouped else {}
    tally = partial(np.bincount, minlength=len(classes))
    counts = {part: tally(labels[found]).tolist() for part, found in parts.items()} if content.labelled else {}
    meta = {
        "name": name, "classes": classes, "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
        "mean": mean, "std": std, "notes": notes, "home": home, "images": len(ok), "labelled": content.labelled,
        "split": {part: len(found) for part, found in parts.items()},
        "rows": {part: int((split == part).sum()) for part in ("train", "test")},
        "read": content.read, "counts": counts, "groups": grouped, **_files(tables, ok),
        "plain": int(plain.sum()),
        "bad": [pair for t in tables for pair in t["bad"]],
    }  # fmt: skip
    return arrays, meta


def _labelled(
    split: np.ndarray, labels: np.ndarray, group: np.ndarray, name: str, items: Kind, notes: list[str]
) -> tuple[np.ndarray, bool]:
    """As `_with_test`, of a set with labels that may be split so."""
    if nameless := int((labels < 0).sum()):
        raise UserError(f"{nameless:,} images of '{name}' are of a class whose name is blank: name it.")
    chosen, own = _with_test(split, labels, group, notes)
    if not own and items.views != (1, 1):
        raise UserError(
            f"'{name}' has no test split of its own, and one drawn by content would be another than that of the "
            "same films without #views=, where encoders are trained: put test films apart (#train=NAME#test=NAME)."
        )
    return chosen, own


def _arrays(
    tables: Sequence[dict[str, Any]], split: np.ndarray, parts: dict[str, np.ndarray], **known: np.ndarray
) -> dict[str, np.ndarray]:
    """What is `known` of the items of each part, with their targets and, of training ones, files, where these are told;
    and where the packed items of each split's file lie.
    """
    if "targets" in tables[0]:
        known["targets"] = np.concatenate([t["targets"] for t in tables])
    arrays = {f"{part}_{name}": values[rows] for part, rows in parts.items() for name, values in known.items()}
    where, files = _table(tables), np.concatenate([t["name"] for t in tables])[parts["train"]]
    arrays |= {f"{part}_table": where[split == part] for part in parts}
    return arrays | ({"train_files": files} if (files != b"").any() else {})


def _all_of(content: Content, split: np.ndarray, digest: np.ndarray, group: np.ndarray | None) -> str:
    """What the fingerprint is made of: every item in order with its split, mask files' classes, groups."""
    text = "".join(f"{s}{d.tobytes().hex()}" for s, d in zip(split, digest, strict=True))
    if content.masks and not content.masks.drawn:
        text += "".join(f"\0{name}" for name in content.masks.classes)
    return text if group is None else text + group.astype("<i8").tobytes().hex()  # groups decide what is held out


def _files(tables: Sequence[dict[str, Any]], ok: np.ndarray) -> dict[str, Any]:
    """Modes of the files with their number, and their sizes: least, median and most by area, and how many there are."""
    modes: dict[str, int] = {}
    for mode, count in (pair for t in tables for pair in t["modes"].items()):
        modes[mode] = modes.get(mode, 0) + count
    sizes = np.concatenate([t["size"] for t in tables])[ok]
    sizes = sizes[np.lexsort((sizes[:, 0], sizes.prod(1)))]
    spread = [sizes[i].tolist() for i in (0, len(sizes) // 2, -1)]
    return {"modes": dict(sorted(modes.items())), "sizes": spread, "num_sizes": len(np.unique(sizes, axis=0))}


def _remarks(tables: Sequence[dict[str, Any]], bad: int) -> list[str]:
    out = []
    unusual: dict[str, int] = {}
    for t in tables:
        for kind, count in t["unusual"].items():
            unusual[kind] = unusual.get(kind, 0) + count
    if bad:
        out.append(f"{bad} unreadable {'image' if bad == 1 else 'images'} left out: {_shown(tables)}.")
    if unusual:
        out.append(f"Converted: {', '.join(f'{count:,} {kind}' for kind, count in sorted(unusual.items()))}.")
    return out


def _shown(tables: Sequence[dict[str, Any]], most: int = 5) -> str:
    lines = [f"{place}: {why}" for t in tables for place, why in t["bad"]]
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")


def _with_test(split: np.ndarray, labels: np.ndarray, group: np.ndarray, notes: list[str]) -> tuple[np.ndarray, bool]:
    """The split of each image, and whether the source has one: else every fifth image of each class, by content.

    Where the source tells groups: whole groups, a fifth of each class as nearly as they allow.
    """
    if (split == "test").any():
        if not (split == "train").any():
            raise UserError("The data has a test split but no training split.")
        return split, True
    out = split.copy()
    if group.any():
        out[groups.hold_out(labels, group, 0.2)] = "test"
        notes.append("The source has no test split: whole groups, about a fifth of each class, were set apart.")
    else:
        for label in np.unique(labels):
            out[np.flatnonzero(labels == label)[4::5]] = "test"
        notes.append("The source has no test split: every fifth image of each class, by content hash, was set apart.")
    if not (out == "test").any():
        raise UserError(
            " ".join(["Too few images: five or more per class are needed to set a test split apart.", *notes])
        )
    return out, False


def _apart(classes: Sequence[str], labels: np.ndarray, split: np.ndarray, name: str) -> list[str]:
    """Test classes without a training image: no answer on them can be right.

    Refused where they are more than half of the test classes, for then the splits name their classes differently; else
    a note says how many test images that are. Names that differ by case or letter forms alone are told, not merged.
    """
    test = labels[split == "test"]
    unknown = np.setdiff1d(test, labels[split == "train"])
    spelt: dict[str, list[str]] = {}
    for c in classes:
        spelt.setdefault(c.casefold(), []).append(c)
    notes = [
        f"Classes whose names differ by case or letter forms alone: {', '.join(same)}."
        for same in spelt.values()
        if len(same) > 1
    ]
    if not len(unknown):
        return notes
    lost = int(np.isin(test, unknown).sum())
    shown = ", ".join(f"'{classes[i]}'" for i in unknown[:5]) + ", ..." * (len(unknown) > 5)
    known = ", ".join(f"'{classes[i]}'" for i in np.unique(labels[split == "train"])[:5])
    what = f"{lost:,} of {len(test):,} test images are of classes without a training image ({shown})"
    if 2 * len(unknown) > len(np.unique(test)):
        raise UserError(f"'{name}': {what}; training has {known}. Name the classes of both splits alike.")
    return [*notes, f"{what}: no answer on them can be right."]


def _twins(pixels: np.ndarray, split: np.ndarray) -> list[str]:
    """How many test images have the very pixels of a training image, and how many training images occur again."""
    _, who = np.unique(pixels.view(">u8"), axis=0, return_inverse=True)
    who = who.reshape(-1)
    train, test = who[split == "train"], who[split == "test"]
    shared, again = int(np.isin(test, train).sum()), len(train) - len(np.unique(train))
    out = [f"{shared:,} of {len(test):,} test images are also in the training split (same pixels)."] if shared else []
    return [*out, f"{again:,} training images repeat the pixels of another."] if again else out


def _table(tables: Sequence[dict[str, Any]]) -> np.ndarray:
    out = []
    for i, t in enumerate(tables):
        offsets = np.concatenate([[0], np.cumsum(t["length"])[:-1]])
        out.append(np.stack([np.full(len(offsets), i), offsets, t["length"]], 1))
    return np.concatenate(out).astype(np.int64)
