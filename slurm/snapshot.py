"""The code as it is when a job is submitted: a job never runs what was edited afterwards.

A copy is named by its content, written once and shared by all submissions of the same code. Of a clone it holds the
files that git tracks and those that git does not ignore (a method just dropped into methods/ comes along), in their
present state; of an installed wheel the package. Modules of the user's own (`my_lab.idea`) are copied too, unless
they are installed in the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import ssl_bench
from ssl_bench import find
from ssl_bench.errors import UserError
from ssl_bench.training import provenance

FOLDERS = ("ssl_bench", "methods", "protocols", "results", "slurm")
CODE_STATE = provenance.CODE_STATE  # commit and dirty flag travel with the copy, which is no git repository


def take(folder: Path, modules: Iterable[str] = ()) -> Path:
    """A folder below `folder` with the present code and the packages of `modules` (dotted names)."""
    package = Path(ssl_bench.__file__).resolve().parent
    home = package.parent
    files = _clone_files(home) if package.parent == find.HOME else _python_tree(package, home, everything=True)
    found = {path.relative_to(home).as_posix(): path for path in files}
    for module in modules:
        find.module("methods", module)  # told now where it is missing, and on the path for what follows
    for name in sorted({module.partition(".")[0] for module in modules}):
        found |= _own(name)
    state = json.dumps(provenance.code_state(), sort_keys=True).encode()
    content = {name: path.read_bytes() for name, path in sorted(found.items())} | {CODE_STATE: state}
    digest = hashlib.sha256()
    for name, data in content.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    copy = folder / digest.hexdigest()[:16]
    if not copy.exists():
        _write(copy, content)
    return copy


def search_path(copy: Path) -> str:
    """PYTHONPATH of a job: the copy before everything installed."""
    bundled = copy / "ssl_bench" / "_bundled"
    return os.pathsep.join(map(str, [copy, *([bundled] if bundled.is_dir() else [])]))


def _write(copy: Path, content: dict[str, bytes]) -> None:
    """Aside and renamed; where two submit at once, either copy is the right one."""
    aside = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for name, data in content.items():
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if not copy.exists():
            aside.rename(copy)
    except OSError as error:
        if not copy.exists():
            raise UserError(f"Cannot copy the code to {copy} ({error.strerror}). Choose another --root.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _clone_files(home: Path) -> list[Path]:
    """Files of the five folders that git tracks or does not ignore; every Python file where there is no git."""
    command = ["git", "-C", str(home), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FOLDERS]
    try:
        done = subprocess.run([*command, "pyproject.toml"], capture_output=True, check=False)
    except OSError:
        done = None
    if done is None or done.returncode or not done.stdout:
        found = [p for name in FOLDERS for p in _python_tree(home / name, home, everything=True)]
        return [*found, home / "pyproject.toml"]
    paths = [home / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]  # a tracked file may have been deleted


def _own(name: str) -> dict[str, Path]:
    """The Python files of a user's package; {} where it is installed, and so no file that one edits."""
    spec = find_spec(name)
    assert spec is not None, name
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")]
    places = [Path(place).resolve() for place in spec.submodule_search_locations or []]
    files = [p for place in places for p in _python_tree(place, place.parent)]
    if not places and spec.origin:
        files = [Path(spec.origin).resolve()]
    roots = {place: place.parent for place in places}
    out = {}
    for path in files:
        if any(path.is_relative_to(place) for place in installed):
            continue
        root = next((parent for place, parent in roots.items() if path.is_relative_to(place)), path.parent)
        out[path.relative_to(root).as_posix()] = path
    return out


def _python_tree(folder: Path, home: Path, everything: bool = False) -> list[Path]:
    files = sorted(p for p in folder.rglob("*" if everything else "*.py") if p.is_file())
    return [p for p in files if "__pycache__" not in p.parts and not p.relative_to(home).as_posix().startswith(".")]
