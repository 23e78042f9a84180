"""Masks in files beside the images: what their values mean, and which of them are refused.

A file has one value for each pixel: grey levels of 8 or 16 bits, black and white (0 and 1), or the indices of a
palette, whose colours say nothing. Colours, and JPEG and GIF, which change values, are refused. A value's meaning:

    #classes=sky,road   the classes in order, or their number; needed unless there is a threshold
    #first=1            the value of the first class; 0 where nothing is said
    #void=255           values that are no class, several with commas; 255 where nothing is said, none: all are classes
    #threshold=128      two classes in place of all that, background below this value and foreground from it on

A mask is of the pixels as the image's file stores them and is turned with them as EXIF says, unless its size fits the
turned image alone; one that says itself how it is turned is turned so. A mask of another size than its image, with a
value that is no class, or void everywhere leaves its image out. An image without a class of its own gets that which
covers most of its mask, the first one only where there is no other.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssl_bench.data.images import Item
from ssl_bench.data.masks import VOID, Masks
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.splits import MASKS, Choice
from ssl_bench.errors import UserError

BITS = 258  # TIFF tag
ORIENTATION = 274  # EXIF tag; 1 as stored, 5 to 8 lie on their side


@dataclass(frozen=True)
class Rules:
    """What the values of a set's mask files mean."""

    classes: tuple[str, ...]
    first: int = 0
    void: tuple[int, ...] = (VOID,)
    threshold: int = 0  # 0: none

    @property
    def told(self) -> Masks:
        return Masks(self.classes)

    def __str__(self) -> str:
        if self.threshold:
            return f"masks: background below {self.threshold}, foreground from it on"
        none = f"void {', '.join(map(str, self.void))}" if self.void else "no void"
        return f"masks: values {self.first} to {self.first + len(self.classes) - 1} are classes, {none}"


def rules(by_hand: Choice) -> Rules:
    """As typed after the data's name. `UserError` where they do not say what a value means."""
    typed = {name: by_hand.one(name) for name in MASKS[1:]}
    if typed["threshold"]:
        if idle := [name for name in ("classes", "first", "void") if typed[name]]:
            raise UserError(f"#{idle[0]}= has no effect with #threshold=: leave it out.")
        return Rules(("background", "foreground"), threshold=_number("threshold", typed["threshold"], 1, 65535))
    if not typed["classes"]:
        raise UserError(
            "What do the masks' values mean? Write #classes=NAME,NAME,... (or their number), or #threshold=T."
        )
    names = tuple(name.strip() for name in typed["classes"].split(","))
    if names[0].isdigit() and len(names) == 1:
        names = tuple(f"class {i}" for i in range(int(names[0])))
    if not 2 <= len(names) <= VOID or len(set(names)) < len(names) or "" in names:
        raise UserError(f"#classes={typed['classes']}: write from 2 to {VOID} different names, or their number.")
    first = _number("first", typed["first"] or "0", 0, 65535)
    values = (typed["void"] or str(VOID)).split(",")
    void = () if values == ["none"] else tuple(_number("void", value, 0, 65535) for value in values)
    if both := [v for v in void if first <= v < first + len(names) and typed["void"]]:
        raise UserError(
            f"#void={both[0]} is the value of class '{names[both[0] - first]}' too: set #first= or #classes=."
        )
    return Rules(names, first, void)


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isdigit() and least <= int(text) <= most):
        raise UserError(f"#{name}={text}: write a whole number from {least} to {most}.")
    return int(text)


def read(mask: Path | bytes | Unreadable | None, image: Path | bytes, meaning: Rules) -> np.ndarray:
    """Classes uint8 [h, w] for the image as it is shown; `Unreadable` says why there are none."""
    if mask is None or isinstance(mask, Unreadable):
        raise mask or Unreadable("it has no mask")
    try:
        opened: Any = Image.open(io.BytesIO(mask) if isinstance(mask, bytes) else mask)
        if opened.format in ("JPEG", "GIF"):  # writers of GIF number the colours of each picture anew
            raise Unreadable(f"its mask is a {opened.format}, which changes values: PNG keeps them")
        if getattr(opened, "n_frames", 1) > 1:
            raise Unreadable(f"its mask has {opened.n_frames} pictures: one is needed")
        if opened.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise Unreadable(f"its mask has mode {opened.mode}: one value per pixel is needed, grey or of a palette")
        step = _step(opened, mask if isinstance(mask, bytes) else mask.read_bytes())
        values = _turned(opened, image) // step
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("its mask is no image that Pillow knows") from error
    except Exception as error:  # as of images: Pillow raises many kinds for damaged files
        raise Unreadable(f"its mask cannot be read ({type(error).__name__}: {str(error)[:120]})") from error
    return classes(values, meaning)


def _step(opened: Any, data: bytes) -> int:
    """What Pillow has multiplied values by: it spreads grey levels of 2 and 4 bits over 0 to 255."""
    bits = data[24] if opened.format == "PNG" else max(getattr(opened, "tag_v2", {}).get(BITS, (8,)))
    return {2: 85, 4: 17}.get(bits, 1) if opened.mode == "L" else 1


def attached(item: Item, mask: Path | bytes | Unreadable | None, image: Path | bytes, meaning: Rules) -> Item:
    """The item with its mask, and with a class where it has none of its own; one that cannot be read says why."""
    try:
        found = read(mask, image, meaning)
    except Unreadable as why:
        return replace(item, image=why, label=item.label or meaning.classes[0])
    return replace(item, mask=found, label=item.label or label(found, meaning.classes))


def idle(by_hand: Choice) -> None:
    """`UserError` where rules are given and no masks."""
    if found := [name for name in MASKS if by_hand.one(name)]:
        raise UserError(f"#{found[0]}= has no effect without #masks=: leave it out.")


def _turned(opened: Any, image: Path | bytes) -> np.ndarray:
    """The mask's values as the image is shown."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as shown:
            size, turn = shown.size, shown.getexif().get(ORIENTATION, 1)
    except Exception:  # what is wrong with the image is said when it is read itself
        return np.asarray(opened).astype(np.int64)
    displayed = size[::-1] if turn in (5, 6, 7, 8) else size
    if opened.getexif().get(ORIENTATION, 1) == 1 and opened.size == size:
        exif = opened.getexif()
        exif[ORIENTATION] = turn
        opened.info["exif"] = exif.tobytes()
    found = ImageOps.exif_transpose(opened)
    if found.size != displayed:
        raise Unreadable(f"its mask is {opened.size[0]} x {opened.size[1]} pixels, it is {size[0]} x {size[1]}")
    return np.asarray(found).astype(np.int64)


def classes(values: np.ndarray, meaning: Rules) -> np.ndarray:
    """Classes uint8 [h, w] of a file's values."""
    if meaning.threshold:
        return (values >= meaning.threshold).astype(np.uint8)
    void = np.isin(values, meaning.void)
    found = values - meaning.first
    odd = np.unique(values[~void & ((found < 0) | (found >= len(meaning.classes)))])
    if len(odd):
        last = meaning.first + len(meaning.classes) - 1
        raise Unreadable(f"its mask has value {odd[0]}, which is neither a class ({meaning.first} to {last}) nor void")
    if void.all():
        raise Unreadable("every pixel of its mask is void")
    return np.where(void, VOID, found).astype(np.uint8)


def label(mask: np.ndarray, names: tuple[str, ...]) -> str:
    """The class that covers most of a mask, the first one only where there is no other."""
    counts = np.bincount(mask[mask != VOID].ravel(), minlength=len(names))
    return names[1 + int(counts[1:].argmax())] if counts[1:].any() else names[0]
