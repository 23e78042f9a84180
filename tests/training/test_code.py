"""A change of code that can change a number is said: by hashes, versions, commits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ssl_bench.training import code

ROOT = Path(__file__).resolve().parents[2]


def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str]) -> dict[str, str]:
    """The modules behind `lab.idea`, written anew; nothing of it is imported."""
    shutil.rmtree(tmp_path / "lab", ignore_errors=True)
    for name, text in sources.items():
        path = tmp_path / "lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (code._closure, code._top, code._read):
        cached.cache_clear()
    return code.of("lab.idea")["modules"]


IDEA = '''"""Idea."""
import torch
from lab import helper
from .deep.more import scale


def loss(x):
    """What it is."""
    if x < 0:
        raise ValueError("no")
    return scale * helper.half(x)  # why
'''
SOURCES = {
    "idea.py": IDEA, "helper.py": "def half(x):\n    return x / 2\n", "deep/more.py": "scale = 2.0\n",
    "other.py": "unused = 1\n",
}  # fmt: skip


def test_it_follows_imports_of_a_users_folder_and_stops_at_what_is_installed(tmp_path, monkeypatch):
    assert list(digest(tmp_path, monkeypatch, SOURCES)) == ["lab.deep.more", "lab.helper", "lab.idea"]


@pytest.mark.parametrize(("old", "new"), [
    ("# why", "# another reason, at length"), ('"""What it is."""', '"""Something else."""'), ('"no"', "'not so: no'"),
    ("scale * helper.half(x)", "(\n        scale\n        * helper.half(x)\n    )"), ('"""Idea."""', ""),
])  # fmt: skip
def test_words_and_formatting_change_nothing(tmp_path, monkeypatch, old, new):
    before = digest(tmp_path, monkeypatch, SOURCES)
    assert old in IDEA
    assert digest(tmp_path, monkeypatch, SOURCES | {"idea.py": IDEA.replace(old, new)}) == before


@pytest.mark.parametrize(("name", "old", "new"), [
    ("idea.py", "scale * ", "7 * scale * "), ("idea.py", "x < 0", "x <= 0"), ("helper.py", "/ 2", "/ 2.5"),
    ("deep/more.py", "2.0", "2.5"),
])  # fmt: skip
def test_what_can_change_a_number_changes_its_module_alone(tmp_path, monkeypatch, name, old, new):
    before = digest(tmp_path, monkeypatch, SOURCES)
    after = digest(tmp_path, monkeypatch, SOURCES | {name: SOURCES[name].replace(old, new)})
    changed = ["lab." + name.removesuffix(".py").replace("/", ".")]
    assert code.differing({"modules": before}, {"modules": after}) == changed


def test_of_ours_it_holds_the_method_what_it_imports_and_the_loop():
    found = code.training("cjepa")["modules"]
    wanted = {"methods.cjepa", "methods.ijepa", "ssl_bench.views.masks", "ssl_bench.models.vit"}
    wanted |= {"ssl_bench.training.train", "ssl_bench.training.optimizer", "ssl_bench.rng", "ssl_bench.data.dataset"}
    assert wanted <= set(found)
    assert not [n for n in found if n.startswith(("ssl_bench.config", "ssl_bench.cli", "ssl_bench.errors", "torch"))]
    probe = code.evaluation("linear")["modules"]
    assert {"protocols.linear", "ssl_bench.evaluation.logistic", "ssl_bench.models.vit"} <= set(probe)
    assert code.differing({}, code.training("mae")) == []
