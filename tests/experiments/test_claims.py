"""Claims: the files, the runs they share, and verdicts on records whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from fake_records import fake

from results import verdicts
from results.verdicts import FAILS, FEW, HOLDS, OPEN
from ssl_bench.cli import claims as command
from ssl_bench.errors import UserError
from ssl_bench.experiments import claims
from ssl_bench.training import run_folder

FILES = sorted(verdicts.FOLDER.glob("*.toml"))
TEXT = """
statement = "a beats b"
source = "nobody"
measure = "linear"
[arms]
a = { method = "mae", reported = 50.0 }
b = { method = "mae", settings = ["objective.mask_ratio=0.5"], reported = 40.0 }
[[expect]]
better = "a"
than = "b"
predicted = 5.0
falsified_below = 1.0
"""


def claim(tmp_path, text=TEXT):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return verdicts.load(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_claim_can_be_planned_and_starts_nothing(path, tmp_path):
    made = verdicts.load(path)
    work = claims.plan([made], 1, ["budget.flops=1e10"], tmp_path)[0]
    assert set(work.rows) == set(made.arms) and not list(tmp_path.iterdir())
    used = [(row.cell.encoder, made.arms[name].measure) for name, rows in work.rows.items() for row in rows]
    assert len(set(used)) == len(used)  # arms differ, or what is measured of the same runs
    for name, arm in made.arms.items():
        assert work.rows[name][0].config.budget.flops == pytest.approx(arm.compute * 1e10)
        assert set(made.needed(name)) <= set(work.rows[name][0].missing) <= set(made.protocols)


def test_claims_share_their_runs(tmp_path):
    made = [verdicts.load(verdicts.FOLDER / f"{n}.toml") for n in ("ranking-by-protocol", "latent-beats-generative")]
    first, second = claims.plan(made, 2, [], tmp_path)
    assert first.rows["mae"][1] is second.rows["mae"][1]
    assert first.rows["mae"][0].missing == ["attentive", "linear", "finetune"]


def test_the_narrow_predictor_is_half_the_encoder(tmp_path):
    made = verdicts.load(verdicts.FOLDER / "narrow-predictor.toml")
    rows = claims.plan([made], 1, ["backbone=mini_patch6"], tmp_path)[0].rows
    assert [rows[n][0].config.objective.predictor_dim for n in ("narrow", "wide")] == [96, 192]


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ('than = "b"', 'than = "c"', "no arm 'c'"), ('than = "b"', "", "better and than"),
    ('than = "b"', 'then = "b"', "Did you mean 'than'"), ('measure = "linear"', 'measure = " - "', "not clear"),
    ("statement", "statment", "Did you mean 'statement'"), ("[arms]", "", "not a valid claim"),
    ("predicted = 5.0", "", "needs predicted, the size it expects, and falsified_below"),
    ("predicted = 5.0", "predicted = 0.5", "predicted=0.5 lies below falsified_below=1"),
])  # fmt: skip
def test_an_unclear_claim_is_one_sentence(tmp_path, old, new, sentence):
    with pytest.raises(UserError, match=sentence):
        claim(tmp_path, TEXT.replace(old, new))


def test_a_setting_the_claim_compares_cannot_be_given(tmp_path):
    with pytest.raises(UserError, match="is what the claim 'mine' compares"):
        claims.plan([claim(tmp_path)], 1, ["objective.mask_ratio=0.6"], tmp_path)


def arm(name, values, protocol="linear", **changes):
    """Records of one arm: one per seed, with accuracy `values`."""
    return [fake(name, v, s, protocol, **changes) for s, v in enumerate(values)]


@pytest.mark.parametrize(("a", "b", "expected"), [
    ((60.0, 61.0, 60.5), (40.0, 41.0, 40.5), HOLDS), ((40.0, 41.0, 40.5), (60.0, 61.0, 60.5), FAILS),
    ((50.0, 61.0, 40.5), (45.0, 41.0, 60.5), OPEN), ((60.0,), (40.0,), FEW),
    ((60.0, 61.0), (40.0, 41.0), FEW), ((40.0, 41.0), (60.0, 61.0), FEW),
])  # fmt: skip
def test_verdicts(tmp_path, a, b, expected):
    outcomes = verdicts.judge(claim(tmp_path), {"a": arm("a", a), "b": arm("b", b)})
    assert verdicts.overall(outcomes) == expected and outcomes[0].reported == 10
    assert outcomes[0].difference == pytest.approx(np.mean(a) - np.mean(b), abs=0.2)


def test_arms_can_be_the_same_runs_used_in_another_way(tmp_path):
    text = TEXT.replace('b = { method = "mae"', 'b = { measure = "knn", method = "mae"')
    assert text != TEXT
    made = claim(tmp_path, text)
    assert (made.protocols, made.needed("a"), made.needed("b")) == (["linear", "knn"], ["linear"], ["knn"])
    both = arm("mae", (60.0, 61.0, 60.5)) + arm("mae", (40.0, 41.0, 40.5), "knn")
    (outcome,) = verdicts.judge(made, {"a": both, "b": both})
    assert outcome.what == "a (linear) > b (knn)" and outcome.verdict == HOLDS
    assert outcome.difference == pytest.approx(20, abs=0.2)


def test_one_that_fails_sinks_the_claim_and_nothing_measured_leaves_it_open(tmp_path):
    made = claim(tmp_path)
    assert verdicts.overall(verdicts.judge(made, {"a": [], "b": []})) == FEW
    good, bad = (verdicts.Outcome("x", v, 1.0) for v in (HOLDS, FAILS))
    assert verdicts.overall([good, bad]) == FAILS and verdicts.overall([good]) == HOLDS


@pytest.mark.parametrize(("low", "high", "by", "expected"), [
    (0.1, 3, 0, HOLDS), (-0.5, 0.8, 0, FAILS), (-0.5, 1.2, 0, OPEN), (-0.9, 0.2, -1, HOLDS), (-1.1, 0.2, -1, OPEN),
    (-3, -1.5, -1, FAILS), (None, None, 0, OPEN),
])  # fmt: skip
def test_verdict_of_an_interval(low, high, by, expected):
    assert verdicts.verdict(low, high, by, by + (by >= 0)) == expected


def test_a_difference_of_protocols_is_paired_by_seed():
    mine = [*arm("a", (50.0, 60.0)), *arm("a", (55.0, 69.0), protocol="knn")]
    found = verdicts.sample(mine, "knn - linear")
    assert found.values == pytest.approx([5.0, 9.0], abs=0.2) and found.bits is None
    assert verdicts.sample(mine, "attentive - linear") is None
    with pytest.raises(UserError, match="no metric 'colour'"):
        verdicts.sample(mine, "linear.colour")


def test_numbers_beside_the_metrics_can_be_measured_too():
    """What a plan took in seconds is no metric: it is another number in every run."""
    mine = [replace(r, selected={"seconds_far": s, "dynamics": "fitted"}) for r, s in
            zip(arm("a", (50.0, 60.0)), (12.5, 14.0), strict=True)]  # fmt: skip
    assert verdicts.sample(mine, "linear.seconds_far").values == pytest.approx([12.5, 14.0])
    with pytest.raises(UserError, match="no metric 'dynamics'"):
        verdicts.sample(mine, "linear.dynamics")


def test_collapse_counts_runs(tmp_path):
    text = TEXT.replace('better = "a"\nthan = "b"', 'collapses = "a"')
    text = text.replace("predicted = 5.0", "predicted = 100.0").replace("below = 1.0", "below = 50.0")
    made = claim(tmp_path, text)
    flagged = {"flag": True, "reason": "all images map to nearly one vector", "rankme": 1.0}
    bad, fine = arm("a", [10.0] * 6, collapse=flagged), arm("a", [40.0] * 6)
    sets = (bad, fine, [*bad[:3], *fine[3:]], bad[:2], fine[:3])  # two or three runs decide nothing
    assert [verdicts.judge(made, {"a": x})[0].verdict for x in sets] == [HOLDS, FAILS, OPEN, FEW, OPEN]


def test_the_verdict_is_written_with_its_cost(tmp_path, monkeypatch):
    made = claim(tmp_path)
    work = claims.plan([made], 2, [], tmp_path)[0]
    for rows in work.rows.values():
        for row in rows:
            run_folder.write_json(
                run_folder.start(tmp_path, row.config).folder / "compute.json", {"flops": 2.0, "seconds": 3.0}
            )
    result = claims.judged(work, [], tmp_path)
    assert result["verdict"] == FEW and result["cost"]["flops"] == 8 and result["cost"]["runs"] == 4
    assert (tmp_path / "claims" / "mine.json").exists()


def test_list_names_every_claim():
    done = CliRunner().invoke(command.claims, ["--list"])
    assert done.exit_code == 0 and all(path.stem in done.output for path in FILES)


def test_what_the_file_says_is_marked_before_the_first_run(tmp_path, capsys):
    made, root = claim(tmp_path), tmp_path / "root"
    work = claims.plan([made], 3, [], root)[0]
    first = claims.mark(work, root)
    assert first["mark"] == made.mark == claim(tmp_path, TEXT + "# a comment").mark and not first["runs_before"]
    assert claims.foretold(claims.judged(work, [], root)["claim"]) == ""
    later = claims.plan([claim(tmp_path, TEXT.replace("predicted = 5.0", "predicted = 2.0"))], 3, [], root)[0]
    result = claims.judged(later, [], root)
    assert result["claim"]["mark"] == made.mark != result["claim"]["now"]
    assert "no prediction: its file was changed after its hash was taken" in " ".join(capsys.readouterr().out.split())


def test_a_claim_looked_at_after_its_runs_is_no_prediction(tmp_path):
    work = claims.plan([claim(tmp_path)], 3, [], tmp_path)[0]
    run_folder.set_status(run_folder.start(tmp_path, work.rows["a"][0].config), state="finished")
    assert claims.foretold(claims.mark(work, tmp_path)) == "1 of its runs were there before its hash was taken"
    known = claims.plan([claim(tmp_path, 'known = "all"' + TEXT)], 3, [], tmp_path / "fresh")[0]
    assert "written after the runs (all)" in claims.foretold(claims.mark(known, tmp_path / "fresh"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_verdicts_here_say_whether_their_sizes_came_later(path):
    made, kept = verdicts.load(path), json.loads(path.with_suffix(".json").read_text())
    came_later = "its sizes were written after" if made.known else ""
    assert kept["claim"]["now"] == made.mark and claims.foretold(kept["claim"]).startswith(came_later)
    assert bool(made.known) == bool(claims.foretold(kept["claim"]))
