"""Masks of images: a class for every pixel, kept beside the pixels at their size.

A mask goes the way of its image: the same transpose, the same centre cut out, but nearest pixels in place of a filter.
Training masks lie in the store by the rows of the images, those of the test split in a file that `open_truth` alone
reads. No torch here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ssl_bench.data.encoded_store import mapped
from ssl_bench.data.images import Item, Unreadable
from ssl_bench.errors import UserError
from ssl_bench.files import atomic

VOID = 255  # pixels that belong to no class and count nowhere


@dataclass(frozen=True)
class Masks:
    """What the masks of a set are."""

    classes: tuple[str, ...]  # what the values 0, 1, ... mean; at most 255
    drawn: bool = False  # made with the image, so that its pixels' fingerprint tells them; else they are part of it


def read(item: Item, told: Masks | None) -> np.ndarray | None:
    """The mask uint8 [h, w] of an item, None in a set without; `Unreadable` says why it cannot be."""
    if told is None:
        return None
    found: np.ndarray = item.mask
    if (most := int(found[found != VOID].max(initial=0))) >= len(told.classes):
        raise Unreadable(f"its mask has class {most}, and the classes are 0 to {len(told.classes) - 1}")
    return found


def fitted(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask uint8 [h, w] as an image of this size is: its centre, by nearest pixels, [height, width]."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(ImageOps.fit(Image.fromarray(mask), (width, height), Image.Resampling.NEAREST))


def path(folder: Path, split: str) -> Path:
    """The masks of a split's images, by their rows."""
    return folder / f"{split}_masks.u8"


@contextmanager
def beside(
    folder: Path, split: str, start: int, shape: tuple[int, ...], told: Masks | None
) -> Iterator[Callable[[np.ndarray | None], bytes]]:
    """Keeps one mask after another from row `start` on, and gives what of it belongs to the image's digest.

    None, of an image that cannot be read, is kept as nothing but void.
    """
    if told is None:
        yield lambda _: b""
        return
    with open(os.open(path(folder, split), os.O_RDWR | os.O_CREAT, 0o644), "r+b") as out:
        out.seek(start * math.prod(shape))

        def keep(mask: np.ndarray | None) -> bytes:
            raw = bytes([VOID]) * math.prod(shape) if mask is None else fitted(mask, *shape).tobytes()
            out.write(raw)
            return b"" if told.drawn or mask is None else raw

        yield keep
        out.flush()
        os.fsync(out.fileno())


def seal(folder: Path, home: str, rows: np.ndarray, shape: tuple[int, ...], told: Masks | None) -> dict[str, Any]:
    """Move the test masks at `rows` of the file of `home` to one of their own, in that order; what meta says of them.

    What is stopped in here is done again: the copy is there whole or not at all.
    """
    if told is None:
        return {}
    source, target, (height, width) = path(folder, home), folder / "test_masks.npy", shape[-2:]
    if not target.exists():
        empty = np.empty((0, height, width), np.uint8)
        found = mapped(source).reshape(-1, height, width)[rows] if len(rows) else empty
        with atomic(target) as out:
            np.save(out, found)
    if home == "test":
        source.unlink(missing_ok=True)
    else:
        with open(source, "r+b") as old:
            for row in rows.tolist():
                old.seek(row * height * width)
                old.write(bytes([VOID]) * (height * width))
            os.fsync(old.fileno())
    tested = np.load(target, mmap_mode="r" if len(rows) else None)  # nothing cannot be mapped
    each = counted(mapped(path(folder, "train")).reshape(-1, height, width)) + counted(tested)
    occur = [name for name, pixels in zip(told.classes, each, strict=False) if pixels]
    if len(occur) < 2:
        raise UserError(
            f"No pixel of the masks has a class other than '{', '.join(occur)}' ({each[VOID] / each.sum():.0%} of them "
            "are void), so there is nothing to tell it from: #classes=, #void= and #threshold= say what values mean."
        )
    return {"masks": list(told.classes), "mask_pixels": [*each[: len(told.classes)].tolist(), int(each[VOID])]}


def counted(found: np.ndarray) -> np.ndarray:
    """How many pixels have each value, int64 [256], in masks [N, h, w]; those that are nothing but void left out."""
    each = np.zeros(VOID + 1, np.int64)
    for mask in found:
        here = np.bincount(mask.ravel(), minlength=VOID + 1)
        each += here if here[:VOID].any() else 0
    return each


def of(folder: Path, shape: tuple[int, ...]) -> Any:
    """Training masks uint8 [M, H, W] by row of the store; None where the set has none."""
    found = path(folder, "train")
    return mapped(found).reshape(-1, *shape) if found.exists() else None
