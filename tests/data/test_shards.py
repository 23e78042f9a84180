"""Tar shards: samples, labels, several images under one key, files that are no shards or not whole."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from test_splits import image, sizes

from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import notes, open_data
from ssl_bench.errors import UserError


def shard(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return f"webdataset:{path}"


def test_captions_are_no_classes(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", image(i, "JPEG")) for i in range(20)] + [(f"{i}.txt", b"photo %d" % i) for i in range(20)]
    name = shard(tmp_path / "a.tar", members + [(f"{i}.json", b'{"url": "x"}') for i in range(20)])
    data = open_data(DataConfig(name, 8, 0.2))
    assert not data.labelled and len(data.train) + len(data.val) == 20
    assert any("captions" in note for note in data.notes)
    texts = [(f"{i}.txt", (b"ant", b"bee")[i % 2]) for i in range(20)]
    assert sizes(shard(tmp_path / "b.tar", members[:20] + texts))[2] == ("ant", "bee")


def test_a_sample_without_a_label_is_named(tmp_path: Path) -> None:
    labels = [(f"{i}.json", json.dumps({"label": i % 2} if i != 7 else {"caption": "x"}).encode()) for i in range(20)]
    name = shard(tmp_path / "a.tar", [(f"{i}.png", image(i)) for i in range(20)] + labels)
    with pytest.raises(UserError, match=r"1 of 20 images .*7.png: no label: .json has none of label, cls, class"):
        open_data(DataConfig(name, 8))


def test_several_images_under_one_key(tmp_path: Path) -> None:
    labels = [(f"{i}.cls", b"%d" % (i % 2)) for i in range(20)]
    plain = [(f"{i}.jpg", image(i, "JPEG")) for i in range(20)]
    depth = [(f"{i}.depth.png", image(900)) for i in range(20)]
    name = shard(tmp_path / "a.tar", depth + plain + labels)
    alone = open_data(DataConfig(shard(tmp_path / "b.tar", plain + labels), 8, 0.2))
    assert open_data(DataConfig(name, 8, 0.2)).fingerprint == alone.fingerprint
    assert any("20 .depth.png" in note for note in notes(DataConfig(name, 8)))
    pair = [(f"{i}.{side}.jpg", image(i + k, "JPEG")) for i in range(20) for k, side in enumerate(("left", "right"))]
    name = shard(tmp_path / "c.tar", pair + labels)
    with pytest.raises(
        UserError, match=r"2 images under one key, among them 0.left.jpg and 0.right.jpg.*#image=left.jpg"
    ):
        open_data(DataConfig(name, 8))
    assert open_data(DataConfig(f"{name}#image=left.jpg", 8, 0.2)).fingerprint == alone.fingerprint
    with pytest.raises(UserError, match=r"20 images under one key.*keys have no dot"):
        open_data(DataConfig(shard(tmp_path / "d.tar", [(f"a.{i}.jpg", image(i, "JPEG")) for i in range(20)]), 8))


def test_an_archive_of_class_folders_is_no_shard(tmp_path: Path) -> None:
    name = shard(tmp_path / "a.tar", [(f"set/{'ab'[i % 2]}/{i}.png", image(i)) for i in range(20)])
    with pytest.raises(UserError, match=r"images lie in 2 folders \('set/a', 'set/b'\).* folder:PATH.*#label=none"):
        open_data(DataConfig(name, 8))
    assert not open_data(DataConfig(f"{name}#label=none", 8, 0.2)).labelled


def test_tar_files_that_are_cut_joined_or_hold_a_name_twice(tmp_path: Path) -> None:
    members = [(f"{i}.{kind}", data) for i in range(20) for kind, data in (("png", image(i)), ("cls", b"%d" % (i % 2)))]
    name = shard(tmp_path / "a.tar", members)
    whole = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        half = tar.getmembers()[20].offset
    for data, sentence in (
        (whole[:half], "it has no end, so it was cut off"),  # between two members: half of the images are gone
        (whole[: half + 600], "not a readable tar file"),
        (whole + whole, "more follows its end"),
    ):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(UserError, match=sentence):
            open_data(DataConfig(name, 8))
    with pytest.raises(UserError, match=r"holds 0\.png twice"):
        open_data(DataConfig(shard(tmp_path / "b.tar", [*members, members[0]]), 8))


def test_links_in_a_tar_file_are_counted(tmp_path: Path) -> None:
    name = shard(tmp_path / "a.tar", [(f"{i}.png", image(i)) for i in range(20)])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("99.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0.png"
        tar.addfile(link)
    assert any("1 links in a.tar are not followed" in note for note in notes(DataConfig(name, 8)))


def test_whole_numbers_with_a_fraction_of_nothing_are_the_same_classes(tmp_path: Path) -> None:
    images = [(f"{i}.png", image(i)) for i in range(20)]
    mixed = [(f"{i}.cls", (b"0", b"1", b"0.0", b"1.0")[i % 4]) for i in range(20)]
    assert sizes(shard(tmp_path / "a.tar", images + mixed))[2] == ("00000", "00001")
