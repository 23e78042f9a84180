"""Splits in text files, as UCF101 and HMDB51 come: read as the same set in folders, each fault one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data.dataset import Dataset, open_data
from ssl_bench.errors import UserError

CLASSES = ("Archery", "Biking")
TRAIN, TEST = range(1, 6), range(6, 8)  # numbers of the films of each class


def film(folder: Path, seed: int) -> None:
    """Four frames as a folder of pictures: needs no decoder."""
    folder.mkdir(parents=True)
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 255, (4, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"frame{i}.png")


def name(of: str, number: int) -> str:
    return f"v_{of}_g{number:02d}_c01"


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    """UCF-101/class/film beside ucfTrainTestlist/, as its two archives unpack; films as folders of frames."""
    for c, of in enumerate(CLASSES):
        for number in (*TRAIN, *TEST):
            film(tmp_path / "ucf" / "UCF-101" / of / name(of, number), 100 * c + number)
    lists = tmp_path / "ucf" / "ucfTrainTestlist"
    lists.mkdir()
    listed = [f"{of}/{name(of, n)}.avi {c}" for c, of in enumerate(CLASSES, 1) for n in TRAIN]
    (lists / "trainlist01.txt").write_text("\r\n".join(listed) + "\r\n")
    (lists / "testlist01.txt").write_text("\n".join(f"{of}/{name(of, n)}.avi" for of in CLASSES for n in TEST))
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    return tmp_path / "ucf"


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    """Class folders beside one list for each class; one film has mark 0."""
    place = tmp_path / "hmdb"
    for c, of in enumerate(CLASSES):
        for number in (*TRAIN, *TEST, 8):
            film(place / of / name(of, number), 100 * c + number)
        marks = [*((n, 1) for n in TRAIN), *((n, 2) for n in TEST), (8, 0)]
        (place / "splits").mkdir(exist_ok=True)
        for split in (1, 2):
            text = "".join(f"{name(of, n)}.avi {m} \n" for n, m in marks)
            (place / "splits" / f"{of}_test_split{split}.txt").write_text(text)
    return place


def opened(name: str) -> Dataset:
    return open_data(DataConfig(name, image_size=16, frames=4, val_fraction=0.2), RunConfig(workers=1))


def by_lists(place: Path, more: str = "") -> Dataset:
    return opened(f"folder:{place}#kind=clip#train=trainlist01.txt#test=testlist01.txt{more}")


def told(data: Dataset) -> str:
    return " ".join(data.notes)


def test_lists_make_the_set_that_folders_make(ucf: Path, hmdb: Path, tmp_path: Path) -> None:
    for c, of in enumerate(CLASSES):
        for part, numbers in (("train", TRAIN), ("test", TEST)):
            for number in numbers:
                film(tmp_path / "plain" / part / of / name(of, number), 100 * c + number)
    plain, listed = opened(f"folder:{tmp_path / 'plain'}#kind=clip"), by_lists(ucf)
    marked = opened(f"folder:{hmdb}#kind=clip#lists=*_test_split1.txt")
    assert listed.fingerprint == plain.fingerprint == marked.fingerprint
    assert listed.classes == CLASSES == marked.classes
    assert len(listed.train) + len(listed.val) == 10
    assert "mark is 0: 2 films" in told(marked) and "no list" not in told(marked)


def test_groups_of_one_film_stay_together(ucf: Path) -> None:
    found = by_lists(ucf, r"#group=.+_g\d+")
    assert len(found.train) + len(found.val) == 10
    with pytest.raises(UserError, match="matches nothing"):
        by_lists(ucf, "#group=x")


def test_what_no_list_names_is_not_used_and_said(ucf: Path) -> None:
    film(ucf / "UCF-101" / "Biking" / "v_extra", 9)
    said = told(by_lists(ucf))
    assert re.search(r"no list names it: \S+v_extra \(1 in all\)", said) and ".txt" not in said


def test_a_listed_film_that_is_not_there_counts_as_unreadable(ucf: Path) -> None:
    path = ucf / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text() + "Biking/v_gone.avi 2\n")
    with pytest.raises(UserError, match=r"1 of 15 .*'Biking/v_gone.avi' \(trainlist01.txt, line 11\).*not there"):
        by_lists(ucf)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Archery/v_Archery_g01_c01.avi 1", r"trainlist01.txt, line 11: '.*' was listed before \(.*line 1\)"),
        ("Archery/v_Archery_g01_c01 1", r"line 11: .*v_Archery_g01_c01 was listed before \(trainlist01.txt, line 1\)"),
        ("Biking/v_Biking_g06_c01.avi 2", r"v_Biking_g06_c01.*' was listed before \(trainlist01.txt, line 11\)"),
        ("Biking/v_x.avi 1", "line 11 gives class 1 to 'Biking', against .*, line 1: class 1 is 'Archery' there"),
        ("Swing/v_x.avi 1", "line 11 gives class 1 to 'Swing', against .*, line 1: class 1 is 'Archery' there"),
        ("Biking/v_x.avi 7", "line 11 gives class 7 to 'Biking', against .*, line 6: class 2 is 'Biking' there"),
        ("../other/v_x.avi 2", "line 11: '../other/v_x.avi' leads out of the set"),
    ],
)
def test_faults_of_lists(ucf: Path, line: str, said: str) -> None:
    path = ucf / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=said):
        by_lists(ucf)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("#train=trainlist1.txt#test=testlist01.txt", "no such text file.*Did you mean 'trainlist01.txt'"),
        ("#train=trainlist01.txt#test=Biking", "lists .* or folders, not both: 'Biking' is no list"),
        ("#lists=*_test_split1.txt", "#lists=.*no such text file"),
        ("#train=trainlist01.txt#lists=classInd.txt", "leave #train= and #test= out"),
        ("#lists=testlist01.txt", "testlist01.txt, line 1: .* needs a 0, 1 or 2 behind the film"),
        ("#train=trainlist01.txt#test=empty.txt", "empty.txt lists nothing"),
        ("#train=trainlist01.txt#test=noise.txt", "noise.txt is no UTF-8 text"),
    ],
)
def test_faults_of_names(ucf: Path, setting: str, said: str) -> None:
    (ucf / "empty.txt").write_text("\n \n")
    (ucf / "noise.txt").write_bytes(b"\xff\xfe\x00film")
    with pytest.raises(UserError, match=said):
        opened(f"folder:{ucf}#kind=clip{setting}")


def test_one_name_in_two_classes_needs_its_class(hmdb: Path) -> None:
    for of in CLASSES:
        film(hmdb / of / "same", len(of))
    (hmdb / "splits" / "all.txt").write_text("same.avi 1\n")
    with pytest.raises(UserError, match=r"all.txt, line 1: 'same.avi' is .* or .*: say the class"):
        opened(f"folder:{hmdb}#kind=clip#lists=all.txt")


def test_lists_of_images_and_other_sources(tmp_path: Path) -> None:
    """Food-101 lists images without suffix; a parquet file has no lists."""
    for of in CLASSES:
        (tmp_path / of).mkdir()
        for i in range(6):
            pixels = np.random.default_rng([len(of), i]).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / of / f"{i}.png")
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        (tmp_path / f"{part}.txt").write_text("\n".join(f"{of}/{i}" for of in CLASSES for i in numbers))
    data = DataConfig(f"folder:{tmp_path}#train=train.txt#test=test.txt", image_size=16, val_fraction=0.25)
    found = open_data(data, RunConfig(workers=1))
    assert (len(found.train) + len(found.val), found.classes) == (8, CLASSES)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="#lists= has no effect on this kind of data"):
        opened(f"parquet:{tmp_path}/x.parquet#lists=a.txt")
