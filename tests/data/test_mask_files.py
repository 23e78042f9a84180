"""Folders of images with mask files: what values mean, how masks are turned, and which are refused."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import store, summary
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.data.mask_files import ORIENTATION, Rules, classes, read, rules
from ssl_bench.data.masks import VOID
from ssl_bench.data.pixels import Unreadable
from ssl_bench.data.splits import Choice, choice
from ssl_bench.errors import UserError

SIDE = 16


def picture(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise with a red or green box; its mask: 0 background, 1 red, 2 green, void on the box's left edge."""
    rng = np.random.default_rng(i)
    image = np.repeat(rng.integers(90, 110, (SIDE, SIDE, 1)), 3, 2).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x, kind = rng.integers(1, 8), rng.integers(1, 8), i % 2
    image[y : y + 7, x : x + 7, kind] = 255
    mask[y : y + 7, x : x + 7] = 1 + kind
    mask[y : y + 7, x] = VOID
    return image, mask


def folder(place: Path, count: int = 30, layout: str = "{split}/x{i}.png") -> Path:
    for split in ("train", "test"):
        for i in range(count):
            image, mask = picture(i + 1000 * (split == "test"))
            for name, array in (("images", image), ("masks", mask)):
                path = place / name / layout.format(split=split, i=i)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return place


def named(place: Path, settings: str = "#classes=nothing,red,green") -> DataConfig:
    return DataConfig(f"folder:{place}#masks=masks{settings}", image_size=SIDE)


def test_masks_follow_their_images_into_both_splits(tmp_path):
    data = open_data(config := named(folder(tmp_path / "set")))
    assert data.classes == ("green", "red") and data.train.mask_classes == ("nothing", "red", "green")
    for part, masks in ((data.train, None), (open_test(config), open_truth(config)["masks"].numpy())):
        masks = part.masks[part.index] if masks is None else masks
        for image, mask in zip(part.batch(slice(None)).numpy(), masks, strict=True):
            for kind in (0, 1):
                assert ((mask == 1 + kind) <= (image[kind] == 255)).all()
            assert ((mask == 0) == (image[:2].max(0) < 255)).all() and (mask == VOID).any()
    for part, labels in ((data.train, data.train.labels), (data.val, data.val.labels)):
        green = [int((mask == 2).any()) for mask in part.masks[part.index]]
        assert (1 - labels).tolist() == green  # the class that covers most of the mask, background left out


def test_another_mask_is_another_set_and_other_suffixes_and_class_folders_are_found(tmp_path):
    place = folder(tmp_path / "set")
    before = open_data(named(place)).fingerprint
    assert before != open_data(named(place, "#classes=nothing,green,red")).fingerprint
    for path in (place / "masks").rglob("x3.png"):
        values = np.asarray(Image.open(path)).copy()
        values[0, 0] = 1
        Image.fromarray(values).save(path.with_suffix(".bmp"))
        path.unlink()
    assert open_data(named(place)).fingerprint != before
    classed = folder(tmp_path / "classed", layout="{split}/c{i}/x.png", count=4)
    for split in ("train", "test"):
        for i in range(4):  # of ten images each
            for j in range(9):
                for kind, array in zip(
                    ("images", "masks"), picture(100 * i + j + 7000 * (split == "test")), strict=True
                ):
                    Image.fromarray(array).save(classed / kind / split / f"c{i}" / f"y{j}.png")
    assert open_data(named(classed)).classes == ("c0", "c1", "c2", "c3")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_image(tmp_path, orientation):
    image, mask = picture(3)
    image, mask = image[:, :10], mask[:, :10]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(image).save(tmp_path / "x.png", exif=exif)
    Image.fromarray(mask).save(tmp_path / "plain.png")
    Image.fromarray(mask).save(tmp_path / "turned.png", exif=exif)
    from PIL import ImageOps

    with Image.open(tmp_path / "x.png") as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened))
    for name in ("plain", "turned"):
        found = read(tmp_path / f"{name}.png", tmp_path / "x.png", Rules(("a", "b", "c")))
        assert found.shape == shown.shape[:2]
        assert ((found == 0) == (shown[..., 1] < 255)).all()
    if orientation in (5, 6, 7, 8):  # drawn on the image as it is shown: its size tells
        Image.fromarray(found).save(tmp_path / "shown.png")
        assert (read(tmp_path / "shown.png", tmp_path / "x.png", Rules(("a", "b", "c"))) == found).all()


def test_values_palettes_and_thresholds(tmp_path):
    values = np.array([[0, 1, 2, 255]])
    assert classes(values, Rules(("a", "b", "c"))).tolist() == [[0, 1, 2, VOID]]
    assert classes(values, Rules(("a", "b"), first=1, void=(0, 255))).tolist() == [[VOID, 0, 1, VOID]]
    assert classes(values, Rules(("off", "on"), threshold=2)).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(Unreadable, match="value 255"):
        classes(values, Rules(("a", "b", "c"), void=()))
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "x.png")
    palette = Image.fromarray(values.astype(np.uint8)).convert("P")
    palette.putdata([0, 1, 2, 255])
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("palette", "deep"):
        assert read(tmp_path / f"{name}.png", tmp_path / "x.png", Rules(("a", "b", "c"))).tolist() == [[0, 1, 2, VOID]]
    Image.fromarray(np.array([[0, 1, 1, 0]], bool)).save(tmp_path / "bit.png")
    assert read(tmp_path / "bit.png", tmp_path / "x.png", Rules(("a", "b"))).tolist() == [[0, 1, 1, 0]]


def bad(kind: str, path: Path) -> None:
    image, mask = picture(5)
    two = Image.fromarray(mask)
    broken = {
        "smaller": lambda: Image.fromarray(mask[:8]).save(path), "colours": lambda: Image.fromarray(image).save(path),
        "missing": path.unlink, "void": lambda: Image.fromarray(np.full_like(mask, VOID)).save(path),
        "more classes": lambda: Image.fromarray(np.where(mask == 2, 8, mask).astype(np.uint8)).save(path),
        "cut off": lambda: path.write_bytes(path.read_bytes()[:-30]), "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("0 1 2"), "on its side": lambda: Image.fromarray(mask[:, :9]).save(path),
        "lossy": lambda: Image.fromarray(mask).save(path, "JPEG"),
        "renumbered": lambda: Image.fromarray(mask).save(path, "GIF"),
        "several": lambda: Image.fromarray(mask).save(path, "TIFF", save_all=True, append_images=[two]),
        "alpha": lambda: Image.fromarray(image).convert("LA").save(path),
        "floats": lambda: Image.fromarray(mask.astype(np.float32)).save(path, "TIFF"),
    }  # fmt: skip
    broken[kind]()


@pytest.mark.parametrize(("kind", "said"), [
    ("smaller", "its mask is 16 x 8 pixels, it is 16 x 16"), ("on its side", "its mask is 9 x 16 pixels"),
    ("colours", "its mask has mode RGB"), ("alpha", "its mask has mode LA"), ("floats", "its mask has mode F"),
    ("missing", "it has no mask: masks/train/x4.png is not there"), ("void", "every pixel of its mask is void"),
    ("more classes", "value 8, which is neither a class (0 to 2) nor void"), ("cut off", "its mask cannot be read"),
    ("empty", "no image that Pillow knows"), ("text", "no image that Pillow knows"), ("lossy", "JPEG"),
    ("renumbered", "its mask is a GIF, which changes values"), ("several", "its mask has 2 pictures"),
])  # fmt: skip
def test_a_bad_mask_refuses_the_set_in_one_sentence_or_leaves_its_image_out(tmp_path, kind, said):
    place = folder(tmp_path / "set", count=12)
    bad(kind, place / "masks" / "train" / "x4.png")
    with pytest.raises(UserError) as error:
        open_data(named(place))
    assert said in str(error.value) and "x4.png" in str(error.value) and "1 of 24" in str(error.value)


@pytest.mark.parametrize(("settings", "said"), [
    ("", "What do the masks' values mean"), ("#classes=a", "2 to 255"), ("#classes=a,a", "different"),
    ("#classes=3#void=1", "class 'class 1' too"), ("#threshold=9#classes=2", "no effect"),
    ("#threshold=x", "whole number"), ("#classes=2#first=-1", "whole number"), ("#classes=300", "2 to 255"),
])  # fmt: skip
def test_rules_that_say_nothing_or_too_much_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        rules(choice(f"x#masks=m{settings}")[1])
    assert rules(Choice({"classes": ["3"]})).classes == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(("settings", "said"), [
    ("#masks=mask#classes=2", "has no folder 'mask'. Did you mean 'masks'?"),
    ("#masks=file#classes=2", "has no folder 'file'. Valid: images, masks, notes"),
    ("#masks=notes#classes=2", "holds only .npy, and masks are images"),
    ("#masks=bare#classes=2", "holds no files, and masks are images"), ("#masks=../masks#classes=2", "lies in"),
    ("#masks=.#classes=2", "lies in"),    ("#classes=2", "no effect without #masks"),
])  # fmt: skip
def test_a_folder_of_masks_lies_in_the_set(tmp_path, settings, said):
    place = folder(tmp_path / "set", count=6)
    for name in ("notes", "bare"):
        (place / name).mkdir()
    np.save(place / "notes" / "x0.npy", picture(0)[1])
    (place / "file").write_text("no folder")
    with pytest.raises(UserError, match=said):
        open_data(DataConfig(f"folder:{place}{settings}", image_size=SIDE))


def test_masks_among_the_images_are_no_folder_of_masks(tmp_path):
    place = folder(tmp_path / "set", count=6)
    (place / "masks").rename(place / "images" / "masks")
    with pytest.raises(UserError, match=r"All images lie in .*images, the folder of #masks="):
        open_data(DataConfig(f"folder:{place}#masks=images#classes=2", image_size=SIDE))


def rewritten(place: Path, change: Callable[[np.ndarray], np.ndarray]) -> DataConfig:
    for path in (place / "masks").rglob("*.png"):
        Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)
    return named(place, "#classes=ground,thing")


def test_masks_of_a_single_class_are_refused(tmp_path):
    place = folder(tmp_path / "binary", count=12)
    binary = rewritten(place, lambda mask: np.where((mask == 1) | (mask == 2), 255, 0))  # 255: void, as nothing is said
    for _ in range(2):  # what was sealed stays so
        with pytest.raises(UserError, match=r"other than 'ground' \(16% of them are void\).*#void="):
            open_data(binary)
    with pytest.raises(UserError, match=r"other than 'background' \(0% of them"):
        open_data(named(folder(tmp_path / "dark", count=12), "#threshold=256"))
    rules = f"folder:{place}#masks=masks#threshold=255"
    assert open_data(DataConfig(rules, image_size=SIDE)).train.mask_classes == ("background", "foreground")


def test_what_masks_hold_is_shown(tmp_path):
    config = named(folder(tmp_path / "set", count=12), "#classes=nothing,red,green,blue")
    path = tmp_path / "set" / "masks" / "train" / "x4.png"
    Image.fromarray(np.full((SIDE, SIDE), VOID, np.uint8)).save(
        path
    )  # its image is left out, and its pixels not counted
    told = "\n".join(summary.lines(json.loads((store.ensure(config) / "meta.json").read_text())))
    assert "pixels of the masks: nothing 83.1%, red 8.1%, green 8.8%; 2.7% of all pixels are void" in told
    assert "no pixel of any mask is blue" in told


def test_a_parquet_column_of_masks_gives_what_the_folder_does(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder(tmp_path / "set")
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        paths = sorted((place / "images" / split).iterdir())
        masks = [{"bytes": (place / "masks" / split / path.name).read_bytes()} for path in paths]
        names = ["green" if int(path.stem[1:]) % 2 else "red" for path in paths]
        table = {"image": [{"bytes": path.read_bytes()} for path in paths], "label": names, "seg": masks}
        pq.write_table(pa.table(table), tmp_path / "rows" / f"{split}.parquet")
    rules = "#classes=nothing,red,green"
    config = DataConfig(f"parquet:{tmp_path / 'rows'}#masks=seg{rules}", image_size=SIDE)
    assert open_data(config).fingerprint == open_data(named(place)).fingerprint
    assert (open_truth(config)["masks"] == open_truth(named(place))["masks"]).all()
    with pytest.raises(UserError, match=r"no column 'sag'\. Did you mean 'seg'"):
        open_data(DataConfig(f"parquet:{tmp_path / 'rows'}#masks=sag{rules}", image_size=SIDE))
    with pytest.raises(UserError, match="no effect without #masks"):
        open_data(DataConfig(f"parquet:{tmp_path / 'rows'}{rules}", image_size=SIDE))
    table["seg"][3] = None
    pq.write_table(pa.table(table), tmp_path / "rows" / "test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet row 3: it has no mask"):
        open_data(config)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 2 or 4 bits [h, w], which Pillow does not write; w fills whole bytes."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    each = 8 // bits
    packed = (values.reshape(len(values), -1, each) << (bits * np.arange(each - 1, -1, -1))).sum(2).astype(np.uint8)
    head = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, 0, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_levels_of_few_bits_are_the_numbers_of_the_file(bits: int) -> None:
    values = np.arange(8 * 8).reshape(8, 8) % 2**bits
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    names = tuple(f"class {i}" for i in range(2**bits))
    found = read(grey_png(values, bits), image.getvalue(), Rules(names))
    assert (found == values).all()  # Pillow alone says 85 or 17 times as much, and 255 is void
