"""The shape of the house: which wing may import which, no circle, who sees test labels, how long a file is, README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from syntax import imported, words
from write_tree import catalogues, measured, tree

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssl_bench", "methods", "protocols", "results", "slurm")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if "_bundled" not in p.parts)
# From the lowest to the highest: a wing imports from those before it.
WINGS = (
    "config", "parallel", "data", "models", "views", "training", "encoders", "evaluation", "experiments", "cli",
)  # fmt: skip
GROUND = ("errors", "files", "find", "rng", "screen")  # every wing uses them; they use one another alone


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path, root: Path) -> str:
    """ssl_bench/data/store.py -> ssl_bench.data.store; a package is named by its folder."""
    name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere in its file, type checking and functions included."""
    paths = {
        module(p, root): p for folder in FOLDERS for p in (root / folder).rglob("*.py") if "_bundled" not in p.parts
    }
    known = frozenset(paths)
    return {name: (imported(path, known) & known) - {name} for name, path in paths.items()}


def height(name: str) -> int:
    """0 for the ground, then the wings from the lowest up; what stands outside is above them all."""
    parts = name.split(".")
    if parts[0] != "ssl_bench" or name in ("ssl_bench.__main__", "ssl_bench"):
        return len(WINGS) + 1 if name != "ssl_bench" else 0
    return 0 if parts[1] in GROUND else 1 + WINGS.index(parts[1])


def upward(uses: Mapping[str, set[str]]) -> list[str]:
    """Imports from a lower wing of a higher one, and of methods/, protocols/ and slurm/ from the core."""
    out = []
    for name, targets in uses.items():
        for target in targets:
            outside = not target.startswith("ssl_bench")
            if name.startswith("ssl_bench.") and not outside and height(target) > height(name):
                out.append(f"{name} -> {target}")
            if name.startswith("ssl_bench") and target.split(".")[0] in ("methods", "protocols", "slurm"):
                out.append(f"{name} -> {target}")
            if (
                name.startswith("ssl_bench.")
                and target.startswith("results")
                and height(name) <= height("ssl_bench.encoders")
            ):
                out.append(f"{name} -> {target}")
            if not name.startswith(("ssl_bench", "slurm")) and target.startswith("ssl_bench.cli"):
                out.append(f"{name} -> {target}")
    return sorted(out)


def circles(uses: Mapping[str, set[str]]) -> list[set[str]]:
    """Strongly connected groups of two files or more (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(uses[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            group = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(group)

    for name in sorted(uses):
        if name not in order:
            visit(name)
    return found


def test_every_wing_imports_from_below_alone():
    assert not upward(graph(ROOT))


def test_no_import_runs_in_a_circle():
    assert not circles(graph(ROOT))


def test_every_module_stands_in_a_wing_and_every_wing_says_what_it_is():
    loose = {p.stem for p in (ROOT / "ssl_bench").glob("*.py")} - {*GROUND, "__init__", "__main__"}
    assert not loose
    for wing in WINGS:
        text = (ROOT / "ssl_bench" / wing / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""') and "\nUses " in text
        missing = [
            p.stem for p in (ROOT / "ssl_bench" / wing).glob("*.py") if p.stem != "__init__" and p.stem not in text
        ]
        assert not missing, f"{wing}/__init__.py does not name {missing}"


@pytest.mark.parametrize(("path", "source", "seen"), [
    ("ssl_bench/config/a.py", "def f():\n    import ssl_bench.cli.main", "ssl_bench.config.a -> ssl_bench.cli.main"),
    ("ssl_bench/data/low.py", "import methods.mae as m", "ssl_bench.data.low -> methods.mae"),
    ("ssl_bench/views/low.py", "importlib.import_module('protocols.knn')", "ssl_bench.views.low -> protocols.knn"),
    ("ssl_bench/errors.py", "from ssl_bench.config import schema", "ssl_bench.errors -> ssl_bench.config.schema"),
    ("ssl_bench/training/low.py", "from results import records", "ssl_bench.training.low -> results.records"),
    ("methods/mae.py", "from ssl_bench.cli import main", "methods.mae -> ssl_bench.cli.main"),
])  # fmt: skip
def test_the_check_of_wings_sees(tmp_path, path, source, seen):
    for name in (
        "ssl_bench/cli/main.py",
        "ssl_bench/config/schema.py",
        "methods/mae.py",
        "protocols/knn.py",
        "results/records.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    assert upward(graph(tmp_path)) == [seen]


@pytest.mark.parametrize("back", [
    "from ssl_bench.data import one", "import ssl_bench.data.one", "def f():\n    from ssl_bench.data.one import x",
    "if TYPE_CHECKING:\n    from ssl_bench.data.one import x",
])  # fmt: skip
def test_the_check_of_circles_sees(tmp_path, back):
    folder = tmp_path / "ssl_bench" / "data"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from ssl_bench.data import two")
    (folder / "two.py").write_text("from ssl_bench.data import three")
    (folder / "three.py").write_text(back)
    assert circles(graph(tmp_path)) == [{f"ssl_bench.data.{n}" for n in ("one", "two", "three")}]


@pytest.mark.parametrize("name", ["open_test", "open_truth"])
def test_only_evaluate_opens_the_test_split(name):
    users = {title(path) for path in FILES if name in words(path)}
    assert users <= {"ssl_bench/data/dataset.py", "ssl_bench/evaluation/evaluate.py"}


@pytest.mark.parametrize("source", [
    "data.open_test()", "from d import open_test", "from d import a as open_test", "getattr(data, 'open_test')",
    "def open_test(): ...", "f = open_test",
])  # fmt: skip
def test_the_seal_check_sees(tmp_path, source):
    (tmp_path / "file.py").write_text(source)
    assert "open_test" in words(tmp_path / "file.py")


def test_no_command_lives_below_the_command_line():
    core = [p for p in FILES if title(p).startswith("ssl_bench/") and not title(p).startswith("ssl_bench/cli/")]
    assert not [title(p) for p in core if "click" in imported(p)]


@pytest.mark.parametrize(("folder", "most"), [("ssl_bench", 300), ("methods", 200), ("protocols", 200)])
def test_files_are_short(folder, most):
    lengths = {
        title(p): len(p.read_text(encoding="utf-8").splitlines())
        for p in FILES
        if p.relative_to(ROOT).parts[0] == folder
    }
    assert not {name: length for name, length in lengths.items() if length > most}


def test_the_tree_of_the_readme_is_true_and_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tree(readme) == readme, "run: python tests/write_tree.py"
    block = readme[readme.index("\nssl_bench/  ") :].partition("\n```")[0].strip().splitlines()
    assert len(block) <= 30
    assert all(any(line.startswith(f"  {wing}/") for line in block) for wing in WINGS)


def test_the_table_of_the_readme_is_fresh():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert measured(readme) == readme, "run: python tests/write_tree.py"
    assert readme.count("| ijepa + instance norm |") == readme.count("| *pixels* |") == 1


def test_the_readmes_of_methods_and_protocols_are_fresh():
    stale = [title(path) for path, text in catalogues().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run: python tests/write_tree.py"
