"""The kind `image`: one image, as a source gives it -> its encoded bytes -> uint8 pixels. Stores see them through here.

No torch in here: the processes that build a store start in a fraction of a second.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssl_bench.config.schema import DataConfig, Size, as_size, sides
from ssl_bench.data import pixels as rules
from ssl_bench.data.items import Form, Kind
from ssl_bench.data.pixels import Unreadable as Unreadable

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MAX_BYTES = 256 * 2**20  # of one encoded image
MAX_PIXELS = 89_478_485  # of one image: Pillow's own limit, beyond which it warns of a decompression bomb
REDUCE = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 as long as it stays this many times larger than what is kept


@dataclass(frozen=True)
class Item:
    """One image of a source."""

    image: bytes | Path | Image.Image | list[bytes] | Callable[..., Any] | Unreadable  # a clip's function gets its kind
    label: str  # class name; "" where the set has no labels
    place: str  # what a report calls it
    targets: np.ndarray | None = None  # fp32 [F] of a set with known factors
    name: str = ""  # of its file in the source, where `image` is no path
    group: str | None = None  # what it belongs to (a scene, a speaker), where the source tells
    mask: Any = None  # uint8 [h, w] of a set with masks (see masks.py), or what they are read from

    @property
    def file(self) -> str:
        """The name of its file, without folders; "" where the source has none."""
        return os.path.basename(self.name) or (self.image.name if isinstance(self.image, Path) else "")


def encoded(item: Item) -> bytes:
    """The image's file, bounded in size; PNG where the source has pixels only."""
    image = item.image
    if isinstance(image, Unreadable):
        raise image
    if isinstance(image, Path):
        if image.stat().st_size > MAX_BYTES:
            raise Unreadable(f"{image.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        image = image.read_bytes()
    if isinstance(image, bytes):
        if not image:
            raise Unreadable("zero bytes")
        return image
    if isinstance(image, list):
        raise Unreadable("several pictures in one row (#kind=clip after the data's name reads them as a film)")
    buffer = io.BytesIO()
    (image() if callable(image) else image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@dataclass(frozen=True)
class Images(Kind):
    """uint8 [C, H, W], all of one size."""

    height: int
    width: int
    bands: int = 3
    background: tuple[int, int, int] = rules.WHITE  # behind transparent pixels

    name: ClassVar[str] = "image"
    noun: ClassVar[str] = "images"
    suffixes: ClassVar[frozenset[str]] = frozenset(SUFFIXES)
    columns: ClassVar[tuple[str, ...]] = ("image", "img", "jpg", "png", "webp")

    @classmethod
    def asked(cls, config: DataConfig) -> Images:
        return cls(*config.size, config.channels, config.background)

    @classmethod
    def written(cls, facts: dict[str, Any]) -> Images:
        return cls(*sides(facts["image_size"]), facts.get("channels", 3), tuple(facts.get("background", rules.WHITE)))

    @property
    def facts(self) -> dict[str, Any]:
        behind = {} if self.background == rules.WHITE else {"background": list(self.background)}
        return {"image_size": self.size, "channels": self.bands, **behind}

    @property
    def size(self) -> Size:
        """As `data.image_size` is typed."""
        return as_size(self.height, self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.bands, self.height, self.width)

    def grid(self, patch: int, tubelet: int = 1) -> tuple[int, int]:
        return (self.height // patch, self.width // patch)

    def read(self, item: Item, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
        return read(item, self, keep_bytes)

    def decode(self, data: bytes) -> np.ndarray:
        return decode(data, self)[0]

    def floats(self, stored: Tensor) -> Tensor:
        """In [0, 1]."""
        return stored.float() / 255


def square(side: int, channels: int = 3) -> Images:
    """Square images of `side` pixels."""
    return Images(side, side, channels)


def decode(image: bytes | Image.Image, kind: Images) -> tuple[np.ndarray, str]:
    """uint8 [C, H, W], the centre resized with antialiasing to fill it; and what was unusual about it, or "".

    `rules` (pixels.py) says how other modes and ranges become 8 bits, and what `kind.bands` and `background` are.
    """
    opened: Any = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width} x {height} pixels, more than {MAX_PIXELS:,} (a decompression bomb?)")
    depth = rules.depth(opened, image) if isinstance(image, bytes) else None
    remarks = [_frames(opened)]
    opened.draft(opened.mode, (REDUCE * kind.width, REDUCE * kind.height))  # only JPEG can, the others ignore it
    opened, remark = rules.eight_bit(ImageOps.exif_transpose(opened), kind.bands, kind.background, depth)
    if opened.size != (kind.width, kind.height):
        opened = ImageOps.fit(opened, (kind.width, kind.height), Image.Resampling.BICUBIC)
    pixels = np.asarray(opened).reshape(kind.height, kind.width, kind.bands)
    remarks += [remark, "blank (one single colour)" if (pixels == pixels[0, 0]).all() else ""]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), " and ".join(filter(None, remarks))


def read(item: Item, kind: Images, keep_bytes: bool) -> tuple[np.ndarray, bytes, str, Form]:
    """Pixels, encoded bytes (b"" unless they are kept), what was unusual, form. `Unreadable` says why it cannot be."""
    try:
        image: Any = item.image
        if keep_bytes or isinstance(image, (bytes, Path, list, Unreadable)):
            image = encoded(item)
        image = image() if callable(image) else image
        pixels, unusual = decode(image, kind)
        opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
        return pixels, image if keep_bytes else b"", unusual, (opened.mode, opened.size)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("not an image that Pillow knows") from error
    except Exception as error:  # Pillow raises many kinds for damaged files; each is counted and named, none hidden
        raise Unreadable(f"{type(error).__name__}: {str(error)[:120]}") from error


def _frames(image: Any) -> str:
    """What is left out of a file with several pictures; phones keep a preview or a gain map beside a JPEG (MPO)."""
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return ""
    return "several pages (first one used)" if image.format == "TIFF" else "animated (first frame used)"
