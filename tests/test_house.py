"""The shape of the house: who may import whom, who sees test labels, how long a file is, what the README lists."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from write_tree import catalogues, measured, tree

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssl_bench", "methods", "protocols", "results", "slurm")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if "_bundled" not in p.parts)


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def imported(path: Path) -> set[str]:
    """Top-level packages a file imports, by statement or by `import_module` and `__import__` of a literal name."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)}
    return {name.split(".")[0] for name in found}


def words(path: Path) -> set[str]:
    """Every identifier of a file, and every string: `getattr(data, "open_test")` is a use too."""
    found = set()
    for node in nodes(path):
        for field in ("id", "attr", "name", "arg", "value", "asname"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                found.add(word)
    return found


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "ssl_bench"], ids=title)
def test_harness_imports_no_method_protocol_or_launcher(path):
    assert not imported(path) & {"methods", "protocols", "slurm"}


def test_only_evaluate_opens_the_test_split():
    users = {title(path) for path in FILES if "open_test" in words(path)}
    assert users <= {"ssl_bench/data.py", "ssl_bench/evaluate.py"}


@pytest.mark.parametrize(("source", "seen"), [
    ("import methods.mae as m", "methods"),
    ("def f():\n    from slurm import launch", "slurm"),
    ("importlib.import_module('protocols.knn')", "protocols"),
])  # fmt: skip
def test_the_import_check_sees(tmp_path, source, seen):
    (tmp_path / "file.py").write_text(source)
    assert seen in imported(tmp_path / "file.py")


@pytest.mark.parametrize("source", [
    "data.open_test()", "from d import open_test", "from d import a as open_test", "getattr(data, 'open_test')",
    "def open_test(): ...", "f = open_test",
])  # fmt: skip
def test_the_seal_check_sees(tmp_path, source):
    (tmp_path / "file.py").write_text(source)
    assert "open_test" in words(tmp_path / "file.py")


@pytest.mark.parametrize(("folder", "most"), [("ssl_bench", 300), ("methods", 200), ("protocols", 200)])
def test_files_are_short(folder, most):
    lengths = {
        title(p): len(p.read_text(encoding="utf-8").splitlines())
        for p in FILES
        if p.relative_to(ROOT).parts[0] == folder
    }
    assert not {name: length for name, length in lengths.items() if length > most}


def test_readme_lists_every_file_with_its_phrase():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tree(readme) == readme, "run: python tests/write_tree.py"
    assert all(f"  {p.name} " in readme for p in FILES if p.name != "__init__.py")


def test_the_table_of_the_readme_is_fresh():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert measured(readme) == readme, "run: python tests/write_tree.py"
    assert readme.count("| ijepa |") == readme.count("| *pixels* |") == 1


def test_the_readmes_of_methods_and_protocols_are_fresh():
    stale = [title(path) for path, text in catalogues().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run: python tests/write_tree.py"
