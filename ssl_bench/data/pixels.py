"""One opened picture of any mode -> 8 bits per channel, by rules that are stated here and named in a remark.

Alpha       composited over `background`; an alpha that is opaque everywhere is dropped without a remark. With four
            channels wanted it is kept.
1, L, P, RGB   as Pillow converts them: no remark. CMYK, YCbCr, HSV, LAB (to sRGB) too, with a remark.
16 bits     (I;16 and colours of 16 bits, of which Pillow keeps the high bytes alone; `depth` reads the low ones): the
            range is the file's where it says so (`Depth.top`), else it is judged by the picture's largest value: up to
            255 it is 8 bits in a larger container, taken as they are; up to 4095 it is 12 bits; else 16. 10 and 14 bits
            are not told apart from 12 and 16: a dark picture would pass for one of them.
32 bits     (I) likewise, F likewise with 1, 255 and 65535. Values below 0, above 65535 or not finite are `Unreadable`:
            what in them is black and what is white nobody has said.

A range judged by one picture can make pictures of one set incomparable, a dark one coming out brighter than it was. So
the remark names the rule, and the notes of a set count the pictures of each: more than one kind deserves a look.
"""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255)
TOPS = {"F": (1, 255, 65535), "I": (255, 4095, 65535)}  # the ranges that values are judged to have, smallest first
WANTED = {1: "L", 3: "RGB", 4: "RGBA"}
CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV")
PHOTOMETRIC, BITS, MAXIMA = 262, 258, (281, 341)  # TIFF tags: 281 MaxSampleValue, 341 SMaxSampleValue
OPPOSITE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class Unreadable(Exception):
    """Why an image cannot be used; it is counted and named, never skipped silently."""


@dataclass(frozen=True)
class Depth:
    """What a file says of its values and Pillow's picture does not."""

    top: int = 0  # the value of white; 0 where the file does not say
    bits: int = 0  # PNG's significant bits: values are 0..2^bits - 1, or scaled up to 16 bits as its specification asks
    inverted: bool = False  # TIFF's WhiteIsZero, which Pillow heeds in 8 bits alone
    wide: bool = False  # colours of 16 bits: the picture has their high bytes
    low: Image.Image | None = None  # and their low bytes, transposed as EXIF says


def depth(image: Any, data: bytes) -> Depth:
    """Of a file that was opened and not yet loaded (`ImageOps.exif_transpose` forgets its tags)."""
    tags = getattr(image, "tag_v2", {})
    modes = [tile.args if isinstance(tile.args, str) else str((tile.args or [""])[0]) for tile in image.tile]
    wide = not image.mode.startswith("I") and any(m.endswith((";16B", ";16L", ";16N")) for m in modes)
    low = _low(data) if wide else None
    if image.format == "PNG":
        return Depth(0, _significant(data), False, wide, low)
    if image.format == "PPM":  # Pillow has scaled its values already
        return Depth(65535 if image.mode == "I" else 0)
    bits = int(_first(tags.get(BITS, 16)))
    said = [_first(tags[tag]) for tag in MAXIMA if tag in tags]  # some write the picture's own largest value here
    tops = [int(v) for v in said if v in (1, 255, 1023, 4095, 16383, 65535)]
    top = (1 << bits) - 1 if 8 < bits < 16 else max(tops, default=0)
    return Depth(top, 0, tags.get(PHOTOMETRIC) == 0 and image.mode[0] in "IF", wide, low)


def eight_bit(
    image: Image.Image, channels: int = 3, background: tuple[int, int, int] = WHITE, depth: Depth | None = None
) -> tuple[Image.Image, str]:
    """The picture in mode L (`channels` 1: ITU-R 601 luma), RGB (3), or with four bands (4: RGBA; CMYK and RGBX stay).

    `image` is transposed as its EXIF says. The remark tells what was unusual, "" if nothing. `Unreadable` says why not.
    """
    depth, remarks = depth or Depth(), []
    if image.mode[0] in "IF" or depth.wide:
        image, remark = _scaled(image, depth)
        remarks.append(remark)
    if image.mode == "La":  # Pillow takes it to no other mode
        image = image.convert("LA")
    if channels == 4:
        kept = image.mode in ("RGBA", "CMYK", "RGBX")
        return image if kept else image.convert("RGBA"), " and ".join(remarks)
    if image.mode in CONVERTED:
        remarks.append(f"{image.mode} (converted)")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
            remarks.append(f"transparent (over {'white' if background == WHITE else background})")
    image = image.convert("RGB")
    return image if channels == 3 else image.convert(WANTED[channels]), " and ".join(remarks)


def _scaled(image: Image.Image, depth: Depth) -> tuple[Image.Image, str]:
    """Values outside 8 bits -> 8 bits; a colour that PNG declares transparent becomes an alpha."""
    values, alpha = np.asarray(image), None
    if depth.wide and depth.low is None:
        if values.max() <= 4095 >> 8:
            raise Unreadable("16-bit colours whose low bytes Pillow cannot read, and nothing in the high ones")
        return image, "16-bit container (high bytes kept)"
    if depth.wide:
        values = values.astype(np.int64) * 256 + np.asarray(depth.low)
        key = image.info.get("transparency")
        if image.mode == "RGBA":
            values, alpha = values[..., :3], values[..., 3]
        elif key is not None:
            alpha = 65535 * (values != np.array(key)).any(-1)
    elif isinstance(key := image.info.get("transparency"), int):
        alpha = 65535 * (values != key)
    top, remark = _range(values, image.mode, depth)
    shades = _shades(top - values if depth.inverted else values, top)
    if alpha is not None:
        shades = np.dstack([shades, _shades(alpha, top if alpha.max() <= top else 65535)])
    mode = image.mode if depth.wide and image.mode == "CMYK" else {2: "L"}.get(shades.ndim)
    mode = mode or {2: "LA", 3: "RGB", 4: "RGBA"}[shades.shape[2]]
    return Image.frombytes(mode, image.size, np.ascontiguousarray(shades).tobytes()), remark


def _range(values: np.ndarray, mode: str, depth: Depth) -> tuple[int, str]:
    """The value of white, and the sentence that says how it was found."""
    if not np.isfinite(values).all():
        raise Unreadable("values that are not finite (NaN or infinity)")
    least, most = values.min(), values.max()
    if least < 0 or most > 65535:
        raise Unreadable(
            f"values from {least:g} to {most:g}, and black and white are known only of 0 to 65535: save it with 8 bits"
        )
    top, kind = depth.top, "F" if mode == "F" else "I"
    if depth.bits:  # a significant bit that is above what the values reach: they were scaled up
        top = (1 << depth.bits) - 1 if most < 1 << depth.bits else 65535
    said = " as the file says" if top and most <= top else ""
    top = top if said else next(t for t in TOPS[kind] if most <= t)
    container = {"F": "float", "I": "32-bit"}.get(mode, "16-bit")
    what = f"values in 0..{top}" if kind == "F" else f"{top.bit_length()}-bit values"
    how = "as they are" if top == 255 else f"scaled by {255 if top == 1 else top}"
    return top, f"{container} container, {what}{said} ({how})"


def _shades(values: np.ndarray, top: int) -> np.ndarray:
    return np.rint(values / (top / 255)).clip(0, 255).astype(np.uint8)


def _low(data: bytes) -> Image.Image | None:
    """The low bytes of colours of 16 bits: Pillow reads the other byte of each value when told the other order."""
    image: Any = Image.open(io.BytesIO(data))
    tiles = []
    for tile in image.tile:
        name, *rest = [tile.args] if isinstance(tile.args, str) else tile.args
        name = name[:-1] + OPPOSITE[name[-1]]
        tiles.append(tile._replace(args=name if isinstance(tile.args, str) else (name, *rest)))
        if name.split(";")[0] in ("LA", "RGBa"):  # Pillow has no such order, or divides by alpha
            return None
    image.tile = tiles
    return ImageOps.exif_transpose(image)


def _significant(data: bytes) -> int:
    """Bits of a PNG's colours that are significant by its sBIT chunk; 0 without one."""
    at = 8
    while at + 9 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"sBIT":
            return max(data[at + 8 : at + 8 + min(length, 3)], default=0)
        if kind == b"IDAT":
            return 0
        at += 12 + length
    return 0


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, tuple) else value)
