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
    candidates,
    compare,
    compare_all,
    compare_with,
    holm,
    image_interval,
    interval,
    mcnemar,
    share,
)


def test_interval_over_seeds_known() -> None:
    found = interval(Sample(np.array([70.0, 71.0, 72.0])))  # s = 1, 4.3027 / sqrt(3) = 2.4841 (protocols.md section 4)
    assert (found.mean, found.n, found.over) == (71.0, 3, "seeds")
    assert found.low == pytest.approx(71 - 2.4841, abs=1e-4)
    assert found.high == pytest.approx(71 + 2.4841, abs=1e-4)
    two = interval(Sample(np.array([40.0, 42.0])))
    assert two.high == pytest.approx(41 + 12.7062 * np.sqrt(2) / np.sqrt(2), abs=1e-3)


def test_interval_over_seeds_and_images_known() -> None:
    """Three equal runs: the seeds say nothing, and what is left is the interval of 999 images."""
    bits = np.arange(999) < 456
    found = interval(Sample(np.full(3, 100 * bits.mean()), np.tile(bits, (3, 1))))
    p = bits.mean()
    assert found.over == "seeds and images"
    assert found.high - found.mean == pytest.approx(1.9623 * 100 * np.sqrt(p * (1 - p) / 998), abs=1e-3)  # type: ignore[operator]
    wide = interval(Sample(np.array([44.0, 45.0, 46.0]), np.tile(bits, (3, 1))))
    seeds, images = 2.4841, found.high - found.mean  # type: ignore[operator]
    assert wide.high - wide.mean == pytest.approx(np.hypot(seeds, images), abs=1e-3)  # type: ignore[operator]


def test_what_is_printed_is_what_is_decided() -> None:
    """The interval of a difference reaches zero exactly where p crosses its level."""
    samples = _samples(np.random.default_rng(8), {"a": 50, "b": 46}, 3)
    found = compare(samples["a"], samples["b"])
    assert found.p is not None
    edge = compare(samples["a"], samples["b"], level=1 - found.p)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


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
    half = stats.t.ppf(0.975, 399) * d.std(ddof=1) / 20
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
    assert interval(wild, known) == interval(wild)
    found = compare(lucky, steady, shared=known)
    half = stats.t.ppf(0.975, 16) * np.sqrt((6 / 8 + 1) / 3)  # variances 6/8 and 1, 8 degrees of freedom each
    assert found.high - found.low == pytest.approx(2 * half, rel=0.03)  # type: ignore[operator]
    alone = interval(lucky, known)
    assert alone.high - alone.mean == pytest.approx(stats.t.ppf(0.975, 8) * np.sqrt(6 / 8 / 3), rel=0.01)  # type: ignore[operator]


def test_what_two_rows_borrow_counts_once() -> None:
    """Four alike rows of two seeds: one variance with four degrees of freedom, not eight, also for a difference."""
    rows = [Sample(np.array([x - 1, x + 1.0])) for x in (40, 42, 44, 46)]
    shared = share(rows)
    assert shared is not None and shared.total == 4
    found = compare(rows[0], rows[1], shared=shared)
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(2 * 2 / 2))  # type: ignore[operator]


def _samples(rng: np.random.Generator, levels: dict[str, float], seeds: int) -> dict[str, Sample]:
    difficulty = rng.standard_normal(500)
    return {name: simulate.draw(rng, level, 0.5, seeds, difficulty) for name, level in levels.items()}


def test_candidates() -> None:
    rng = np.random.default_rng(1)
    samples = _samples(rng, {"a": 70, "b": 70, "c": 30}, 5)
    pairs = compare_all(samples)
    best, leading = candidates(samples, pairs)
    assert best in ("a", "b")
    assert leading == {"a", "b"}
    assert all(c.p_holm is not None and c.p is not None and c.p_holm >= c.p for c in pairs.values())
    assert candidates(samples, pairs, higher=False) == ("c", {"c"})


def test_a_method_is_out_at_five_per_cent_one_sided_over_the_others() -> None:
    """Welch on three seeds: two others, so that the two-sided p of the pair is held against .05."""
    for gap, out in ((2.0, False), (3.0, True)):  # p .070 and .021
        values = {"a": 50.0 + gap, "b": 50.0, "c": 0.0}
        samples = {name: Sample(np.array([v - 1, v, v + 1])) for name, v in values.items()}
        assert ("b" not in candidates(samples, compare_all(samples))[1]) is out


def test_one_seed_never_ranks() -> None:
    samples = _samples(np.random.default_rng(2), {"a": 70, "b": 30, "c": 20}, 1)
    pairs = compare_all(samples)
    assert candidates(samples, pairs) == (None, set())
    assert all(c.how.startswith("McNemar") and c.p_holm is None and c.p is not None for c in pairs.values())
    mixed = {**_samples(np.random.default_rng(3), {"x": 40, "y": 20}, 3), "single": samples["a"]}
    best, leading = candidates(mixed, compare_all(mixed))
    assert best == "x"
    assert "single" not in leading


def test_a_reference_without_randomness_is_compared() -> None:
    samples = _samples(np.random.default_rng(4), {"a": 70}, 3)
    bits = np.random.default_rng(5).random((1, 500)) < 0.4
    pixels = Sample(100 * bits.mean(axis=1), bits, fixed=True)
    found = compare_with(samples, pixels)["a"]
    assert found.ranks
    assert found.p_holm is not None
    assert found.p_holm < 0.05


def test_levels_and_coverage_small() -> None:
    """The full simulation is `python -m results.simulate`; this one catches a broken variance."""
    assert simulate.rates(0, 0.5, 3, 150) <= 0.06
    assert simulate.rates(5, 0.5, 3, 60) >= 0.7
    learned = simulate.columns([40.0] * 3, [0.5] * 3, 3, 60)
    assert learned["false bold"] <= 10 and learned["covered"] >= 90
    apart = simulate.columns([52.0, 40.0, 45.0], [0.5] * 3, 3, 40)
    assert apart["lost"] <= 5 and apart["best bold"] >= 90 and apart["others bold"] <= 20


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("methods", [3, 22])
def test_levels_and_coverage(methods: int, seeds: int) -> None:
    count = 300 if methods == 3 else 60
    for name, (levels, spreads) in simulate.settings(methods).items():
        found = simulate.columns(levels, spreads, seeds, count)
        error = 250 * (0.05 * 0.95 / count) ** 0.5  # two and a half standard errors, in percent
        assert max(found["lost"], found["false bold"]) <= 5 + error, name
        assert found["covered"] >= 94 - error / methods**0.5, name
