"""Every mode and range becomes the 8-bit picture it was made from, or a sentence; what was done is said."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import Item, decode, read, square
from ssl_bench.data.pixels import Unreadable, eight_bit

SIDE = 12
COLOUR = np.random.default_rng(0).integers(0, 201, (SIDE, SIDE, 3)).astype(np.uint8)
GREY = COLOUR[..., 0].copy()


def saved(image: Image.Image, form: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def decoded(data: bytes | np.ndarray, channels: int = 3) -> tuple[np.ndarray, str]:
    data = data if isinstance(data, bytes) else saved(Image.fromarray(data), "TIFF")
    pixels, remark = decode(data, square(SIDE, channels))
    return pixels.transpose(1, 2, 0), remark


def png16(pixels: np.ndarray, colour: int, **chunks: bytes) -> bytes:
    """16 bits per channel (Pillow writes grey alone). `colour`: PNG's type; 4 is grey with alpha, 6 RGB with alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, colour, 0, 0, 0))
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RANGES = {
    "16-bit container, 8-bit values (as they are)": GREY.astype(np.uint16),
    "16-bit container, 12-bit values (scaled by 4095)": np.rint(GREY * (4095 / 255)).astype(np.uint16),
    "16-bit container, 16-bit values (scaled by 65535)": GREY.astype(np.uint16) * 257,
    "32-bit container, 8-bit values (as they are)": GREY.astype(np.int32),
    "32-bit container, 12-bit values (scaled by 4095)": np.rint(GREY * (4095 / 255)).astype(np.int32),
    "32-bit container, 16-bit values (scaled by 65535)": GREY.astype(np.int32) * 257,
    "float container, values in 0..1 (scaled by 255)": (GREY / 255).astype(np.float32),
    "float container, values in 0..255 (as they are)": GREY.astype(np.float32),
    "float container, values in 0..65535 (scaled by 65535)": GREY.astype(np.float32) * 257,
}


@pytest.mark.parametrize("remark", RANGES)
def test_a_range_beyond_8_bits_is_named_and_gives_the_8_bit_picture(remark: str) -> None:
    for channels in (1, 3, 4):
        pixels, said = decoded(RANGES[remark], channels)
        assert said == remark
        assert (pixels[..., : min(channels, 3)] == GREY[..., None]).all()
        assert channels < 4 or (pixels[..., 3] == 255).all()


@pytest.mark.parametrize("order", ["I;16", "I;16B", "I;16L"])
def test_both_orders_of_bytes(order: str) -> None:
    values = (GREY.astype(int) * 257).astype(">u2" if order == "I;16B" else "<u2")
    image, _ = eight_bit(Image.frombytes(order, (SIDE, SIDE), values.tobytes()), 1)
    assert (np.asarray(image) == GREY).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (GREY / np.float32(127.5) - 1, "values from -.* known only of 0 to 65535"),
        (GREY.astype(np.int32) * 8 - 1000, "values from -"),
        (GREY.astype(np.int32) * 1000, "black and white are known only of"),
        (GREY.astype(np.float32) * 1000, "black and white are known only of"),
        (np.where(GREY > 100, np.float32(np.nan), 0), "not finite"),
        (np.where(GREY > 100, np.float32(np.inf), 0), "not finite"),
    ],
)
def test_a_range_that_nobody_has_stated_is_unreadable(values: np.ndarray, sentence: str) -> None:
    data = saved(Image.fromarray(values), "TIFF")
    with pytest.raises(Unreadable, match=sentence):
        read(Item(data, "", "here"), square(SIDE), True)


def test_the_file_says_its_range() -> None:
    dark = (GREY // 32).astype(np.uint16)  # judged by its values it would be 8 bits
    scaled = np.rint(dark * (255 / 1023))
    pixels, remark = decoded(png16(dark, 0, sBIT=bytes([10])))
    assert (pixels[..., 0] == scaled).all()
    assert remark == "16-bit container, 10-bit values as the file says (scaled by 1023)"
    full, remark = decoded(png16(GREY.astype(np.uint16) * 16 * 16, 0, sBIT=bytes([12])))  # scaled up as PNG asks
    assert np.abs(full[..., 0].astype(int) - GREY).max() <= 1 and "16-bit values as the file says" in remark
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095  # MaxSampleValue
    pixels, remark = decoded(saved(Image.fromarray(dark), "TIFF", tiffinfo=tags))
    assert (pixels[..., 0] == np.rint(dark * (255 / 4095))).all() and "12-bit values as the file says" in remark
    tags[281] = 7  # the largest value of this picture, which is not its range
    assert decoded(saved(Image.fromarray(dark), "TIFF", tiffinfo=tags))[1].endswith("8-bit values (as they are)")


def test_white_is_zero_in_16_bits_too() -> None:
    """Pillow heeds it in 8 bits alone: the same picture would be a negative in 16."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    data = saved(Image.fromarray(65535 - GREY.astype(np.uint16) * 257), "TIFF", tiffinfo=tags)
    entry = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, of which Pillow writes BlackIsZero
    at = data.index(entry) + len(entry)
    assert (decoded(data[:at] + b"\0\0" + data[at + 2 :])[0] == GREY[..., None]).all()


def test_16_bit_colours_keep_their_low_bytes() -> None:
    """Pillow opens them as their high bytes: 12 bits would be sixteen times too dark, 8 bits black."""
    wide = COLOUR.astype(np.uint16)
    for values, bits in ((wide, 8), (np.rint(wide * (4095 / 255)), 12), (wide * 257, 16)):
        pixels, remark = decoded(png16(values, 2))
        assert (pixels == COLOUR).all() and f"{bits}-bit values" in remark
        opaque = np.dstack([values, np.full((SIDE, SIDE), 65535)])
        assert (decoded(png16(opaque, 6))[0] == COLOUR).all()
    clear = np.dstack([wide * 257, np.where(GREY > 100, 0, 65535)])
    pixels, remark = decoded(png16(clear, 6))
    assert (pixels == np.where(GREY[..., None] > 100, 255, COLOUR)).all() and remark.endswith(
        "transparent (over white)"
    )
    pixels, remark = decoded(png16(np.dstack([wide[..., 0] * 257, opaque[..., 3]]), 4))
    assert (pixels == GREY[..., None]).all() and "high bytes" in remark


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_8_bit_modes_are_as_pillow_converts_them(mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    for size in (8, SIDE):
        pixels, remark = decode(image, square(size))
        expected = np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
        assert (pixels.transpose(1, 2, 0) == expected).all()
        assert remark == (f"{mode} (converted)" if mode in ("CMYK", "YCbCr", "HSV") else "")
    grey, _ = decode(image, square(SIDE, 1))
    assert (grey[0] == np.asarray(image.convert("RGB").convert("L"))).all()


def test_lab_goes_through_its_colours() -> None:
    pixels, remark = eight_bit(Image.merge("LAB", [Image.new("L", (2, 2), v) for v in (136, 208, 195)]))  # sRGB's red
    assert np.abs(np.asarray(pixels).astype(int) - (255, 0, 0)).max() <= 12 and remark == "LAB (converted)"


def icons() -> dict[str, Image.Image]:
    """A black square on nothing, in every mode that can say so."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (3, 3, 9, 9))
    black = Image.new("L", mask.size, 0)
    indexed = mask.point(lambda v: 1 if v else 0).convert("P")
    indexed.putpalette([0, 0, 0, 0, 0, 0])
    indexed.info["transparency"] = 0
    grey = mask.point(lambda v: 0 if v else 7)
    grey.info["transparency"] = 7
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16))
    deep.info["transparency"] = 7
    rgba = Image.merge("RGBA", [black, black, black, mask])
    return {"LA": Image.merge("LA", [black, mask]), "RGBA": rgba, "P": indexed, "L": grey, "I;16": deep,
            "RGBa": rgba.convert("RGBa"), "La": Image.merge("LA", [black, mask]).convert("La")}  # fmt: skip


@pytest.mark.parametrize("mode", icons())
def test_what_is_transparent_is_seen_over_the_background(mode: str) -> None:
    for background, said in (((255, 255, 255), "over white"), ((9, 90, 200), r"over (9, 90, 200)")):
        pixels, remark = decode(icons()[mode], replace(square(SIDE), background=background))
        assert (pixels[:, 3:9, 3:9] == 0).all() and (pixels[:, 0, 0] == background).all()
        assert remark.endswith(f"transparent ({said})")
    kept, remark = decode(icons()[mode], square(SIDE, 4))
    assert "transparent" not in remark and (kept[3] == np.pad(np.full((6, 6), 255), 3)).all()


def test_an_opaque_alpha_changes_nothing() -> None:
    opaque = Image.fromarray(COLOUR)
    opaque.putalpha(255)
    pixels, remark = decode(opaque, square(SIDE))
    assert (pixels.transpose(1, 2, 0) == COLOUR).all() and remark == ""


def test_four_bands_stay_as_they_are() -> None:
    for mode in ("CMYK", "RGBX", "RGBA"):
        bands = [Image.fromarray(COLOUR[..., i % 3]) for i in range(4)]
        pixels, _ = decode(Image.merge(mode, bands), square(SIDE, 4))
        assert (pixels == np.stack([np.asarray(band) for band in bands])).all()


def test_only_what_moves_is_animated() -> None:
    first, other = Image.fromarray(COLOUR), Image.new("RGB", (SIDE, SIDE), "grey")
    for form in ("GIF", "PNG", "WEBP"):
        assert (
            "animated (first frame used)"
            in decode(saved(first, form, save_all=True, append_images=[other]), square(SIDE))[1]
        )
    pages = saved(first, "TIFF", save_all=True, append_images=[other])
    assert decode(pages, square(SIDE))[1] == "several pages (first one used)"
    phone = saved(first, "MPO", save_all=True, append_images=[other])
    assert Image.open(io.BytesIO(phone)).format == "MPO" and decode(phone, square(SIDE))[1] == ""


def test_a_picture_without_a_picture_is_said() -> None:
    assert decode(Image.new("L", (9, 9), 4), square(SIDE))[1] == "blank (one single colour)"


def test_16_bits_are_turned_as_exif_says() -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter to the right
    turned, _ = decoded(png16(COLOUR.astype(np.uint16) * 16, 2, eXIf=exif.tobytes()[6:]))
    upright, _ = decoded(png16(COLOUR.astype(np.uint16) * 16, 2))
    assert (turned == np.rot90(upright, -1)).all()


def test_the_embedded_photographs_are_the_same_as_ever() -> None:
    assert open_data(DataConfig("clothing48", 48)).fingerprint == "9fa695000313263d"  # as in the committed records
