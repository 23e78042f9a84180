"""Small pictures in every mode and format, of which it is known by construction how they must come out.

A picture is 4 x 4 cells in two colours, no two alike: it is found again whatever was done to its file.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

CELLS = 4
FORMATS = {  # mode -> what it is saved as
    "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"), "L": ("PNG", "JPEG", "BMP", "TIFF", "PPM"),
    "P": ("PNG", "GIF", "BMP"), "1": ("PNG", "TIFF", "BMP"), "CMYK": ("JPEG", "TIFF"),
    "RGBA": ("PNG", "WEBP", "TIFF"), "LA": ("PNG",), "key": ("PNG",), "P-key": ("PNG", "GIF"),
    "16": ("PNG", "TIFF"), "12-in-16": ("PNG", "TIFF"), "8-in-16": ("PNG", "TIFF"), "RGB-16": ("PNG",),
    "I": ("TIFF",), "F-unit": ("TIFF",), "F-255": ("TIFF",),
    "MPO": ("MPO",), "moving": ("GIF", "WEBP", "TIFF"),
}  # fmt: skip
SUFFIX = {"JPEG": (".jpg", ".JPG", ".jpeg", ".JpEg"), "MPO": (".jpg",), "TIFF": (".tif", ".TIFF"), "PPM": (".ppm",),
          "PNG": (".png", ".PNG"), "WEBP": (".webp",), "BMP": (".bmp",), "GIF": (".gif",)}  # fmt: skip
GREY = ("L", "1", "LA", "16", "12-in-16", "8-in-16", "I", "F-unit", "F-255")
LOSSY = ("JPEG", "WEBP", "MPO")


@dataclass(frozen=True)
class Picture:
    """A file, and its cells as they must come out, 0 to 255."""

    data: bytes
    suffix: str
    cells: np.ndarray  # [3, 4, 4]
    exact: bool  # to within rounding: nothing is lost in the file, nor by resizing
    kind: str


def picture(rng: np.random.Generator, code: int, size: int) -> Picture:
    """Picture number `code` (below 2^16) in a mode, format and size by chance; `size` is what it is read at."""
    mode = str(rng.choice(list(FORMATS)))
    form = str(rng.choice(FORMATS[mode]))
    bright = np.array([code >> i & 1 for i in range(16)], bool).reshape(CELLS, CELLS)
    low, high = rng.integers(30, 80, 3), rng.integers(170, 230, 3)
    if mode in GREY:
        low, high = np.full(3, low[0]), np.full(3, high[0])
    if mode == "1":
        low, high = np.zeros(3, int), np.full(3, 255)
    side = int(rng.choice([8, 13, size, size, size, 31, 70]))
    wide, tall = (int(2 * rng.integers(0, side // 2)) if rng.random() < 0.3 else 0 for _ in range(2))
    tall = 0 if wide else tall  # the middle square is what is kept
    inside = np.kron(bright, np.ones((side, side)))[CELLS // 2 :: CELLS, CELLS // 2 :: CELLS] > 0.5
    mask = rng.random((side + tall, side + wide)) < 0.5
    mask[tall // 2 : tall // 2 + side, wide // 2 : wide // 2 + side] = inside
    out = low
    if mode in ("RGBA", "LA", "key", "P-key") and rng.random() < 0.8:
        out = np.full(3, 255)  # what is transparent comes out white,
        high = high // 2  # and what is not is dark
    data = _file(rng, mode, form, mask, low, high, transparent=bool((out != low).any()))
    cells = np.where(bright, high[:, None, None], out[:, None, None]).astype(float)
    exact = form not in LOSSY and side == size and not wide and not tall
    return Picture(data, str(rng.choice(SUFFIX[form])), cells, exact, f"{mode} {form} {side + wide}x{side + tall}")


def _file(
    rng: np.random.Generator, mode: str, form: str, mask: np.ndarray, low: np.ndarray, high: np.ndarray,
    transparent: bool,
) -> bytes:  # fmt: skip
    colours = np.where(mask[..., None], high, low)
    grey = colours[..., 0]
    if mode == "RGB-16":
        return _png16(colours * 257 + rng.integers(-90, 90, colours.shape))
    more: dict[str, Any] = {"quality": 95, "subsampling": 0} if form in ("JPEG", "MPO") else {}
    more |= {"lossless": True} if form == "WEBP" else {}
    if mode in ("RGB", "MPO", "moving"):
        image = Image.fromarray(colours.astype(np.uint8))
        if mode != "RGB":
            other = Image.fromarray(np.ascontiguousarray(colours[::-1]).astype(np.uint8))
            more |= {"save_all": True, "append_images": [other]}
        elif form != "PPM" and form != "BMP" and rng.random() < 0.3:
            return _turned(image, form, more, int(rng.choice([2, 3, 6, 8])))
        if form == "JPEG":
            more["progressive"] = bool(rng.integers(2))
    elif mode in ("P", "P-key"):
        image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
        image.putpalette([*map(int, low), *map(int, high)] + [0] * 762)
        more |= {"transparency": 0} if mode == "P-key" and transparent else {}
    elif mode == "key":
        image = Image.fromarray(colours.astype(np.uint8))
        more |= {"transparency": tuple(int(v) for v in low)} if transparent else {}
    elif mode in ("RGBA", "LA"):
        alpha = np.where(mask, 255, 0 if transparent else 255)
        bands = [*colours.transpose(2, 0, 1)][: 1 if mode == "LA" else 3]
        image = Image.fromarray(np.dstack([*bands, alpha]).astype(np.uint8))
    elif mode == "CMYK":
        image = Image.fromarray(colours.astype(np.uint8)).convert("CMYK")
    elif mode == "1":
        image = Image.fromarray(mask)
    else:
        image = Image.fromarray(_values(mode, grey))
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def _values(mode: str, grey: np.ndarray) -> np.ndarray:
    """Grey values 0 to 255 as they are held in a mode beyond 8 bits."""
    if mode.startswith("F"):
        return (grey / (255 if mode == "F-unit" else 1)).astype(np.float32)
    if mode == "I":
        return (grey * 257).astype(np.int32)
    top = {"16": 65535, "12-in-16": 4095, "8-in-16": 255}.get(mode, 255)
    return np.rint(grey / 255 * top).astype(np.uint8 if mode == "L" else np.uint16)


def _turned(image: Image.Image, form: str, more: dict[str, Any], orientation: int) -> bytes:
    """Saved as a camera held otherwise saves it: to be turned back by the EXIF tag."""
    way = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
           8: Image.Transpose.ROTATE_270}  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    image.transpose(way[orientation]).save(buffer, form, exif=exif, **more)
    return buffer.getvalue()


def _png16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours [H, W, 3], which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def broken(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """A file that cannot be an image, and how it was broken."""
    how = str(rng.choice(["empty", "cut", "text", "zeros"]))
    return {
        "empty": b"", "cut": data[:24], "text": b"version https://git-lfs.github.com/spec/v1\n", "zeros": bytes(400)
    }[how], how  # fmt: skip
