"""Output on a terminal that is not UTF-8, names in an ASCII locale, and a user without a home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_records import quickstart
from PIL import Image

from results import records
from ssl_bench.data.places import cache_folder
from ssl_bench.errors import UserError, spelled
from ssl_bench.screen import sparkline

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ssl_bench", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | {"COLUMNS": "150"} | env)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    for record in quickstart():
        records.write(record, folder / "records")
    return folder


@pytest.mark.parametrize(
    ("encoding", "sign", "flag", "none"),
    [("ascii", "+-", "!", "-"), ("latin-1", "±", "!", "-"), ("cp1252", "±", "!", "–"), ("utf-8", "±", "⚠", "–")],
)
def test_the_table_has_other_characters_where_an_encoding_lacks_them(
    encoding: str, sign: str, flag: str, none: str, root: Path
) -> None:
    done = run("report", "--root", str(root), PYTHONIOENCODING=encoding)
    text = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr.decode()
    rows = [line for line in text.splitlines() if line[:1] in "|│" and line.count(line[0]) > 2]
    assert len({len(row) for row in rows}) == 1  # columns stay in line
    ijepa, pixels = (next(row for row in rows if row[1:].startswith(name)) for name in ("ijepa", "pixels"))
    assert f" {sign} " in ijepa and f" {flag}" in ijepa and f" {none}" in pixels and "?" not in text


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("show ijepa", 0), ("list methods", 0), ("show größe", 2)])
def test_no_command_fails_for_an_encoding(words: str, code: int) -> None:
    done = run(*words.split(), PYTHONIOENCODING="ascii")
    assert done.returncode == code and b"Traceback" not in done.stderr


def test_names_are_the_same_in_an_ascii_locale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i, name in enumerate(("guêpe", "papillon – bleu")):
        for split in ("train", "test"):
            folder = tmp_path / "été" / split / name
            folder.mkdir(parents=True)
            for j in range(9):
                image = rng.integers(100 * i, 100 * i + 80, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(image).save(folder / f"{split}{j}.png")
    arguments = ["eval", "pixels", "--protocol", "knn", "--data", f"folder:{tmp_path}/été", "--image-size", "8"]
    found = []
    for name, env in (("ascii", ASCII_LOCALE), ("utf-8", {})):
        done = run(*arguments, "--root", str(tmp_path / name), SSL_BENCH_CACHE=str(tmp_path / f"cache-{name}"), **env)
        assert done.returncode == 0, done.stderr.decode()
        found += [r.data for r in records.read(tmp_path / name / "records")]
    assert found[0] == found[1] and found[0]["name"] == f"folder:{tmp_path}/été"
    assert "été".encode() not in run("data", "check", f"folder:{tmp_path}/été", **ASCII_LOCALE).stdout


def test_what_is_spelled_can_be_encoded_and_the_rest_stays() -> None:
    assert spelled("41.2 ± 2.5 – ⚠ × naïve 蜂 \udce9", "ascii") == "41.2 +- 2.5 - ! x na?ve ? ?"
    assert spelled("± naïve –", "latin-1") == "± naïve -"
    assert spelled("± naïve 蜂 ⚠", "utf-8") == "± naïve 蜂 ⚠"
    assert spelled(sparkline(range(8), 8), "ascii") == "_.,-=+*#"


def test_without_a_home_folder_the_setting_that_helps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("SSL_BENCH_CACHE", "here")
    assert cache_folder() == Path("here")
    monkeypatch.delenv("SSL_BENCH_CACHE")
    with pytest.raises(UserError, match="set SSL_BENCH_CACHE to a folder"):
        cache_folder()
