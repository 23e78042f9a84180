"""A number is tied to the code that made it: what changes the hash, and what each command says of other code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_photos, tiny
from fake_records import fake
from stopping import stopped

from methods.mae import MAE
from results import tables
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, protocol
from ssl_bench.experiments import recorded
from ssl_bench.training import code, provenance, run_folder
from ssl_bench.training.pretrain import pretrain

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


@pytest.fixture
def edited(monkeypatch):
    """Changes the code behind the names given: what follows sees other digests for them."""
    real = code.of

    def edit(*names: str) -> None:
        def of(*roots: str) -> dict[str, Any]:
            found = real(*roots)["modules"]
            return code._hashed({k: "another" if k in names else v for k, v in found.items()})

        monkeypatch.setattr(code, "of", of)

    return edit


def test_a_finished_run_of_other_code_is_said_and_kept_only_when_asked(photos, tmp_path, edited):
    config = tiny("mae", f"folder:{photos}", steps=2)
    run = pretrain(config, tmp_path)
    kept = run.read_json("provenance.json")["code"]
    assert kept["hash"] == code.training("mae")["hash"] and {"commit", "dirty", "modules"} <= set(kept)
    assert pretrain(config, tmp_path).status()["state"] == "finished"
    edited("methods.mae", "ssl_bench.views.masks")
    with pytest.raises(
        UserError, match=r"trained by other code: .*methods/mae.py and ssl_bench/views/masks.py changed"
    ):
        pretrain(config, tmp_path)
    asked, seen = replace(config, run=replace(config.run, keep_old=True)), []
    assert run_folder.run_name(asked) == run.name
    pretrain(asked, tmp_path, seen.append)
    assert "kept, as asked" in seen[0]["remarks"][0] and run.read_json("provenance.json")["code"] == kept
    with pytest.raises(UserError, match=r"1 of 1 runs were trained, or begun, by other code \(methods/mae.py and"):
        recorded.refuse_other_code({"mae seed 0": run})


def test_a_half_done_run_does_not_go_on_under_other_code_in_silence(photos, tmp_path, edited, monkeypatch):
    config = tiny("mae", f"folder:{photos}", steps=4)
    config = replace(config, run=replace(config.run, checkpoint_steps=1))
    stopped(config, tmp_path, monkeypatch)
    run = run_folder.Run(tmp_path / run_folder.run_name(config))
    first = run.read_json("provenance.json")["code"]["hash"]
    edited("methods.mae")
    with pytest.raises(UserError, match=r"was begun by other code.*go on as it is: --keep-old"):
        pretrain(config, tmp_path)
    pretrain(replace(config, run=replace(config.run, keep_old=True)), tmp_path)
    after = run.read_json("provenance.json")
    assert after["earlier"][0]["hash"] == first != after["code"]["hash"]
    record = evaluate.evaluate(run.name, "knn", config.data, tmp_path, device="cpu")
    assert record.code["training"]["earlier"] == [first]
    assert "Begun by one state of the code and gone on with by another: runs of `mae`." in tables.build([record]).notes


def test_a_run_from_before_is_a_note_and_no_refusal(photos, tmp_path, edited):
    config, seen = tiny("mae", f"folder:{photos}", steps=2), []
    run = pretrain(config, tmp_path)
    old = run.read_json("provenance.json")
    run_folder.write_json(run.folder / "provenance.json", {**old, "code": {"commit": "0" * 40, "dirty": False}})
    edited("methods.mae")
    pretrain(config, tmp_path, seen.append)
    assert "kept no hash of its code" in seen[0]["remarks"][0]


def test_a_new_version_is_another_run(photos, tmp_path, monkeypatch):
    config = tiny("mae", f"folder:{photos}", steps=2)
    first = pretrain(config, tmp_path)
    monkeypatch.setattr(MAE, "version", 2)
    second = pretrain(config, tmp_path)
    assert second.name != first.name and second.config().method_version == 2
    made = [evaluate.evaluate(run.name, "knn", config.data, tmp_path, device="cpu") for run in (first, second)]
    labels = [row.label for row in tables.build(made).rows if any(row.cells)]
    assert labels == ["mae v1", "mae v2"], "two versions are never averaged"


def test_a_number_of_other_probe_code_is_measured_anew_unless_kept(photos, tmp_path, edited):
    config = tiny("mae", f"folder:{photos}", steps=2)
    run = pretrain(config, tmp_path)
    record = evaluate.evaluate(run.name, "linear", config.data, tmp_path, device="cpu")
    assert record.code["hash"] == code.evaluation("linear")["hash"]
    assert record.code["training"]["hash"] == code.training("mae")["hash"] != record.code["hash"]
    cell = recorded.Cell.of(run.name, 0, config.data)
    assert not recorded.Numbers(tmp_path).missing(["linear"], cell)
    edited("ssl_bench.evaluation.logistic")
    there = recorded.Numbers(tmp_path)
    assert there.missing(["linear"], cell) == ["linear"] and not there.missing(["linear"], cell, keep_old=True)
    assert there.told().startswith("1 number was made by other code (ssl_bench/evaluation/logistic.py changed since)")
    before = recorded.values(tmp_path)
    assert not recorded.replaced(before, record)
    again = evaluate.evaluate(run.name, "linear", config.data, tmp_path, device="cpu")
    assert recorded.replaced(before, again) == (
        f"it replaces {record.value:.2f}, measured by other code: ssl_bench/evaluation/logistic.py changed since."
    )


def test_a_table_names_the_rows_between_which_code_differs():
    def one(method: str, value: float, seed: int, training: dict[str, str], probe: str = "a") -> Any:
        modules = {"commit": "0", "dirty": False, "hash": probe, "modules": {"protocols.knn": probe}}
        return fake(method, value, seed, code={**modules, "training": {"hash": "x", "modules": training}})

    same = {"ssl_bench.views.masks": "1", "ssl_bench.rng": "1"}
    fine = [one(m, 40, s, same | {f"methods.{m}": m}) for m in ("mae", "dino") for s in (0, 1)]
    assert not [n for n in tables.build(fine).notes if "Not the same code" in n]
    other = [*fine, one("ijepa", 41, 0, same | {"ssl_bench.views.masks": "2"}), one("swav", 41, 0, same, probe="b")]
    notes = [n for n in tables.build(other).notes if "Not the same code" in n]
    assert notes == [
        "Not the same code behind all rows: protocols/knn.py (knn v1 on clothing48): "
        "`dino`, `ijepa`, `mae` against `swav`.",
        "Not the same code behind all rows: ssl_bench/views/masks.py (training): "
        "`dino`, `mae`, `swav` against `ijepa`.",
    ]
    third = [
        one("mae", 41, 2, same | {"ssl_bench.rng": "3", "methods.mae": "mae"}),
        one("byol", 41, 0, same, probe="c"),
    ]
    notes = [n for n in tables.build([*other, *third]).notes if "Not the same code" in n]
    assert notes == [
        "Not the same code behind all rows: protocols/knn.py, ssl_bench/rng.py, ssl_bench/views/masks.py: "
        "`byol` against `dino` against `ijepa` against `mae` against `swav`. The runs of `mae` differ among themselves."
    ]


def test_a_report_says_which_numbers_are_of_other_code_than_is_here(edited):
    def one(method: str, protocol: str, version: int, **changes: Any) -> Any:
        made = {"commit": "0", "dirty": False, **code.evaluation(protocol), "training": code.training(method)}
        return fake(method, 40, protocol=protocol, protocol_version=version, code=made, **changes)

    knn, linear = (protocol.load(name).version for name in ("knn", "linear"))
    there = [one("mae", "knn", knn), one("simmim", "linear", linear), one("simmim", "linear", linear - 1, recipe="old")]
    assert not recorded.of_other_code(there)
    edited("methods.mae", "ssl_bench.evaluation.logistic")
    assert recorded.of_other_code([*there, fake("dino")]) == [  # of which nothing is known
        "mae: trained by other code than is here now; not as they were then: methods/mae.py.",
        "linear: measured by other code than is here now; not as they were then: ssl_bench/evaluation/logistic.py.",
    ]
    raised = [replace(r, protocol_version=1, config=r.config | {"method_version": 0}) for r in there]
    assert not recorded.of_other_code(raised), "numbers of another version are rows and columns of their own"


def test_a_new_file_that_git_does_not_know_makes_the_code_dirty(tmp_path, monkeypatch):
    (tmp_path / "ssl_bench" / "training").mkdir(parents=True)
    (tmp_path / "methods").mkdir()
    (tmp_path / "ssl_bench" / "training" / "provenance.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "ssl_bench" / "training" / "provenance.py"))
    (tmp_path / "notes.txt").write_text("not code")
    assert provenance.code_state()["dirty"] is False
    (tmp_path / "methods" / "idea.py").write_text("x = 1")
    assert provenance.code_state()["dirty"] is True


@pytest.mark.slow
def test_the_commands_see_a_change_of_a_users_own_file(tmp_path):
    make_photos(tmp_path / "photos")
    text = (ROOT / "docs" / "add-your-method.md").read_text().split("```python\n")[1].split("```")[0]
    idea = tmp_path / "my_lab" / "idea.py"
    idea.parent.mkdir()
    idea.write_text(text)
    settings = ["--data", "folder:photos", "data.image_size=24", "backbone=toy_patch6", "budget.steps=3"]
    settings += ["budget.batch_size=12", "run.device=cpu"]

    def said(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "ssl_bench", *words, "--root", "runs"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    train = ("pretrain", "--method", "my_lab.idea", "--recipe", "quick", *settings)
    compare = ("compare", "--methods", "my_lab.idea", "--recipe", "quick", "--seeds", "1", "--protocols", "knn",
               "--no-references", *settings)  # fmt: skip
    said(*train)
    said(*compare)
    idea.write_text(text.replace("return scale *", "return 7 * scale *"))
    assert "my_lab/idea.py changed. If its numbers can be others now" in said(*train, code=2)
    assert "1 of 1 runs were trained, or begun, by other code (my_lab/idea.py" in said(*compare, code=2)
    assert "kept, as asked" in said(*train, "--keep-old")
    assert "was trained by other code than is here now: my_lab/idea.py" in said("eval", "--protocol", "knn")
    (path,) = (tmp_path / "runs" / "records").glob("*.json")
    trained = json.loads(path.read_text())["code"]["training"]
    assert "my_lab.idea" in trained["modules"]
    idea.write_text(
        text.replace("return scale *", "return 7 * scale *").replace("    family,", "    version = 2\n    family,")
    )
    said(*train, "--seed", "0")
    assert len(list((tmp_path / "runs").glob("my_lab.idea-*"))) == 2
