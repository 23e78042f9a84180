"""ImageNet's official lists on a small stand-in: found by name in every source, refused when anything differs."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import imagenet_subsets
from ssl_bench.data.dataset import open_data, open_test
from ssl_bench.data.places import cache_folder
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, protocol

CLASSES = ("n01440764", "n01443537", "n01484850")
SOURCE = "random:toy_patch8@16"


def jpeg(label: int, seed: int) -> bytes:
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    image = rng.integers(0, 120, (16, 16, 3))
    image[..., label] += 120
    Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def images() -> list[tuple[str, str, str, bytes]]:
    """(split, class, file name, bytes): 30 training and 8 test images per class, named as ImageNet's."""
    found = []
    for k, name in enumerate(CLASSES):
        found += [("train", name, f"{name}_{100 + i}.JPEG", jpeg(k, 99 * k + i)) for i in range(30)]
        found += [("val", name, f"ILSVRC2012_val_{k}{i}.JPEG", jpeg(k, 99 * k + 50 + i)) for i in range(8)]
    return found


@pytest.fixture
def imagenet(tmp_path: Path) -> DataConfig:
    for split, name, file, data in images():
        (tmp_path / "set" / split / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / split / name / file).write_bytes(data)
    return DataConfig(f"folder:{tmp_path / 'set'}", 16, 0.2)


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with two small lists, taken for the official ones: not balanced, the first inside the second."""
    small = [f"{CLASSES[0]}_100.JPEG", f"{CLASSES[1]}_100.JPEG", f"{CLASSES[1]}_107.JPEG", f"{CLASSES[2]}_129.JPEG"]
    large = small + [f"{c}_{i}.JPEG" for c in CLASSES for i in range(110, 116)]
    folder = tmp_path / "imagenet_subsets"
    folder.mkdir()
    for (percent, (file, _)), names in zip(imagenet_subsets.OFFICIAL.items(), (small, large), strict=True):
        text = "".join(f"{name}\n" for name in names)
        (folder / file).write_text(text)
        monkeypatch.setitem(imagenet_subsets.OFFICIAL, percent, (file, hashlib.sha256(text.encode()).hexdigest()))
    return str(folder)


def test_the_official_lists_are_known_by_the_sha256_of_the_reference() -> None:
    digests = [digest for _, digest in imagenet_subsets.OFFICIAL.values()]
    assert [d[:16] for d in digests] == ["71e82a48ba782526", "6d09de11e7bdaf5b"]
    assert [(len(d), int(d, 16) > 0) for d in digests] == [(64, True)] * 2


def test_a_listed_image_is_fitted_on_whichever_part_it_is_in(imagenet: DataConfig, official: str) -> None:
    data = open_data(imagenet)
    assert data.train.files is not None and data.val.files is not None
    at = {name: i for i, name in enumerate([*data.train.files.tolist(), *data.val.files.tolist()])}
    found = {}
    for percent in (1.0, 10.0):
        names = imagenet_subsets.read(official, percent)
        found[percent] = imagenet_subsets.rows(np.concatenate([data.train.files, data.val.files]), names).tolist()
        assert found[percent] == [at[name.encode()] for name in names]
    assert any(i >= len(data.train) for i in found[10.0]), "the stand-in should have a listed validation image"
    assert len(found[10.0]) == 22 and set(found[1.0]) < set(found[10.0])


def test_the_record_says_which_lists_and_not_where(imagenet: DataConfig, official: str, tmp_path: Path) -> None:
    record = evaluate.evaluate(SOURCE, "lowshot:imagenet", imagenet, tmp_path, 0, [f"lists={official}"], "cpu")
    assert set(record.metrics) == {"percent1", "percent10"}, "one draw has no spread"
    assert record.selected == {"percent1": 4, "percent10": 22}
    assert record.protocol_config["lists"].split() == [digest for _, digest in imagenet_subsets.OFFICIAL.values()]
    assert str(tmp_path) not in json.dumps(record.protocol_config)
    assert record.metrics["percent10"] > 60  # the classes are colours
    tuned = ["lists=" + official, "finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.batch_size=4"]
    assert evaluate.evaluate(SOURCE, "lowshot:ijepa", imagenet, tmp_path, 0, tuned, "cpu").selected == {"percent1": 4}


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_every_source_gives_the_names(kind: str, imagenet: DataConfig, official: str, tmp_path: Path) -> None:
    """The hub's copy repeats the class in the name, shards say .jpg: still the same images."""
    for split in ("train", "val"):
        rows = [row for row in images() if row[0] == split]
        (tmp_path / kind).mkdir(exist_ok=True)
        if kind == "parquet":
            column = [{"bytes": data, "path": f"{file[:-5]}_{name}.JPEG"} for _, name, file, data in rows]
            table = pa.table({"image": column, "label": [name for _, name, _, _ in rows]})
            pq.write_table(table, tmp_path / kind / f"{split}-0.parquet")
            continue
        with tarfile.open(tmp_path / kind / f"{split}-0.tar", "w") as tar:
            for _, name, file, data in rows:
                for ending, content in ((".jpg", data), (".cls", name.encode())):
                    info = tarfile.TarInfo(f"{name}/{file[:-5]}{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    one, other = open_data(imagenet), open_data(DataConfig(f"{kind}:{tmp_path / kind}", 16, 0.2))
    assert other.train.files is not None and one.train.files is not None
    names = [name for name in imagenet_subsets.read(official, 10.0) if name.encode() in one.train.files.tolist()]
    assert (
        imagenet_subsets.rows(other.train.files, names).tolist()
        == imagenet_subsets.rows(one.train.files, names).tolist()
    )


def test_no_name_of_a_test_image_is_kept(imagenet: DataConfig, photos: Path) -> None:
    """A name can tell the class. Also where the test split is cut from the training files."""
    open_data(imagenet)
    assert open_test(imagenet).files is None
    cut = DataConfig(f"folder:{photos / 'train'}", 16, 0.2)
    assert len(open_data(cut).train.files) == len(open_data(cut).train)  # type: ignore[arg-type]
    assert open_test(cut).files is None
    assert not list(cache_folder().rglob("test_files.npy"))


def test_another_list_cannot_pass(official: str, imagenet: DataConfig, tmp_path: Path) -> None:
    path = Path(official) / "1percent.txt"
    path.write_text(path.read_text().replace("_129", "_128"))
    with pytest.raises(UserError, match=r"1percent.txt is not the official list \(sha256 .*the official one has"):
        protocol.load("lowshot:imagenet", [f"lists={official}"])
    path.unlink()
    done = CliRunner().invoke(cli, ["eval", "pixels", "--protocol", "lowshot:imagenet", "--set", f"lists={official}"])
    assert done.exit_code != 0 and isinstance(done.exception, UserError)
    assert "put 1percent.txt of github.com/google-research/simclr" in str(done.exception)
    for settings in (["draws=2"], ["shots=1"], ["percents=2"]):
        with pytest.raises(UserError, match="one draw"):
            protocol.load("lowshot:imagenet", [f"lists={official}", *settings])


def test_missing_and_repeated_images_are_counted_and_named() -> None:
    files = np.array([b"n01440764_1.JPEG", b"n01440764_2.JPEG", b"n01440764_2_n01440764.JPEG"])
    with pytest.raises(UserError, match=r"4 of the list's 5 images are not in .*: n0_3.JPEG, .*, n0_5.JPEG and 1 more"):
        imagenet_subsets.rows(files, ["n01440764_1.JPEG", *(f"n0_{i}.JPEG" for i in (3, 4, 5, 6))])
    with pytest.raises(UserError, match=r"1 of the list's 1 images are more than once in .*: n01440764_2.JPEG\."):
        imagenet_subsets.rows(files, ["n01440764_2.JPEG"])
    with pytest.raises(UserError, match="needs the file names"):
        imagenet_subsets.rows(None, ["n01440764_2.JPEG"])
