"""What was understood of a data set, in words, and a sheet of its training images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ssl_bench.data.items import written
from ssl_bench.files import write_atomic

ALL = 20  # classes up to which each is listed


def lines(meta: dict[str, Any]) -> list[str]:
    """Lines from a store's meta: size and splits, classes with their images, sizes and modes of the files, pixels."""
    counts = ", ".join(f"{count:,} {part}" for part, count in meta["split"].items() if count)
    classes = f"{len(meta['classes'])} classes" if meta["labelled"] else "no labels"
    read = f" ({'; '.join(meta['read'])})" if meta["read"] else ""
    bad, plain, items = len(meta["bad"]), meta["plain"], written(meta)
    return [
        f"{meta['name']} at {items.told}: {counts}, {classes}{read}",
        f"  {_classes(meta, items.noun)}",
        f"  {_files(meta, items.measured)}",
        *_groups(meta, items.noun),
        *_masks(meta),
        f"  fingerprint {meta['fingerprint']}, mean {meta['mean']}, std {meta['std']}; "
        f"{bad:,} unreadable, {plain:,} {items.plain}",
    ]


def _groups(meta: dict[str, Any], noun: str) -> list[str]:
    """How many groups there are, and what they are for; nothing of a set without."""
    if not (told := meta["groups"]):
        return []
    return [f"  groups kept whole in every cut: {told['train']:,} train (at most {told['largest']:,} {noun}), "
            f"{told['test']:,} test"]  # fmt: skip


def _masks(meta: dict[str, Any]) -> list[str]:
    """The classes of the masks; nothing of a set without."""
    if not (names := meta.get("masks")):
        return []
    shown = [*names[:ALL], *(["..."] if len(names) > ALL else [])]
    lines = [f"  a mask for every image, {len(names)} classes: {', '.join(shown)}"]
    if not (pixels := meta.get("mask_pixels")):  # a store from before they were counted
        return lines
    known, never = sum(pixels[:-1]), [name for name, count in zip(names, pixels[:-1], strict=True) if not count]
    shares = ", ".join(f"{name} {count / known:.1%}" for name, count in zip(names[:ALL], pixels, strict=False) if count)
    void = f"{pixels[-1] / (known + pixels[-1]):.1%} of all pixels are void"
    absent = [f"  no pixel of any mask is {', '.join(never[:ALL])}"] if never else []
    return [*lines, f"  pixels of the masks: {shares}; {void}", *absent]


def _classes(meta: dict[str, Any], noun: str) -> str:
    """Classes with their training and test items: all of them, or the ends with least, middle and most."""
    if not meta["labelled"]:
        return f"{noun} without labels"
    train, test = (np.array(meta["counts"][part]) for part in ("train", "test"))
    each = [f"{name} {a:,}+{b:,}" for name, a, b in zip(meta["classes"], train, test, strict=True)]
    if len(each) <= ALL:
        return f"train+test {noun}: {', '.join(each)}"
    spread = "; ".join(f"{part} {c.min():,} to {c.max():,}, median {np.median(c):g}" for part, c in
                       (("train", train), ("test", test)))  # fmt: skip
    return f"train+test {noun}: {', '.join(each[:3])}, ..., {', '.join(each[-3:])} (per class: {spread})"


def _files(meta: dict[str, Any], measured: str) -> str:
    """Sizes of the files, least, median and most by area where they differ, and their modes."""
    least, median, most = (f"{width} x {height}" for width, height in meta["sizes"])
    sizes = least if meta["num_sizes"] == 1 else (
        f"{meta['num_sizes']:,} sizes, {least} to {most}, median {median}"
    )  # fmt: skip
    return f"files: {sizes} ({measured}); {', '.join(f'{n:,} {mode}' for mode, n in meta['modes'].items())}"


def first_use(folder: Path, meta: dict[str, Any]) -> list[str]:
    """The lines and notes of a set that has not been shown yet; nothing of one that has."""
    shown = folder / "shown"
    if shown.exists():
        return []
    with contextlib.suppress(OSError):  # another user's store: better said again than not at all
        write_atomic(shown, "")
    return [*lines(meta), *(f"  note: {note}" for note in meta["notes"])]


def sheet(classes: dict[str, np.ndarray], path: Path) -> None:
    """A PNG with one row of images (uint8 [N, C, H, W]) for each class, its name on the left."""
    side, width = next(iter(classes.values())).shape[-2:]
    most, title = max(map(len, classes.values())), 12
    out = Image.new("RGB", (most * (width + 2) + 120, len(classes) * (max(side, title) + 2)), "white")
    draw = ImageDraw.Draw(out)
    for row, (name, images) in enumerate(classes.items()):
        y = row * (max(side, title) + 2)
        draw.text((2, y), name[:18].encode("ascii", "replace").decode(), fill="black")
        for i, image in enumerate(images):
            picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0).squeeze()))
            out.paste(picture, (120 + i * (width + 2), y))
    out.save(path, "PNG")
