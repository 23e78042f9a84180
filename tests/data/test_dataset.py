"""Sources, the store, the fingerprint, the split, broken images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import notes, open_data, open_test
from ssl_bench.errors import UserError


def test_embedded_photographs() -> None:
    data, test = open_data(DataConfig()), open_test(DataConfig())
    assert len(data.train) + len(data.val) == 2782 and len(test) == 999
    assert data.classes == (
        "dress",
        "hat",
        "longsleeve",
        "outwear",
        "pants",
        "shirt",
        "shoes",
        "shorts",
        "skirt",
        "t-shirt",
    )
    assert data.train.batch([0, 5]).shape == (2, 3, 48, 48) and data.train.batch([0]).dtype == torch.uint8
    assert not set(data.train.index) & set(data.val.index)
    share = torch.bincount(data.val.labels) / (torch.bincount(data.train.labels) + torch.bincount(data.val.labels))
    assert (share - 0.1).abs().max() < 0.01, "the validation part is stratified"


def test_the_same_pixels_have_the_same_fingerprint_from_a_folder_and_a_parquet(photos: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [(p.read_bytes(), p.parent.name) for p in sorted((photos / split).rglob("*.png"), reverse=True)]
        table = pa.table({"image": [{"bytes": b, "path": "x"} for b, _ in rows], "label": [c for _, c in rows]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    a, b = (
        open_data(DataConfig(f"{kind}:{path}", 24, 0.2)) for kind, path in (("folder", photos), ("parquet", tmp_path))
    )
    assert a.fingerprint == b.fingerprint
    assert torch.equal(a.train.batch(slice(None)), b.train.batch(slice(None)))
    assert open_data(DataConfig(f"folder:{photos}", 12, 0.2)).fingerprint != a.fingerprint


def test_moments_are_those_of_the_training_split(photos: Path) -> None:
    data = open_data(DataConfig(f"folder:{photos}", 24, 0.2))
    pixels = np.concatenate([s.batch(slice(None)).numpy() for s in (data.train, data.val)]) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-4)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-4)


def test_a_folder_without_a_test_split_gets_one(photos: Path) -> None:
    config = DataConfig(f"folder:{photos / 'train'}", 24, 0.2)
    data, test = open_data(config), open_test(config)
    assert len(test) == 24 and len(data.train) + len(data.val) == 96
    assert "no test split" in notes(config)[0]


def folder_with(tmp_path: Path, good: int, **files: bytes) -> DataConfig:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(good // 2):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    for name, data in files.items():
        (tmp_path / "a" / f"{name}.jpg").write_bytes(data)
    return DataConfig(f"folder:{tmp_path}", 8, 0.2)


def test_broken_images_are_named_and_too_many_stop(tmp_path: Path) -> None:
    config = folder_with(tmp_path, 60, empty=b"", text=b"not an image")
    with pytest.raises(UserError, match=r"2 of 62 images .* cannot be read: .*empty.jpg: zero bytes"):
        open_data(config)


def test_hidden_files_are_left_out_and_other_files_are_told(tmp_path: Path) -> None:
    config = folder_with(tmp_path, 40)
    (tmp_path / "a" / "._0.jpg").write_bytes(b"\x00\x05\x16\x07")  # what macOS leaves on a memory card
    (tmp_path / "b" / ".thumbnails").mkdir()
    (tmp_path / "b" / ".thumbnails" / "0.png").write_bytes((tmp_path / "b" / "0.png").read_bytes())
    (tmp_path / "b" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    data = open_data(config)
    assert len(data.train) + len(data.val) + len(open_test(config)) == 40
    assert any("1 .heic" in note for note in data.notes)


def test_a_path_as_a_name_is_told_how_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"is a path: write folder:{tmp_path}"):
        open_data(DataConfig(str(tmp_path), 8, 0.2))


def test_one_broken_image_in_many_is_left_out_and_noted(tmp_path: Path) -> None:
    config = folder_with(tmp_path, 1200, broken=b"\xff\xd8\xff")
    assert len(open_data(config).train) > 700
    assert any("1 unreadable" in n and "broken.jpg" in n for n in notes(config))


def test_other_modes_are_converted(tmp_path: Path) -> None:
    config = folder_with(tmp_path, 40)
    grey = np.full((8, 8), 40000, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a" / "deep.png")
    buffer = io.BytesIO()
    Image.new("CMYK", (30, 9), (0, 255, 255, 0)).save(buffer, "JPEG")
    (tmp_path / "b" / "cmyk.jpg").write_bytes(buffer.getvalue())
    data, test = open_data(config), open_test(config)
    everything = torch.cat([s.batch(slice(None)) for s in (data.train, data.val, test)])
    assert len(everything) == 42
    flat = everything.flatten(1)
    assert (flat == 156).all(1).any(), "16-bit greys are scaled, not clipped"
    assert ((everything[:, 0] > 200).flatten(1).all(1) & (everything[:, 1] < 60).flatten(1).all(1)).any(), (
        "CMYK red stays red"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("clothing84", r"Unknown data 'clothing84'. Did you mean 'clothing48'\?"),
        ("folder:/nowhere/at/all", "No such path: /nowhere/at/all"),
        ("parquet:/nowhere.parquet", "No such path"),
        ("folder:", "Unknown data"),
    ],
)
def test_wrong_names(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_data(DataConfig(name))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No images in"):
        open_data(DataConfig(f"folder:{tmp_path}"))


def test_a_parquet_without_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [b""]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="has no column"):
        open_data(DataConfig(f"parquet:{tmp_path}"))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a readable parquet"):
        open_data(DataConfig(f"parquet:{tmp_path}"))
