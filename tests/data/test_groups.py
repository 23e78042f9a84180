"""Images that belong together: no cut of a split parts them, from a table's column or a folder's file names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import Split, notes, open_data, open_test, present
from ssl_bench.data.groups import hold_out, named, number
from ssl_bench.errors import UserError

TILES, QUADRANTS = 12, 4


def tile(label: int, t: int, q: int) -> bytes:
    """An image whose first pixel says its class, its tile and its quadrant."""
    pixels = np.random.default_rng((label, t, q)).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    pixels[0, 0] = (label, t, q)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def table(path: Path, tiles: range, column: str | None = "group") -> Path:
    rows = [(k, t, q) for k in range(2) for t in tiles for q in range(QUADRANTS)]
    columns: dict[str, list[object]] = {"image": [tile(*r) for r in rows], "label": ["ab"[k] for k, _, _ in rows]}
    if column:
        columns[column] = [f"{'ab'[k]}{t}" + ("" if column == "group" else f"_{q}") for k, t, q in rows]
    pq.write_table(pa.table(columns), path)
    return path


def tiles(split: Split) -> set[tuple[int, int]]:
    """Class and tile of every image."""
    return {(int(k), int(t)) for k, t, _ in split.batch(np.arange(len(split)))[:, :, 0, 0].tolist()}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_the_validation_part_and_a_test_split_cut_here_keep_groups_whole(tmp_path: Path, share: float) -> None:
    table(tmp_path / "all.parquet", range(TILES))
    config = DataConfig(f"parquet:{tmp_path}", 8, share)
    data, test = open_data(config), open_test(config)
    parts = [tiles(data.train), tiles(data.val), tiles(test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 2 * TILES, "a tile lies in one part"
    for part in parts:
        assert {k for k, _ in part} == {0, 1}, "both classes are in every part"
    assert len(test) == pytest.approx(0.2 * 2 * TILES * QUADRANTS, abs=4)
    assert len(data.val) == pytest.approx(share * (len(data.train) + len(data.val)), abs=4)
    assert present(config) == (data.fingerprint, len(data.val))
    assert any("whole groups" in note for note in notes(config))


def test_without_groups_the_tiles_are_parted(tmp_path: Path) -> None:
    """The same images without the column, or with it set aside, are another set: its parts share tiles."""
    table(tmp_path / "all.parquet", range(TILES))
    grouped = open_data(DataConfig(f"parquet:{tmp_path}", 8, 0.2))
    data = open_data(DataConfig(f"parquet:{tmp_path}#group=none", 8, 0.2))
    assert tiles(data.train) & tiles(data.val)
    assert data.fingerprint != grouped.fingerprint
    (tmp_path / "bare").mkdir()
    bare = table(tmp_path / "bare" / "all.parquet", range(TILES), None)
    assert open_data(DataConfig(f"parquet:{bare}", 8, 0.2)).fingerprint == data.fingerprint


def test_a_column_by_name_and_by_pattern(tmp_path: Path) -> None:
    table(tmp_path / "all.parquet", range(TILES), "path")
    data = open_data(DataConfig(f"parquet:{tmp_path}#group=path:.+(?=_)", 8, 0.2))
    assert not tiles(data.train) & tiles(data.val)
    for given, said in (("pathh", "no column 'pathh'"), ("path:[", "no regular expression"),
                        ("path:x", "matches nothing at the start of 'a0_0'")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            open_data(DataConfig(f"parquet:{tmp_path}#group={given}", 8, 0.2))


def test_a_folder_by_pattern(tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / "ab"[k]).mkdir()
        for t in range(TILES):
            for q in range(QUADRANTS):
                (tmp_path / "ab"[k] / f"tile{t}_{q}.png").write_bytes(tile(k, t, q))
    config = DataConfig(f"folder:{tmp_path}#group=.+(?=_)", 8, 0.2)
    data = open_data(config)
    parts = [tiles(data.train), tiles(data.val), tiles(open_test(config))]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 2 * TILES


def test_data_check_says_what_was_understood(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", range(10))
    table(tmp_path / "test.parquet", range(9, TILES))
    said = CliRunner().invoke(cli, ["data", "check", f"parquet:{tmp_path}", "--image-size", "8"]).output
    said = " ".join(said.split())
    assert "groups: column group" in said
    assert "groups kept whole in every cut: 20 train (at most 4 images), 6 test" in said
    assert "8 of 24 test images are of a group that training images are of too" in said


def test_groups_of_several_classes() -> None:
    """Speakers who say every word: whole speakers are held out, and every word is heard on both sides."""
    labels, speakers = np.tile(np.arange(10), 20), np.repeat([number(f"speaker {i}") for i in range(20)], 10)
    held = hold_out(labels, speakers, 0.1)
    assert held.sum() == 20 and not set(speakers[held]) & set(speakers[~held])


def test_a_class_whose_groups_are_large_is_held_out_too_while_it_keeps_one() -> None:
    labels = np.repeat([0, 1], [40, 40])
    groups = np.concatenate([np.repeat([1, 2], 20), np.repeat(np.arange(3, 13), 4)])  # class 0: two halves
    held = hold_out(labels, groups, 0.1)
    assert held[labels == 0].sum() == 20 and held[labels == 1].sum() == 4
    assert not hold_out(labels[:40], np.ones(40, np.int64), 0.1).any(), "one group cannot be cut"


def test_an_image_without_a_group_is_one_of_its_own() -> None:
    held = hold_out(np.zeros(100, np.int64), np.zeros(100, np.int64), 0.1)
    assert held.sum() == 10


def test_classes_that_the_validation_part_lacks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All training images of one class are of one film, which is left to training."""
    for part, tiled in (("train", range(10)), ("test", range(10, TILES))):
        whole = pq.read_table(table(tmp_path / f"{part}.parquet", tiled))
        pairs = zip(whole["label"].to_pylist(), whole["group"].to_pylist(), strict=True)
        films = pa.array([f"{part} of b" if label == "b" else group for label, group in pairs])
        pq.write_table(whole.set_column(2, "group", films), tmp_path / f"{part}.parquet")
    said = "The validation part has 1 of 2 classes: settings are chosen on these alone."
    assert said in open_data(DataConfig(f"parquet:{tmp_path}", 8, 0.2)).notes
    assert f"note: {said}" in " ".join(capsys.readouterr().out.split())
    bare = open_data(DataConfig(f"parquet:{tmp_path}#group=none", 8, 0.2))
    assert not any("validation part" in note for note in bare.notes)


def test_a_whole_number_is_one_group_and_one_fold_however_it_was_written(tmp_path: Path) -> None:
    """pandas writes a column of whole numbers as fractions where one value is missing; a shard has them as text."""
    whole = pq.read_table(table(tmp_path / "whole.parquet", range(TILES)))
    numbers = [number for _ in range(2) for number in range(TILES) for _ in range(QUADRANTS)]
    found = []
    for place, kinds in (("one", (pa.int64(), pa.int64())), ("two", (pa.int64(), pa.float64()))):
        (tmp_path / place).mkdir()
        for part, kind in enumerate(kinds):
            rows = range(part, len(whole), 2)  # two quadrants of each tile
            own = pa.array([numbers[i] for i in rows], kind)
            pq.write_table(whole.take(list(rows)).set_column(2, "group", own), tmp_path / place / f"part{part}.parquet")
        found.append(open_data(DataConfig(f"parquet:{tmp_path / place}", 8, 0.2)))
        fold = open_test(DataConfig(f"parquet:{tmp_path / place}#group=none#fold=group:3", 8, 0.2))
        assert len(fold) == 2 * QUADRANTS
    assert found[0].fingerprint == found[1].fingerprint and len(found[0].val) == len(found[1].val)
    assert number(named(7, "", "")) == number(named(7.0, "", "")) == number(named("7.0", "", ""))
    assert named(float("nan"), "", "") is None and named(7.5, "", "") == "7.5"
