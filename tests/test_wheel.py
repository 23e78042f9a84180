"""The wheel: one top-level package, everything inside it, and it works outside a clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out, cwd=ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; torch and the rest come from this one through a .pth line."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=True)
    call(home / "bin/python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=home)
    site = Path(
        call(home / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    )
    # A .pth line adds a directory but does not read the .pth files in it: our editable install stays out.
    (site / "borrowed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return home / "bin"


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_only_one_top_level_name(wheel):
    assert {name.split("/")[0] for name in contents(wheel)} == {"ssl_bench"}


def test_carries_the_other_folders(wheel):
    names = contents(wheel)
    for folder in ("methods", "protocols", "results", "slurm"):
        files = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py")}
        assert {f"ssl_bench/_bundled/{name}" for name in files} <= names
    assert not [n for n in names if "__pycache__" in n or n.count("_bundled") > 1]


def test_carries_types_and_embedded_data(wheel):
    sets, files = ("clothing48", "fsdd30", "ldraw16"), ("train.parquet", "test.parquet", "README.md")
    data = {f"ssl_bench/data/embedded/{name}/{file}" for name in sets for file in files}
    assert data | {"ssl_bench/py.typed"} <= contents(wheel)


def test_names_are_found_outside_a_clone(installed, tmp_path):
    from ssl_bench import find

    code = "from ssl_bench import find; print(find.HOME, *find.names('methods'), *find.names('protocols'))"
    home, *names = call(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(home).parts[-3:] == ("site-packages", "ssl_bench", "_bundled")
    assert names == find.names("methods") + find.names("protocols")


@pytest.mark.skipif(
    not (ROOT / "ssl_bench" / "cli" / "main.py").exists(), reason="ssl_bench/cli/main.py is not written yet"
)
def test_command_line_works_outside_a_clone(installed, tmp_path):
    from ssl_bench import find

    out = call(installed / "ssl-bench", "list", "methods", cwd=tmp_path)
    assert set(find.names("methods")) <= set(out.split())
    assert not list(tmp_path.iterdir()), "listing must write nothing"
