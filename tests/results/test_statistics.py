"""Statistics against worked examples with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from results import simulate
from results.statistics import (
    Sample,
    Shared,
    best_and_tied,
    compare,
    compare_with,
    hierarchical_bootstrap,
    holm,
    image_interval,
    interval,
    mcnemar,
    share,
    t_interval,
)


def test_t_interval_known() -> None:
    found = t_interval([70.0, 71.0, 72.0])  # s = 1, 4.3027 / sqrt(3) = 2.4841 (protocols.md section 4)
    assert (found.mean, found.n, found.over) == (71.0, 3, "seeds")
    assert found.low == pytest.approx(71 - 2.4841, abs=1e-4)
    assert found.high == pytest.approx(71 + 2.4841, abs=1e-4)
    five = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.high == pytest.approx(3 + 1.2417 * np.sqrt(2.5), abs=1e-3)


def test_two_seeds_are_shown_as_they_are() -> None:
    found = t_interval([40.0, 42.0])
    assert found.high == pytest.approx(41 + 12.7062 * np.sqrt(2) / np.sqrt(2), abs=1e-3)


def test_one_seed_has_an_interval_over_images() -> None:
    bits = np.zeros(50_000, bool)
    bits[:37_500] = True
    found = image_interval(bits)  # ± 1.96 x 0.19 points at p = .75, n = 50k
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1936, abs=1e-2)  # type: ignore[operator]
    one = interval(Sample(np.array([75.0]), bits[None]))
    assert (one.n, one.over) == (1, "images")
    assert interval(Sample(np.array([75.0]))).over == "none"
    ten = image_interval(np.array([True] * 8 + [False] * 2))  # Wilson's own example: 8 of 10
    assert (ten.low, ten.high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))


def test_mcnemar_known() -> None:
    a = np.array([1] * 59 + [1] * 6 + [0] * 16 + [0] * 80, bool)
    b = np.array([1] * 59 + [0] * 6 + [1] * 16 + [0] * 80, bool)
    assert mcnemar(a, b) == pytest.approx(0.052479, abs=1e-5)  # 2 P(X <= 6), X ~ Bin(22, 1/2)
    assert mcnemar(a, a) == 1.0


def test_holm_known() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # textbook example
    assert holm([]) == []
    p = list(np.random.default_rng(0).random(30) ** 3)
    assert holm(p) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]))


def test_welch_where_there_are_no_bits() -> None:
    a, b = Sample(np.array([3.0, 4.0, 5.0, 6.0])), Sample(np.array([1.0, 2.0, 2.0]))
    found = compare(a, b)
    assert found.p == pytest.approx(stats.ttest_ind(a.values, b.values, equal_var=False).pvalue)
    assert found.how == "seeds"


def test_image_variance_of_a_two_way_layout() -> None:
    """Images alone: with one bit pattern per method and no spread of seeds the paired variance over images is left."""
    rng = np.random.default_rng(0)
    x, y = rng.random(400) < 0.6, rng.random(400) < 0.5
    a, b = (Sample(np.full(3, 100 * v.mean()), np.tile(v, (3, 1))) for v in (x, y))
    d = 100 * (x.astype(float) - y)
    found = compare(a, b)
    half = stats.t.ppf(0.975, 4) * d.std(ddof=1) / 20
    assert found.high == pytest.approx(d.mean() + half)
    assert found.how == "seeds and images"


def test_what_methods_share_of_their_variance() -> None:
    rng = np.random.default_rng(0)
    variances = 2.0 * 8 / rng.chisquare(8, 3000)  # scaled inverse chi-square: 8 degrees of freedom, scale 2
    drawn = [Sample(rng.normal(50, np.sqrt(v), 4)) for v in variances]
    found = share(drawn)
    assert found is not None
    assert (found.variance, found.freedom) == (pytest.approx(2, rel=0.1), pytest.approx(8, rel=0.2))
    alike = [Sample(np.array([x - 1, x, x + 1.0])) for x in range(5)]
    assert share(alike) == Shared(1.0, 10.0, 10.0)
    assert share(alike[:3]) is None
    assert share([Sample(np.array([50.0, 50.0]))] * 9) is None


def test_others_raise_a_lucky_variance_and_never_excuse_an_unsteady_method() -> None:
    known = Shared(1.0, 6.0, 40.0)
    lucky, steady = Sample(np.array([40.0, 40.01, 40.02])), Sample(np.array([42.0, 43.0, 44.0]))
    wild = Sample(np.array([30.0, 40.0, 50.0]))
    assert compare(lucky, wild, shared=known).p == pytest.approx(compare(lucky, wild).p, rel=0.3)  # type: ignore[operator]
    found = compare(lucky, steady, shared=known)
    half = stats.t.ppf(0.975, 16) * np.sqrt((6 / 8 + 1) / 3)  # variances 6/8 and 1, 8 degrees of freedom each
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)  # type: ignore[operator]


def _samples(rng: np.random.Generator, levels: dict[str, float], seeds: int) -> dict[str, Sample]:
    difficulty = rng.standard_normal(500)
    return {name: simulate.draw(rng, level, 0.5, seeds, difficulty) for name, level in levels.items()}


def test_best_and_tied() -> None:
    rng = np.random.default_rng(1)
    samples = _samples(rng, {"a": 70, "b": 70, "c": 30}, 5)
    best, tied, pairs = best_and_tied(samples)
    assert best in ("a", "b")
    assert tied == {"a", "b"}
    assert all(c.p_holm is not None and c.p is not None and c.p_holm >= c.p for c in pairs.values())
    assert best_and_tied(samples, higher=False)[0] == "c"


def test_one_seed_never_ranks() -> None:
    samples = _samples(np.random.default_rng(2), {"a": 70, "b": 30, "c": 20}, 1)
    best, tied, pairs = best_and_tied(samples)
    assert (best, tied) == (None, set())
    assert all(c.how.startswith("McNemar") and c.p_holm is None and c.p is not None for c in pairs.values())
    mixed = {**_samples(np.random.default_rng(3), {"x": 40, "y": 20}, 3), "single": samples["a"]}
    best, tied, _ = best_and_tied(mixed)
    assert best == "x"
    assert "single" not in tied


def test_a_reference_without_randomness_is_compared() -> None:
    samples = _samples(np.random.default_rng(4), {"a": 70}, 3)
    bits = np.random.default_rng(5).random((1, 500)) < 0.4
    pixels = Sample(100 * bits.mean(axis=1), bits, fixed=True)
    found = compare_with(samples, {"pixels": pixels})["a", "pixels"]
    assert found.ranks
    assert found.p_holm is not None
    assert found.p_holm < 0.05


def test_bootstrap_agrees_with_the_t_test_for_many_seeds() -> None:
    samples = _samples(np.random.default_rng(6), {"a": 52, "b": 48}, 40)
    t, boot = compare(samples["a"], samples["b"]), hierarchical_bootstrap(samples["a"], samples["b"], draws=2000)
    assert boot.low == pytest.approx(t.low, abs=0.6)
    assert boot.high == pytest.approx(t.high, abs=0.6)


def test_false_positive_rate_and_power_small() -> None:
    """The full simulation is `python -m results.simulate`; this one catches a broken variance."""
    assert simulate.rates(0, 0.5, 3, 150, bootstrap=False)["table"] <= 0.06
    assert simulate.rates(5, 0.5, 3, 60, bootstrap=False)["table"] >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [2, 3])
def test_false_positive_rate(seeds: int, spread: float) -> None:
    rate = simulate.rates(0, spread, seeds, 1000, bootstrap=False)["table"]
    assert rate <= 0.05
