"""Several data sets and label-free selection against known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_records import fake, quickstart

from results import across, selection, tables
from results.page import page
from results.rows import columns
from results.sets import by_data


def test_nemenyi_constants() -> None:
    q05 = [1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164]
    q10 = [1.645, 2.052, 2.291, 2.460, 2.589, 2.693, 2.780, 2.855, 2.920]
    for k, (five, ten) in enumerate(zip(q05, q10, strict=True), 2):
        unit = np.sqrt(k * (k + 1) / 6)
        assert across.nemenyi(k, 1) / unit == pytest.approx(five, abs=1e-3)
        assert across.nemenyi(k, 1, alpha=0.1) / unit == pytest.approx(ten, abs=1e-3)
    assert across.nemenyi(4, 8) == pytest.approx(1.66, abs=5e-3)
    assert across.nemenyi(6, 8) == pytest.approx(2.67, abs=5e-3)
    assert across.nemenyi(6, 19) == pytest.approx(1.73, abs=5e-3)


def test_friedman_and_cliques_known() -> None:
    scores = np.array([[3.0, 2, 1]] * 4)  # the same order four times: chi2 = 12 N / (k (k + 1)) (1 + 4 + 9 - 12) = 8
    found = across.ranking(["a", "b", "c"], scores)
    assert found.mean_ranks == (1, 2, 3)
    assert found.friedman_p == pytest.approx(np.exp(-4))
    assert found.critical_difference == pytest.approx(2.344 * np.sqrt(12 / 24), abs=1e-3)  # 1.657
    assert found.cliques == (("a", "b"), ("b", "c"))
    tied = across.ranks(np.array([[1.0, 1, 0]]))
    assert tied.tolist() == [[1.5, 1.5, 3]]
    assert across.ranks(np.array([[1.0, 2, 3]]), higher=False).tolist() == [[1, 2, 3]]


def test_wilcoxon_known() -> None:
    scores = np.column_stack([np.zeros(8), np.arange(1, 9), -np.arange(1, 9)[::-1] * 0.0])
    found = across.wilcoxon(["base", "better", "same"], scores, "base")
    assert found["better"] == pytest.approx(2 * 2 / 2**8)  # all eight positive: 2 / 2^8, times 2 by Holm
    assert found["same"] == 1.0


def test_iqm_and_improvement() -> None:
    assert across.iqm(np.arange(1.0, 9.0)) == 4.5  # mean of 3, 4, 5, 6
    assert across.iqm([np.array([0.0, 1, 2, 3]), np.array([4.0, 5, 6, 100])]) == 3.5
    a, b = np.array([3.0, 4, 5]), np.array([1.0, 4, 2])
    assert across.improvement([a], [b]) == pytest.approx((2 + 2.5 + 3) / 9)  # of three rivals each beats 2, 2.5 and 3
    assert across.improvement([a, b], [b, a]) == pytest.approx(0.5)
    low, high = across.iqm_interval([a, b], draws=200)
    assert low <= across.iqm([a, b]) <= high


def test_matrix_and_agreement() -> None:
    table = tables.build(quickstart())
    names, labels, scores = across.matrix(table)
    assert (names, labels, scores.shape) == (["dino", "ijepa", "mae"], ["knn", "linear"], (2, 3))
    assert -1 <= across.agreement(table)["knn", "linear"] <= 1
    assert len(across.seed_values(table, ["knn"])["mae"][0]) == 3


def test_selector_known() -> None:
    accuracy = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0}
    perfect = selection.judge("rankme", "knn", {"a": 1, "b": 2, "c": 3, "d": 4}, accuracy)
    assert perfect is not None
    assert (perfect.spearman, perfect.kendall, perfect.regret, perfect.picked) == (1, 1, 0, "d")
    assert perfect.random_regret == 15
    inverted = selection.judge(
        "loss", "knn", {"a": 1, "b": 2, "c": 3, "d": 4}, accuracy
    )  # lowest loss is the worst run
    assert inverted is not None
    assert (inverted.spearman, inverted.regret) == (-1, 30)
    alpha = selection.judge("alpha_req", "knn", {"a": 3, "b": 0.1, "c": 1.2, "d": 1.05}, accuracy)
    assert alpha is not None
    assert alpha.picked == "d"
    flat = selection.judge("rankme", "knn", dict.fromkeys(accuracy, 1.0), accuracy)
    assert flat is not None
    assert (flat.spearman, flat.regret) == (None, 15)
    assert selection.judge("rankme", "knn", {"a": 1.0}, accuracy) is None


def test_selectors_from_records() -> None:
    made = [fake("mae", 20 + 5 * s, s, collapse={"flag": False, "reason": "", "rankme": 10.0 + s}) for s in range(4)]
    found = selection.selectors(made, {c.key: c.label for c in columns(made)}, {"loss": {r.run: 1.0 for r in made}})
    assert [(s.metric, s.spearman) for s in found] == [("loss", None), ("rankme", 1.0)]
    mixed = [*made, fake("dino", 30.0, 0)]
    found = selection.selectors(mixed, {c.key: c.label for c in columns(made)}, {"loss": {r.run: 1.0 for r in mixed}})
    assert [s.metric for s in found] == ["rankme"]


def test_summaries_over_data_sets() -> None:
    levels = {"good": 60, "fair": 45, "poor": 30}
    made = [fake(m, v + d + 0.3 * s, s, data=f"set{d}") for m, v in levels.items() for d in range(6) for s in range(2)]
    parts = {name: tables.build(members) for name, members in by_data(made).items()}
    (found,) = across.summaries(parts)
    assert found.ranking.names == ("good", "fair", "poor")
    assert found.ranking.mean_ranks == (1, 2, 3)
    assert found.baseline == "good"
    assert found.improvement == {"fair": 1.0, "poor": 1.0}
    assert found.wilcoxon["poor"] == pytest.approx(2 * 2 / 2**6)
    assert across.summaries(parts, "fair")[0].improvement["good"] == 0.0
    assert found.iqm["good"][0] == pytest.approx(62.7, abs=0.3)
    text = page(made)
    assert "Across data sets" in text
    assert across.summaries({"set0": parts["set0"]}) == []


def two_sets(protocol_config: dict[str, Any] | None = None, **changes: Any) -> list[across.Summary]:
    """Three methods on two sets; on the second one `mae` has other settings."""
    made = []
    for data in ("a", "b"):
        for m, value in (("mae", 60 if data == "a" else 20), ("dino", 50), ("byol", 40)):
            for s in range(2):
                config: dict[str, Any] = {
                    "method": m,
                    "seed": s,
                    "objective": {},
                    "optim": {"lr": 1e-3},
                    "budget": {"steps": 300},
                }
                settings = {"k": 20}
                if data == "b":
                    config |= changes if m == "mae" else {}
                    settings = protocol_config or settings
                made.append(fake(m, value + s, s, data=data, config=config, protocol_config=settings))
    return across.summaries({name: tables.build(members) for name, members in by_data(made).items()})


def test_a_method_of_other_settings_is_another_one_across_data_sets() -> None:
    (same,) = two_sets()
    assert same.ranking.names == ("dino", "mae", "byol") and same.notes == ()
    (other,) = two_sets(optim={"lr": 1e-1})
    assert other.ranking.names == ("dino", "byol")
    assert other.notes == ("Left out, for objective or optimizer differ between the sets: mae.",)
    (longer,) = two_sets(budget={"steps": 3000, "batch_size": 8})
    assert set(longer.ranking.names) == {"mae", "dino", "byol"}
    assert longer.notes == (
        "Budgets differ between the sets. a: 300 steps, batch ?; b: 3,000 steps, batch 8 and 300 steps, batch ?.",
    )


def test_a_protocol_of_other_settings_is_another_one_across_data_sets() -> None:
    assert two_sets(protocol_config={"k": 1}) == []


def test_single_seeds_enter_no_ranking() -> None:
    assert across.matrix(tables.build(quickstart((0,))))[0] == []
