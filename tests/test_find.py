"""A name is a module: what is found, what is said when nothing is, and which copy of a folder wins."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ssl_bench import find
from ssl_bench.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """An importable directory that is the current one; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_lab"):
            del sys.modules[name]
    importlib.invalidate_caches()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"__init__": "", **files}.items():
        (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def python(*args: str, cwd: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("folder", ["methods", "protocols"])
def test_names_are_the_public_files(folder):
    files = [p.stem for p in (ROOT / folder).glob("*.py")]
    assert find.names(folder) == sorted(name for name in files if not name.startswith("_"))


def test_names_imports_nothing_and_find_needs_no_torch():
    code = (
        "import sys; from ssl_bench import find; find.names('methods'); print({'methods', 'torch'} & set(sys.modules))"
    )
    assert python("-c", code, cwd=ROOT) == "set()"


@pytest.fixture
def three(tmp_path, monkeypatch):
    """`find` with a methods/ folder of its own."""
    write(tmp_path / "some_methods", ijepa="", mae="", broken="import no_such_package", _private="")
    (tmp_path / "some_methods" / "wrong.py").write_text("from json import no_such_name")
    monkeypatch.setattr(find, "HOME", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] == "some_methods"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_plain_name(three):
    assert find.names("some_methods") == ["broken", "ijepa", "mae", "wrong"]
    assert find.module("some_methods", "mae").__name__ == "some_methods.mae"


@pytest.mark.parametrize("name", ["ijpea", "I-JEPA", "IJEPA"])
def test_unknown_name_gets_the_nearest(three, name):
    with pytest.raises(UserError, match=rf"'{name}'.*Did you mean 'ijepa'.*ssl-bench list some_methods"):
        find.module("some_methods", name)


@pytest.mark.parametrize("name", ["", "_private", "__init__", "mae/", "completely different"])
def test_a_name_that_is_no_public_module(three, name):
    with pytest.raises(UserError, match="Unknown some_method"):
        find.module("some_methods", name)


@pytest.mark.parametrize(("name", "why"), [("broken", "no_such_package"), ("wrong", "no_such_name")])
def test_import_error_inside_a_module_is_told(three, name, why):
    with pytest.raises(UserError, match=rf"{why}.*{name}\.py, line 1") as caught:
        find.module("some_methods", name)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_foreign_package_of_our_name_is_refused(three, lab):
    write(three / "elsewhere" / "some_methods", other="")
    sys.path.insert(0, str(three / "elsewhere"))
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"needs its own package 'some_methods'.*elsewhere"):
        find.names("some_methods")


def test_dotted_name_comes_from_the_current_directory(lab):
    write(lab / "my_lab", idea="x = 1")
    assert find.module("methods", "my_lab.idea").x == 1
    assert sys.path[-1] == str(lab)


def test_current_directory_shadows_nothing(lab):
    write(lab / "json", decoder="raise AssertionError")
    assert not find.module("methods", "json.decoder").__file__.startswith(str(lab))


@pytest.mark.parametrize(("name", "missing"), [("my_lab.idea", "my_lab.idea"), ("no_lab.idea", "no_lab")])
def test_dotted_name_that_does_not_exist(lab, name, missing):
    write(lab / "my_lab")
    with pytest.raises(UserError, match=f"no module '{name}': '{missing}' is neither"):
        find.module("methods", name)


def test_dotted_name_that_fails_inside(lab):
    write(lab / "my_lab", idea="import my_lab.tools", tools="\nimport torhc")
    with pytest.raises(UserError, match=r"'my_lab.idea' cannot be imported.*'torhc'.*tools\.py, line 2"):
        find.module("methods", "my_lab.idea")


class Base:
    """What the modules below derive from."""


def made(source: str) -> types.ModuleType:
    module = types.ModuleType("made")
    module.__file__ = "made.py"
    vars(module).update(Base=Base, Config=dict)
    exec(compile(source, "made.py", "exec", dont_inherit=True), vars(module))
    return module


def test_defined_ignores_imports_and_private_bases():
    module = made("class _Shared(Base): pass\nclass Idea(_Shared): pass\nAlias = Idea\nclass Other: pass")
    assert find.defined(module, Base) is module.Idea


@pytest.mark.parametrize(("source", "said"), [("", "none"), ("class A(Base): pass\nclass B(Base): pass", "A, B")])
def test_defined_wants_exactly_one(source, said):
    with pytest.raises(UserError, match=f"made.py must define exactly one subclass of Base; it defines {said}"):
        find.defined(made(source), Base)


@pytest.mark.parametrize("future", ["from __future__ import annotations\n", ""])
def test_recipes_in_source_order(future):
    source = "def {}() -> {}: ..."
    pairs = [("small", "Config"), ("loss", "float"), ("_base", "Config"), ("paper", "Config"), ("bare", "None")]
    module = made(future + "\n".join(source.format(*pair) for pair in pairs))
    module.borrowed = types.FunctionType(module.small.__code__, {"__name__": "elsewhere"}, "borrowed")
    assert list(find.recipes(module)) == ["small", "paper"]


@pytest.mark.parametrize(("clone", "expected"), [(True, "fresh"), (False, "bundled")])
def test_clone_wins_over_a_stale_bundle(tmp_path, clone, expected):
    """`_bundled` serves a wheel; beside a clone's package it is a leftover, and the clone's folders win."""
    package = tmp_path / "site" / "ssl_bench"
    write(package)
    write(package / "_bundled" / "methods", bundled="")
    for file in ("find.py", "errors.py"):
        shutil.copy(ROOT / "ssl_bench" / file, package)
    if clone:
        write(package.parent / "methods", fresh="")
        (package.parent / "pyproject.toml").touch()
    (tmp_path / "empty").mkdir()
    code = "from ssl_bench import find; print(find.names('methods'), find.module('methods', {!r}).__file__)"
    # -S: no .pth lines, so that the clone under test is not on the path as well
    out = python("-S", "-c", code.format(expected), cwd=tmp_path / "empty", PYTHONPATH=str(package.parent))
    assert out.startswith(f"['{expected}']")
    assert ("_bundled" in out) is not clone


@pytest.mark.parametrize("method", find.names("methods"))
def test_a_recipe_is_called_what_it_was_asked_for(method: str) -> None:
    """Tables name a row's recipe, and what leaves the paper, by what its config says."""
    for name in find.recipes(find.module("methods", method)):
        assert find.recipe(method, name)().recipe == name
        assert find.departs(method, name) or name == "paper", f"{name} is not in DEPARTS"


@pytest.mark.parametrize("written", ['DEPARTS = {"quick": "all"}', 'DEPARTS: dict[str, str] = {"quick": "all"}'])
def test_what_leaves_the_paper_is_read_with_and_without_an_annotation(written: str, lab: Path) -> None:
    write(lab / "my_lab", idea=f"{written}\n")
    assert find.departs("my_lab.idea", "quick") == "all"


@pytest.mark.parametrize("written", ["dict(quick=1)", '{"quick": 1}', '["quick"]', "{[]: 1}", '{"quick": f"{x}"}'])
def test_what_leaves_the_paper_must_be_written_out(written: str, lab: Path) -> None:
    write(lab / "my_lab", idea=f"import math\n\nDEPARTS = {written}\n")
    with pytest.raises(UserError, match=r"DEPARTS in .*idea\.py, line 3, must be written out as names and texts"):
        find.departs("my_lab.idea", "quick")


def test_a_hint_lists_no_thousands_of_names() -> None:
    assert nearest("x", ["one", "two"]) == "Valid: one, two."
    many = nearest("x", [f"name{i:04d}" for i in range(1300)])
    assert many.startswith("Valid: name0000, ") and many.endswith("name0099, and 1,200 more.")
