"""Trained again, one quick cell of three methods gives the accuracy that is committed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from results import records
from results.rows import version
from ssl_bench.config.schema import identity
from ssl_bench.evaluation import evaluate
from ssl_bench.training.method import configured
from ssl_bench.training.pretrain import pretrain

HOME = Path(__file__).parents[2]
METHODS = ("mae", "simclr", "supervised")  # one to two minutes each on one core; three seeds or more, scattered little


def committed(method: str) -> dict[int, float]:
    """k-NN accuracy by pretraining seed of the recipe `quick`, the newest where a run was trained again."""
    asked = {identity(configured(method, "quick", [f"seed={seed}"])) for seed in range(5)}
    found = [r for r in records.read(HOME / "results" / "records") if r.identity in asked and r.protocol == "knn"]
    return {r.seeds["pretrain"]: r.metrics["top1"] for r in sorted(found, key=lambda r: r.created) if version(r) == 1}


def one_more(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Where one more run of normally scattered ones lies: t-interval of a single value, not of the mean."""
    n, spread = len(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * spread * np.sqrt(1 + 1 / n)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def test_the_interval_of_one_more_run_covers_as_it_says():
    draws = np.random.default_rng(0).normal(40, 1.5, (4000, 4))
    inside = [low <= x[3] <= high for x in draws for low, high in [one_more(x[:3])]]
    assert abs(np.mean(inside) - 0.95) < 0.015


def test_the_committed_runs_are_found_by_the_identity_of_the_recipe():
    assert all(len(committed(method)) >= 3 for method in METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_trained_again_lands_where_the_committed_ones_do(method, tmp_path):
    config = configured(method, "quick", ["seed=0", "run.threads=1", "run.device=cpu"])
    low, high = one_more(list(committed(method).values()))
    assert high - low < 10, "the committed runs scatter so much that any number would pass"
    run = pretrain(config, tmp_path)
    found = evaluate.evaluate(run.name, "knn", config.data, tmp_path, device="cpu").metrics["top1"]
    print(f"{method}: {found:.2f} in [{low:.2f}, {high:.2f}]; committed: {committed(method)}")
    assert low <= found <= high
