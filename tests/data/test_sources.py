"""Names, layouts and hostile files: what each source gives, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image

from ssl_bench import find
from ssl_bench.cli.main import cli
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import catalogue, registry
from ssl_bench.data.dataset import notes, open_data, open_test
from ssl_bench.errors import UserError
from ssl_bench.experiments import matrix

ANY = RunConfig(bad_limit=1.0)


def png(seed: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(path: Path, seeds: range, label: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    rows = {"image": [{"bytes": png(i), "path": "../../etc/passwd"} for i in seeds]}
    rows["label"] = [i % 2 if label is None else label for i in seeds]
    pq.write_table(pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(info)}), path)


def test_layouts_of_parquet_files(tmp_path: Path) -> None:
    table(tmp_path / "data" / "train-00000-of-00002.parquet", range(20))
    table(tmp_path / "data" / "train-00001-of-00002.parquet", range(20, 40))
    table(tmp_path / "data" / "validation-00000-of-00001.parquet", range(40, 50))
    table(tmp_path / "data" / "test-00000-of-00001.parquet", range(50, 60), label=-1)
    config = DataConfig(f"parquet:{tmp_path}", 8, 0.2)
    data = open_data(config)
    assert data.classes == ("cat", "dog") and len(data.train) + len(data.val) == 40 and len(open_test(config)) == 10
    assert "Not used: test (test is 'val')" in notes(config)[0], "a test split without labels cannot be one"
    assert open_data(DataConfig(f"parquet:{tmp_path}/*/*.parquet", 8, 0.2)).fingerprint == data.fingerprint
    for part in ("train", "validation"):  # the hub's converted files: one folder per split
        for i, path in enumerate(sorted((tmp_path / "data").glob(f"{part}-*"))):
            (tmp_path / "other" / part).mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "other" / part / f"{i:04d}.parquet")
    assert open_data(DataConfig(f"parquet:{tmp_path / 'other'}", 8, 0.2)).fingerprint == data.fingerprint


def test_paths_in_a_parquet_file_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(0))
    rows = [{"bytes": None if i == 7 else png(i), "path": str(secret)} for i in range(40)]
    pq.write_table(pa.table({"image": rows, "label": ["a", "b"] * 20}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train.parquet row 7: the row has no image bytes; paths .* are not followed"):
        open_data(DataConfig(f"parquet:{tmp_path}", 8, 0.2))
    pq.write_table(pa.table({"image": [str(secret)], "label": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="holds text"):
        open_data(DataConfig(f"parquet:{tmp_path}", 8, 0.2))


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_tar_shards_are_the_same_set_as_a_folder(tmp_path: Path) -> None:
    members: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    for i in range(40):
        split, name = ("train", "test")[i >= 30], ("cat", "dog")[i % 2]
        (tmp_path / "folder" / split / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / split / name / f"{i}.png").write_bytes(png(i))
        label = {"cls": name.encode()} if i % 3 else {"json": json.dumps({"label": name}).encode()}
        for kind, data in {"png": png(i), **label}.items():
            members[split][f"../../x/{i:04d}.{kind}"] = data  # read in memory: the name leads nowhere
    for split, found in members.items():
        shard(tmp_path / "wds" / f"{split}-000.tar", found)
    found, same = (open_data(DataConfig(f"{k}:{tmp_path / p}", 8, 0.2))
                   for k, p in (("webdataset", "wds"), ("folder", "folder")))  # fmt: skip
    assert found.fingerprint == same.fingerprint and found.classes == ("cat", "dog")
    assert not (tmp_path.parent / "x").exists() and not (tmp_path.parents[1] / "x").exists()


def test_shards_without_labels_and_with_holes(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "train.tar", {f"{i}.png": png(i) for i in range(20)})
    data = open_data(DataConfig(f"webdataset:{tmp_path / 'a'}", 8, 0.2))
    assert not data.labelled and len(data.train) + len(data.val) == 20
    labels = {f"{i}.cls": b"%d" % (i % 2) for i in range(19)}
    shard(tmp_path / "b" / "train.tar", {f"{i}.png": png(i) for i in range(20)} | labels)
    with pytest.raises(UserError, match=r"1 of 20 images .*train.tar:19.png: no label"):
        open_data(DataConfig(f"webdataset:{tmp_path / 'b'}", 8, 0.2))
    (tmp_path / "b" / "train.tar").write_bytes(b"no tar at all" * 99)
    with pytest.raises(UserError, match="not a readable tar file"):
        open_data(DataConfig(f"webdataset:{tmp_path / 'b'}", 8, 0.2))


def test_images_without_class_folders_are_unlabelled(tmp_path: Path) -> None:
    from ssl_bench.evaluation.evaluate import evaluate

    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    config = DataConfig(f"folder:{tmp_path}", 8, 0.2)
    data = open_data(config)
    assert not data.labelled and len(data.train) + len(data.val) == 20 and "no labels" in notes(config)[0]
    with pytest.raises(UserError, match="no labels to evaluate by"):
        evaluate("pixels", "knn", config, tmp_path / "runs", device="cpu")


def bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""
    data = png(0)
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_hostile_images_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(20):
        (tmp_path / "a" / f"{i}.png").write_bytes(png(i))
    (tmp_path / "a" / "bomb.png").write_bytes(bomb())
    (tmp_path / "a" / "cut.png").write_bytes(png(3)[:60])
    frames = [Image.new("RGB", (9, 9), (i * 99, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a" / "moving.gif", save_all=True, append_images=frames[1:])
    config = DataConfig(f"folder:{tmp_path}", 8, 0.2)
    with pytest.raises(UserError, match=r"2 of 23 images .*bomb.png: .*bomb.*cut.png: ") as refused:
        open_data(config)
    assert "run.bad_limit" in str(refused.value)
    assert len(open_data(config, ANY).train) > 10
    assert any("1 animated (first frame used)" in note for note in notes(config))


def idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.tobytes())


def test_a_set_by_name_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_BENCH_DATA", str(tmp_path))
    config = DataConfig("fashion-mnist", 28, 0.2)
    with pytest.raises(UserError, match=r"ssl-bench data get fashion-mnist \(31 MB, licence: MIT"):
        open_data(config)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 255, (count, 28, 28), dtype=np.uint8))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    data, test = open_data(config), open_test(config)
    assert len(data.train) + len(data.val) == 40 and len(test) == 20 and "Sneaker" in data.classes
    assert torch.equal(test.batch([0])[0, 0], test.batch([0])[0, 2])


def test_stl10_with_its_folds_and_its_unlabelled_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_BENCH_DATA", str(tmp_path))
    folder, rng = tmp_path / "stl10_binary", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 20), ("test", 8), ("unlabeled", 12)):
        images = rng.integers(0, 255, (count, 3, 96, 96), dtype=np.uint8)
        images.tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) % 2 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    (folder / "fold_indices.txt").write_text("\n".join(" ".join(map(str, range(i, i + 10))) for i in range(10)))
    whole, fold, bare = (open_data(DataConfig(f"stl10{part}", 96, 0.2)) for part in ("", ":fold3", ":unlabelled"))
    assert len(whole.train) + len(whole.val) == 20 and len(open_test(DataConfig("stl10:fold3", 96))) == 8
    assert len(fold.train) + len(fold.val) == 10 and whole.classes == ("airplane", "bird")
    assert len(bare.train) + len(bare.val) == 12 and not bare.labelled
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    theirs = np.asarray(torchvision.datasets.STL10(tmp_path, "test")[5][0])
    ours = open_test(DataConfig("stl10", 96)).batch(slice(None)).permute(0, 2, 3, 1).numpy()
    assert (ours == theirs).all((1, 2, 3)).sum() == 1
    with pytest.raises(UserError, match="Did you mean 'fold3'"):
        open_data(DataConfig("stl10:fold33"))


@pytest.mark.parametrize("name", catalogue.names())
def test_the_catalogue_is_usable(name: str) -> None:
    about = catalogue.entries()[name]
    assert hasattr(torchvision.datasets, about["torchvision"]) and about["files"] and about["source"]
    words = about["recipe"].split()
    config = resolve(find.recipe("mae", words[1])(), [f"data.name={name}", *words[2:]])
    assert config.data.name == name
    with pytest.raises(UserError, match=r"Get it|by hand"):
        open_data(config.data)


def test_the_command_reports(photos: Path) -> None:
    done = CliRunner().invoke(cli, ["data", "check", f"folder:{photos}", "--image-size", "24"])
    assert done.exit_code == 0 and "120 train, 36 test, 3 classes" in done.output and "fingerprint" in done.output


def test_a_comparison_evaluated_on_another_set(photos: Path, tmp_path: Path) -> None:
    name = f"folder:{photos}"
    rows = matrix.plan(["mae"], ["knn"], 1, "quick", [], tmp_path, True, name)
    assert [row.data for row in rows] == [name] * 3 and all(row.where[:2] == ["--data", name] for row in rows)
    assert rows[0].config is not None and rows[0].config.data.name == "clothing48"
    for more, sentence in (("cifra10", "Did you mean 'cifar10'"), ("clothing48 --slurm gpu", "no effect with --slurm")):
        done = CliRunner().invoke(cli, ["compare", "--root", str(tmp_path), "--eval-data", *more.split()])
        assert isinstance(done.exception, UserError) and sentence in str(done.exception)


def test_a_comma_inside_the_name_of_a_set_parts_nothing() -> None:
    masks = "folder:/a,b/c#masks=masks#classes=sky,tree"
    assert registry.several(f"cifar10,{masks},clothing48,parquet:/x,cifar10") == [
        "cifar10", masks, "clothing48", "parquet:/x",
    ]  # fmt: skip
    assert registry.several("cifar10,cifra10") == ["cifar10", "cifra10"]


def test_whole_labels_of_another_type_are_one_class_and_said(tmp_path: Path) -> None:
    for part, kind in (("train", pa.int64()), ("test", pa.float64())):
        rows = {"image": [png(i + (part == "test") * 100) for i in range(60)], "label": pa.array([0, 1, 2] * 20, kind)}
        pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
    config = DataConfig(f"parquet:{tmp_path}", 8, 0.2)
    data = open_data(config)
    assert len(data.classes) == 3
    assert "Labels are double in test.parquet and int64 in train.parquet: 1.0 and 1 are one class." in notes(config)


def test_labels_that_are_text_in_one_file_and_numbers_in_another_are_refused(tmp_path: Path) -> None:
    for part, labels in (("train", ["0", "1", "2"] * 20), ("test", [0, 1, 2] * 20)):
        rows = {"image": [png(i + (part == "test") * 100) for i in range(60)], "label": labels}
        pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
    said = r"string in .*train.parquet and int64 in .*test.parquet, which has no class names"
    with pytest.raises(UserError, match=said):
        open_data(DataConfig(f"parquet:{tmp_path}", 8, 0.2))
