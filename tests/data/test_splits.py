"""Names of splits, class sets, labels, links and shards: what is read, what is told, what is refused."""

from __future__ import annotations

import io
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from ssl_bench.cli.main import cli
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import source, splits
from ssl_bench.data.dataset import Dataset, notes, open_data, open_test
from ssl_bench.data.images import Unreadable
from ssl_bench.data.labels import class_name
from ssl_bench.errors import UserError


def image(seed: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def classes(root: Path, names: tuple[str, ...] = ("ant", "bee"), count: int = 10, first: int = 0) -> None:
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(image(1000 * k + first + i))


def sizes(name: str) -> tuple[int, int, tuple[str, ...]]:
    """Training images, test images, classes."""
    config = DataConfig(name, 8, 0.2)
    data: Dataset = open_data(config)
    return len(data.train) + len(data.val), len(open_test(config)), data.classes


@pytest.mark.parametrize(("name", "role"), [
    ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("seg_train", "train"), ("train_images", "train"),
    ("TrainingSet", "train"), ("training_set", "train"), ("trn", "train"), ("train2017", "train"), ("testset", "test"),
    ("pets-test", "test"), ("Pets_TestSet", "test"), ("eval", "test"), ("holdout", "test"), ("dev", "val"),
    ("imagenet1k-validation-00", "val"), ("birds.valid.0000", "val"), ("unlabelled", "unlabeled"),
    ("train_unlabeled", "unlabeled"), ("testudo", ""), ("trainers", ""), ("latest", ""), ("contest-1", ""),
    ("validator", ""), ("devkit", ""), ("train_test", ""),
])  # fmt: skip
def test_a_name_tells_its_split_by_a_word_of_its_own(name: str, role: str) -> None:
    assert splits.role_of(name) == role


@pytest.mark.parametrize(("train", "test"), [
    ("Training", "Testing"), ("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"),
    ("train", "holdout"), ("deep/down/Train", "deep/down/testset"),
])  # fmt: skip
def test_split_folders(tmp_path: Path, train: str, test: str) -> None:
    classes(tmp_path / train)
    classes(tmp_path / test, count=3, first=100)
    assert sizes(f"folder:{tmp_path}") == (20, 6, ("ant", "bee"))


def test_what_is_no_split_is_a_class(tmp_path: Path) -> None:
    classes(tmp_path / "vehicles", ("bus", "car", "train"))
    assert sizes(f"folder:{tmp_path / 'vehicles'}") == (24, 6, ("bus", "car", "train"))
    classes(tmp_path / "wrapped" / "photos")
    assert sizes(f"folder:{tmp_path / 'wrapped'}") == (16, 4, ("ant", "bee"))
    assert any("Looked through the folder photos" in n for n in notes(DataConfig(f"folder:{tmp_path / 'wrapped'}", 8)))


def test_two_readings_are_refused_and_the_user_decides(tmp_path: Path) -> None:
    for k, name in enumerate(("TRAIN", "TEST", "TEST_SIMPLE")):
        classes(tmp_path / name, count=10 - 3 * k, first=100 * k)
    with pytest.raises(UserError, match=r"'TEST' and 'TEST_SIMPLE' both read as test: #train=NAME"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))
    name = f"folder:{tmp_path}#train=TRAIN#test=TEST_SIMPLE"
    assert sizes(name) == (20, 8, ("ant", "bee"))
    assert any("Not used, by your choice of splits: TEST (1" in note for note in notes(DataConfig(name, 8)))
    for wrong, sentence in (
        ("#train=TRIAN", "no file or folder of that name. Did you mean 'TRAIN'"),
        ("#trian=TRAIN", "Did you mean 'train'"),
        ("#test=TEST", "#test=NAME needs #train=NAME"),
        ("#train=TRAIN#test=TRAIN", "named by #train= and by #test="),
        ("#image=jpg", "no effect"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_data(DataConfig(f"folder:{tmp_path}{wrong}", 8))


def test_splits_inside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        classes(tmp_path / name, ("train", "test"))
    with pytest.raises(UserError, match="splits lie inside the class folders"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))


def test_a_test_folder_without_classes_gives_way_to_val(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "val", count=3, first=100)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes(image(7))
    assert sizes(f"folder:{tmp_path}") == (20, 6, ("ant", "bee"))


def rows(path: Path, labels: list[object], first: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [image(first + i) for i in range(len(labels))], "label": labels}), path)
    return f"parquet:{path.parent}"


def test_files_of_splits(tmp_path: Path) -> None:
    rows(tmp_path / "a" / "pets-train.parquet", [0, 1] * 10)
    assert sizes(rows(tmp_path / "a" / "pets-test.parquet", [0.0, 1.0] * 3, 100)) == (20, 6, ("00000", "00001"))
    rows(tmp_path / "a" / "training.parquet", [0, 1], 200)
    with pytest.raises(UserError, match="Files called train and training are both read as train"):
        open_data(DataConfig(f"parquet:{tmp_path / 'a'}", 8))
    assert sizes(f"parquet:{tmp_path / 'a'}#train=pets-train#test=pets-test")[:2] == (20, 6)


@pytest.mark.parametrize("value", [
    None, float("nan"), -1, -1.0, 0.5, "", "  ", "nan", "NULL", "missing", "unlabeled", "-1", [0, 1], {"a": 1},
])  # fmt: skip
def test_what_is_no_class(value: object) -> None:
    with pytest.raises(Unreadable, match="label"):
        class_name(value)


def test_what_is_a_class() -> None:
    assert class_name(3) == class_name(3.0) == "00003" and class_name(1, ["a", "b "]) == "b"
    assert class_name(" ant ") == class_name(b"ant") == "ant"
    assert class_name(unicodedata.normalize("NFD", "café")) == unicodedata.normalize("NFC", "café")


def test_labels_of_a_table(tmp_path: Path) -> None:
    holes = rows(tmp_path / "a" / "x.parquet", [None if i % 10 == 0 else float(i % 2) for i in range(40)])
    with pytest.raises(UserError, match=r"4 of 40 images .*row 0: label None is none"):
        open_data(DataConfig(holes, 8))
    with pytest.raises(UserError, match=r"holds list<.*one class per image is needed"):
        open_data(DataConfig(rows(tmp_path / "b" / "x.parquet", [[0], [0, 1]]), 8))
    assert sizes(rows(tmp_path / "c" / "x.parquet", ["ant", "ant ", "bee", " bee"] * 5))[2] == ("ant", "bee")


def test_classes_that_only_the_test_split_has(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", ("ant", "bee", "other"), 3, 100)
    assert sizes(f"folder:{tmp_path}")[2] == ("ant", "bee", "other")
    assert any("3 of 9 test images are of classes without" in n for n in notes(DataConfig(f"folder:{tmp_path}", 8)))
    (tmp_path / "test" / "ant").rename(tmp_path / "test" / "01_ant")
    with pytest.raises(UserError, match=r"6 of 9 test images are of classes without .*'01_ant', 'other'"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))


def test_two_spellings_of_one_letter_are_one_class(tmp_path: Path) -> None:
    for split, form, count in (("train", "NFC", 10), ("test", "NFD", 3)):
        classes(tmp_path / split, ("ant", unicodedata.normalize(form, "café")), count, 10 * count)
    assert sizes(f"folder:{tmp_path}") == (20, 6, ("ant", unicodedata.normalize("NFC", "café")))


def test_links_that_lead_nowhere_and_back(tmp_path: Path) -> None:
    classes(tmp_path / "loop")
    os.symlink("..", tmp_path / "loop" / "ant" / "up")
    assert sizes(f"folder:{tmp_path / 'loop'}") == (16, 4, ("ant", "bee"))
    os.symlink("/not/mounted/0.png", tmp_path / "loop" / "ant" / "gone.png")
    os.symlink("self.png", tmp_path / "loop" / "ant" / "self.png")
    with pytest.raises(UserError, match=r"2 of 22 images .*gone.png: .*self.png"):
        open_data(DataConfig(f"folder:{tmp_path / 'loop'}", 8))
    os.symlink("/not/mounted/cat", tmp_path / "loop" / "cat")
    with pytest.raises(UserError, match="cat is a link that leads nowhere"):
        open_data(DataConfig(f"folder:{tmp_path / 'loop'}", 8))


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path)
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(source.os, "scandir", closed)
    with pytest.raises(UserError, match=r"bee may not be read \(Permission denied\)"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))


def test_the_check_shows_what_was_understood_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes(tmp_path / "set" / "Training")
    classes(tmp_path / "set" / "Testing", count=3, first=100)
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 9, 9)).save(tmp_path / "set" / "Training" / "ant" / f"plain{i}.png")
    name = f"folder:{tmp_path / 'set'}"
    open_data(DataConfig(name, 8, 0.2))
    assert "ant 12+3, bee 10+3" in capsys.readouterr().out
    open_data(DataConfig(name, 8, 0.2))
    assert not capsys.readouterr().out, "said once"
    line = ["data", "check", name, "--image-size", "8", "--sheet", str(tmp_path / "sheet.png")]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 0, done.output
    for part in ("train: Training; test: Testing", "ant 12+3, bee 10+3", "2 of 28 images are of one single colour"):
        assert part in done.output
    assert Image.open(tmp_path / "sheet.png").size == (8 * 10 + 120, 2 * 14)


def test_the_check_prints_sizes_and_modes_of_the_files(tmp_path: Path) -> None:
    classes(tmp_path)
    line = ["data", "check", f"folder:{tmp_path}", "--image-size", "8"]
    assert "files: 8 x 8 (width x height); 20 RGB" in CliRunner().invoke(cli, line).output
    for i, size in enumerate([(8, 30), (50, 20)]):
        grey = np.random.default_rng(i).integers(0, 255, size[::-1], dtype=np.uint8)
        Image.fromarray(grey).save(tmp_path / "ant" / f"grey{i}.png")
    done = CliRunner().invoke(cli, line)
    assert "files: 3 sizes, 8 x 8 to 50 x 20, median 8 x 8 (width x height); 2 L, 20 RGB" in done.output


def test_an_image_beside_the_one_folder_that_wraps_the_classes(tmp_path: Path) -> None:
    classes(tmp_path / "photos")
    (tmp_path / "cover.png").write_bytes(image(7))
    assert sizes(f"folder:{tmp_path}") == (16, 4, ("ant", "bee"))
    assert any("1 images outside the class folders are not" in n for n in notes(DataConfig(f"folder:{tmp_path}", 8)))


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    classes(tmp_path, ("ant", " "))
    with pytest.raises(UserError, match=r"10 images of .* are of a class whose name is blank"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))


@pytest.mark.parametrize("below", ["", "train"])
def test_a_folder_of_unlabelled_images_is_no_class(tmp_path: Path, below: str) -> None:
    classes(tmp_path / below, ("ant", "bee", "Unlabeled"))
    with pytest.raises(UserError, match=r"'Unlabeled' lies among the class folders .* #splits=none"):
        open_data(DataConfig(f"folder:{tmp_path}", 8))
    assert sizes(f"folder:{tmp_path / below}#splits=none")[2] == ("Unlabeled", "ant", "bee")


def test_without_labels_the_images_of_a_test_split_are_read_and_not_others(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 10), ("test", 100, 20)):
        (tmp_path / split).mkdir()
        for i in range(count):
            (tmp_path / split / f"{i}.png").write_bytes(image(first + i))
    data = open_data(DataConfig(f"folder:{tmp_path}", 8, 0.2))
    read = {pixels.numpy().tobytes() for part in (data.train, data.val) for pixels in part.batch(slice(None))}
    assert len(read) == 30 and not data.labelled and any("Without labels 20 images" in note for note in data.notes)
