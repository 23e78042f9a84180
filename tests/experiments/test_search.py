"""Searching settings: the space's syntax, equal and repeatable draws, validation images only, resuming, gains."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import tiny
from fake_features import part
from syntax import imported, words

from protocols.knn import KNN, KNNConfig
from results import trials
from ssl_bench import find
from ssl_bench.cli import main
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, validate
from ssl_bench.experiments import report, search, search_space
from ssl_bench.training import pretrain, run_folder

ROOT = Path(__file__).resolve().parents[2]


def test_what_chooses_cannot_reach_the_test_split():
    choosers = [
        ROOT / name
        for name in ("ssl_bench/experiments/search.py", "ssl_bench/evaluation/validate.py", "results/trials.py")
    ]
    for path in choosers:
        assert "open_test" not in words(path)
        found = {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        assert "ssl_bench.evaluation.evaluate" not in found and "evaluate" not in words(path)
        assert "protocols" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize(("text", "u", "base", "value"), [
    ("optim.lr=1e-4..1e-2:log", 0.5, 1.0, "0.001"), ("optim.lr=x0.1..x10:log", 0.5, 0.02, "0.02"),
    ("objective.keep=0.1..0.5", 0.25, 0.9, "0.2"), ("objective.targets=1..6", 0.5, 4, "4"),
    ("objective.momentum=0.9..0.999:gap", 0.5, 0.5, "0.99"), ("objective.momentum=x0.1..x10:gap", 1.0, 0.99, "0.9"),
    ("objective.masking=block|random", 0.7, "block", "random"), ("optim.warmup=x0.5..x1.5", 0.5, 0.1, "0.1"),
])  # fmt: skip
def test_axis(text, u, base, value):
    assert search_space.parse(text).value(u, base) == value


@pytest.mark.parametrize("text", [
    "optim.lr", "optim.lr=1", "optim.lr=2..1", "optim.lr=0..1:log", "optim.lr=1..2:square", "optim.lr=x1..2",
    "optim.lr=a..b",
])  # fmt: skip
def test_unclear_axes_are_refused(text):
    with pytest.raises(UserError, match="--space"):
        search_space.axes([text])


def config(method):
    return find.recipes(find.module("methods", method))["quick"]()


def test_draws_are_shared_by_methods_and_nested_in_the_number_of_trials():
    one = search_space.axes([])
    assert search_space.settings(one, config("mae"), 0, 0) == []
    drawn = {m: [search_space.settings(one, config(m), 0, i) for i in range(1, 60)] for m in ("ijepa", "mae")}
    for a, b in zip(drawn["ijepa"], drawn["mae"], strict=True):
        rates = [float(s[0].split("=")[1]) / config(m).optim.lr for s, m in ((a, "ijepa"), (b, "mae"))]
        assert rates[0] == pytest.approx(rates[1], rel=1e-3) and 0.2 <= rates[0] <= 5
        assert len(a) == len(b) + 1 and a[3].startswith("objective.momentum=")  # MAE has no teacher
    rates = torch.tensor([float(s[0].split("=")[1]) for s in drawn["mae"]])
    assert 0.3 < (rates > config("mae").optim.lr).float().mean() < 0.7  # even in the logarithm
    assert search_space.settings(one, config("mae"), 1, 1) != drawn["mae"][0]


def test_several_axes_in_one_text_and_a_setting_nobody_has():
    found = search_space.axes(["optim.lr=1e-4..1e-2:log,objective.masking=block|random"])
    assert [a.key for a in found] == ["optim.lr", "objective.masking"]
    with pytest.raises(UserError, match=r"Did you mean 'objective\.mask_ratio'"):
        search_space.check(search_space.axes(["objective.mask_ration=0.5..0.9"]), [config("mae")])
    described = search_space.describe(found, {"mae": config("mae"), "ijepa": config("ijepa")})
    assert "not for mae" in described[1] and "not for" not in described[0]


def test_unequal_compute_is_refused(tmp_path):
    with pytest.raises(UserError, match="same compute"):
        search.plan(["mae", "ijepa"], "quick", ["budget.steps=4"], [], ["knn"], tmp_path)
    with pytest.raises(UserError, match="all trials share data, seed and compute"):
        search.plan(["mae"], "quick", [], ["budget.flops=x0.5..x2"], ["knn"], tmp_path)
    assert search.plan(["mae"], "quick", ["budget.steps=4"], ["optim.lr=1..2"], ["knn"], tmp_path).space
    with pytest.raises(UserError, match="both set and searched"):
        search.plan(["mae"], "quick", ["optim.lr=1"], ["optim.lr=1..2"], ["knn"], tmp_path)


def test_a_protocol_is_scored_on_the_half_it_did_not_choose_on():
    seen = []

    class Spy(KNN):
        def fit(self, train, val, seed):
            seen.append(val.labels)
            return super().fit(train, val, seed)

        def score(self, output, labels, num_classes):
            seen.append(labels)
            return super().score(output, labels, num_classes)

    val = part(60, seed=1)
    found, _ = validate.crossed(Spy(KNNConfig()), part(200), val, 0)
    assert torch.equal(seen[0], seen[3]) and torch.equal(seen[1], seen[2])
    assert torch.cat([seen[0], seen[1]]).bincount().equal(val.labels.bincount()) and 0 <= found["top1"] <= 100


def test_figures_need_no_test_split_and_are_kept(photos, tmp_path, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("the test split was opened")

    monkeypatch.setattr("ssl_bench.data.dataset.open_test", never)
    monkeypatch.setattr(evaluate, "open_test", never)
    run = pretrain.pretrain(tiny("mae", f"folder:{photos}", steps=2), tmp_path)
    found = validate.figures(run, ["knn"], tmp_path, device="cpu")
    kept, weights = validate.read(run), run_folder.weights(run)
    now = kept["knn"]["fingerprint"]
    assert found["knn"]["num_val"] == 24 and weights and validate.done(kept, "knn", 0, now, weights)
    assert not any(validate.done(kept, "knn", *other) for other in ((1, now, weights), (0, "", weights), (0, now, "")))
    for name, value in (("version", 0), ("config", {}), ("weights_sha256", None)):
        assert not validate.done({"knn": {**kept["knn"], name: value}}, "knn", 0, now, weights)
    monkeypatch.setattr(validate, "crossed", never)
    assert validate.figures(run, ["knn"], tmp_path, device="cpu") == found


def shared(photos, root):
    base = ["data.image_size=24", "data.val_fraction=0.2", "backbone.embed_dim=32", "backbone.depth=1"]
    base += ["backbone.num_heads=2", "budget.flops=1e7", "budget.batch_size=12", f"data.name=folder:{photos}"]
    return search.plan(["mae"], "quick", [*base, "monitor_points=1"], ["optim.lr=x0.2..x5:log"], ["knn"], root)


def test_trials_are_runs_written_down_once_and_resumed(photos, tmp_path):
    plan = shared(photos, tmp_path)
    todo = [plan.trial("mae", i, 0) for i in range(3)]
    for trial in todo[:2]:
        validate.figures(pretrain.pretrain(trial.row.config, tmp_path), ["knn"], tmp_path, device="cpu")
    run_folder.set_status(
        run_folder.start(tmp_path, todo[2].row.config), state="failed", reason="Non-finite loss at step 1"
    )
    again = [plan.trial("mae", i, 0) for i in range(3)]
    assert [t.row.state for t in again] == ["done", "done", "failed"]
    lines = search.carry_out(plan, again, 1)  # starts nothing: all have ended
    assert [x["state"] for x in lines] == ["finished", "finished", "failed"] and lines[2]["score"] is None
    assert lines[0]["settings"] == [] and lines[1]["settings"] and lines[1]["compute"]["flops"] > 0
    path = tmp_path / trials.FILE
    before = path.read_text()
    assert trials.add(path, lines) == 3 and path.read_text() == before and len(trials.read(path)) == 3
    assert "3 trials" in report.collect(tmp_path, tmp_path / "results")
    assert trials.read(tmp_path / "results" / "search" / "trials.jsonl") == trials.read(path)
    table = (tmp_path / "results" / "search" / "trials.md").read_text()
    assert "| mae | 3 | 1 |" in table and lines[1]["settings"][0] in table and not report.check(tmp_path / "results")
    (tmp_path / "results" / "search" / "trials.md").write_text(table.replace("| mae | 3 | 1 |", "| mae | 3 | 0 |"))
    assert "stale" in report.check(tmp_path / "results")[0]
    gain = trials.gain("mae", lines)
    assert (gain.trials, gain.bad) == (3, 1) and gain.gain >= 0


def line(trial, score, purpose="trial", seed=0, state="finished"):
    return {"trial": trial, "score": score, "purpose": purpose, "seed": seed, "state": state, "settings": [str(trial)],
            "compute": {"flops": 1.0}}  # fmt: skip


def test_a_collapsed_trial_never_wins_and_confirmation_uses_fresh_seeds_only():
    lines = [line(0, 40.0), line(1, 60.0, state="collapsed"), line(2, 45.0), line(3, None, state="failed")]
    assert trials.gain("mae", lines).trial == 2 and trials.gain("mae", lines).bad == 2
    fresh = [line(2, 45.0 + s, "confirm", s) for s in (1, 2)] + [line(0, 45.0 + s, "confirm", s) for s in (1, 2)]
    found = trials.confirmed([*lines, *fresh], 2)
    assert found.difference == 0 and found.low < 0 < found.high
    assert trials.confirmed(lines, 2) is None


def test_the_recipe_itself_is_trial_0(photos, tmp_path):
    plan = shared(photos, tmp_path)
    assert plan.trial("mae", 0, 0).row.config == replace(plan.config("mae"), seed=0)


def test_every_option_of_compare_counts_or_is_refused(tmp_path):
    for extra, sentence in ((["--seeds", "2"], "--seeds has no effect"), (["--slurm", "gpu"], "leave --slurm out"),
                            (["--budget", "steps=3"], "same compute")):  # fmt: skip
        done = CliRunner().invoke(main.cli, ["compare", "--search", "2", "--root", str(tmp_path), *extra])
        assert isinstance(done.exception, UserError) and sentence in str(done.exception)
    done = CliRunner().invoke(main.cli, ["compare", "--space", "optim.lr=1..2", "--root", str(tmp_path)])
    assert "no effect without --search" in str(done.exception)
