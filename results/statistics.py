"""Statistics on one column of a table: intervals, and which methods can be told apart.

Two things vary: the pretraining seed and the test images. A percentile bootstrap over three seeds sees too little of
the first and calls equal methods different far too often (`results/simulate.py` measures it), so decisions are made by
`compare`: a t-test on the difference of means whose variance adds the seeds and the images, as in the two-way
random-effects analyses of reader studies (readers = seeds, cases = images; Obuchowski & Rockette 1995, Hillis 2007).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special, stats
from statsmodels.stats import contingency_tables, proportion

LEVEL = 0.95
FEW = 4  # methods with several seeds, below which nothing is said of what they share


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; `over` says what was resampled in thought: seeds, images or nothing."""

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str  # "seeds", "images" or "none"


@dataclass(frozen=True)
class Sample:
    """What one method scored: `values` [seeds] in points, `bits` [seeds, images] in 0..1 or None.

    `fixed`: no randomness of training exists (raw pixels), so that one value is all there is.
    """

    values: np.ndarray
    bits: np.ndarray | None = None
    fixed: bool = False

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Comparison:
    """The difference of two means (first minus second) with its 95 % interval and two-sided p."""

    difference: float
    low: float | None
    high: float | None
    p: float | None  # None: nothing can be said
    how: str  # "seeds and images", "seeds", "McNemar: two runs, not two methods", "none"
    p_holm: float | None = None

    @property
    def ranks(self) -> bool:
        """Whether it speaks about methods: one seed never does."""
        return self.how.startswith("seeds")


@dataclass(frozen=True)
class Shared:
    """What all methods of a column together say of the variance between seeds; it counts as `freedom` more seeds."""

    variance: float
    freedom: float
    total: float  # degrees of freedom of all methods' seeds: nobody has more


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """Mean and t-interval over seeds. With two seeds it is mean ± 12.7 s/√2, and that is what two seeds tell."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, None, None, len(x), "none")
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x), "seeds")


def image_interval(bits: np.ndarray, level: float = LEVEL) -> Interval:
    """Wilson's interval over test images for one seed, in percent. It says nothing about another seed."""
    right, count = float(bits.sum()), bits.size
    low, high = proportion.proportion_confint(right, count, alpha=1 - level, method="wilson")
    return Interval(100 * right / count, 100 * float(low), 100 * float(high), 1, "images")


def interval(sample: Sample) -> Interval:
    """Over seeds where there are several, else over test images, else none."""
    if sample.n > 1:
        return t_interval(sample.values)
    if sample.bits is not None:
        images = image_interval(sample.bits[0])
        return Interval(float(sample.values[0]), images.low, images.high, 1, "images")
    return t_interval(sample.values)


def share(samples: Iterable[Sample]) -> Shared | None:
    """The variance between seeds that the methods have in common, and how much they have it in common.

    Two or three seeds know next to nothing of their own variance: of 22 methods with three seeds each, 12 points apart,
    Holm's correction over 231 pairs left 20 tied with the best. Empirical Bayes (Smyth 2004, section 6.2): variances
    are draws from a scaled inverse chi-square, whose scale and degrees of freedom are fitted to their logarithms. Where
    methods differ much in their variance, the freedom goes to zero and each stands for itself. None with fewer than
    `FEW` methods.
    """
    able = [s for s in samples if s.n > 1]
    d = np.array([s.n - 1 for s in able], dtype=float)
    v = np.array([s.values.var(ddof=1) for s in able])
    if len(able) < FEW or not np.median(v) > 0:
        return None
    e = np.log(np.maximum(v, 1e-5 * np.median(v))) - special.digamma(d / 2) + np.log(d / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, d / 2).mean())
    if excess <= special.polygamma(1, d.sum() / 2):  # as alike as chance makes them: one variance for all
        return Shared(float((d * v).sum() / d.sum()), float(d.sum()), float(d.sum()))
    half = optimize.brentq(lambda x: float(special.polygamma(1, x)) - excess, 1e-6, 1e6)
    return Shared(float(np.exp(e.mean() + special.digamma(half) - np.log(half))), 2 * half, float(d.sum()))


def compare(a: Sample, b: Sample, level: float = LEVEL, shared: Shared | None = None) -> Comparison:
    """Can the two methods be told apart? Seeds and images both count where both are known.

    `shared`: what is known of the variance between seeds from other methods.
    """
    difference = float(a.values.mean() - b.values.mean())
    single = [s for s in (a, b) if s.n < 2 and not s.fixed]
    bits = a.bits is not None and b.bits is not None and a.bits.shape[1] == b.bits.shape[1]
    if single or (a.fixed and b.fixed):
        if not (bits and a.n == b.n == 1):
            return Comparison(difference, None, None, None, "none")
        assert a.bits is not None
        assert b.bits is not None
        return Comparison(difference, None, None, mcnemar(a.bits[0], b.bits[0]), "McNemar: two runs, not two methods")
    variance, freedom = _seed_variance(a, b, shared)
    if bits:
        images, image_freedom = _image_variance(a, b)
        total = variance + images
        # Not above that of the seeds: a lucky draw of two close seeds must not count as certainty (2 seeds: 7 % false).
        cap: float = sum(x.n - 1 for x in (a, b) if not x.fixed)
        cap = min(cap + shared.freedom, shared.total) if shared else cap
        freedom = min(_satterthwaite([(variance, freedom), (images, image_freedom)]), cap)
    else:
        total = variance
    if total <= 0:
        return Comparison(difference, None, None, 1.0 if difference == 0 else None, "none")
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total))
    p = float(2 * stats.t.sf(abs(difference) / np.sqrt(total), freedom))
    return Comparison(difference, difference - half, difference + half, p, "seeds and images" if bits else "seeds")


def _seed_variance(a: Sample, b: Sample, shared: Shared | None) -> tuple[float, float]:
    """Variance of the difference due to seeds, and Welch's degrees of freedom."""
    parts = [_variance_of_mean(s, shared) for s in (a, b) if not s.fixed]
    freedom = _satterthwaite(parts)
    return sum(v for v, _ in parts), min(freedom, shared.total) if shared else freedom


def _variance_of_mean(s: Sample, shared: Shared | None) -> tuple[float, float]:
    own, freedom = float(s.values.var(ddof=1)), float(s.n - 1)
    if shared is None:
        return own / s.n, freedom
    both = (freedom * own + shared.freedom * shared.variance) / (freedom + shared.freedom)
    # Others may raise a lucky variance, and lend their seeds to it; they never excuse an unsteady method.
    if own > both:
        return own / s.n, freedom
    return both / s.n, min(freedom + shared.freedom, shared.total)


def _image_variance(a: Sample, b: Sample) -> tuple[float, float]:
    """Variance of the difference due to the choice of test images, without the part the seeds already show."""
    assert a.bits is not None
    assert b.bits is not None
    images = a.bits.shape[1]
    per_image = 100 * (a.bits.mean(axis=0) - b.bits.mean(axis=0))
    variance = float(per_image.var(ddof=1)) / images
    for s in (a, b):
        if s.n > 1 and s.bits is not None:
            x = 100 * s.bits.astype(float)
            rest = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
            variance -= float((rest**2).sum()) / ((s.n - 1) * (images - 1)) / (s.n * images)
    return max(variance, 0.0), images - 1


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    total = sum(v for v, _ in parts)
    return total**2 / sum(v**2 / f for v, f in parts if v > 0) if total > 0 else min(f for _, f in parts)


def hierarchical_bootstrap(a: Sample, b: Sample, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Percentile bootstrap of the difference: seeds are drawn again per method, then images, the same for both.

    Asked for by habit and shown beside `compare`; too narrow for few seeds (3 of them: see `results/simulate.py`).
    """
    if a.bits is None or b.bits is None:
        raise ValueError("the hierarchical bootstrap needs correctness bits")
    rng = np.random.default_rng(seed)
    images = a.bits.shape[1]
    means = [np.empty(draws), np.empty(draws)]
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=size) * (100 / images)
        for out, s in zip(means, (a, b), strict=True):
            assert s.bits is not None
            scores = weights @ s.bits.T.astype(float)  # [draws, seeds]
            picked = rng.integers(s.n, size=(size, s.n))
            out[start : start + size] = np.take_along_axis(scores, picked, axis=1).mean(axis=1)
    differences = means[0] - means[1]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min((differences <= 0).mean(), (differences >= 0).mean())
    p = min(1.0, 2 * max(float(tail), 1 / draws))
    mean = float(a.values.mean() - b.values.mean())
    return Comparison(mean, float(low), float(high), p, "hierarchical bootstrap")


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test on the correctness of two single runs on the same images."""
    a, b = a >= 0.5, b >= 0.5  # several probe seeds: the majority
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(contingency_tables.mcnemar(table, exact=True).pvalue)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction. (statsmodels has it too, with a full garbage collection in every call: 0.1 s.)"""
    p = np.asarray(pvalues, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    out = np.empty(len(p))
    out[order] = stepped
    return [float(x) for x in out]


def compare_all(samples: Mapping[str, Sample]) -> dict[tuple[str, str], Comparison]:
    """All pairs. Holm runs over every pair that speaks about methods: the best is chosen by the data, so the pairs
    without it count too.
    """
    return _compared(itertools.combinations(sorted(samples), 2), samples)


def compare_with(samples: Mapping[str, Sample], baselines: Mapping[str, Sample]) -> dict[tuple[str, str], Comparison]:
    """Every method with every baseline, Holm over all of them."""
    return _compared(itertools.product(sorted(samples), sorted(baselines)), {**samples, **baselines})


def _compared(pairs: Iterable[tuple[str, str]], samples: Mapping[str, Sample]) -> dict[tuple[str, str], Comparison]:
    shared = share(samples.values())
    return _corrected({(i, j): compare(samples[i], samples[j], shared=shared) for i, j in pairs})


def _corrected(found: dict[tuple[str, str], Comparison]) -> dict[tuple[str, str], Comparison]:
    family = {key: c.p for key, c in found.items() if c.ranks and c.p is not None}
    corrected = dict(zip(family, holm(list(family.values())), strict=True))
    return {key: replace(c, p_holm=corrected.get(key)) for key, c in found.items()}


def best_and_tied(
    samples: Mapping[str, Sample], higher: bool = True, alpha: float = 1 - LEVEL
) -> tuple[str | None, set[str], dict[tuple[str, str], Comparison]]:
    """The best method, those that cannot be told from it (it included), and all comparisons.

    Methods with one seed are left out: they neither lead nor tie. With fewer than two others there is no ranking.
    """
    pairs = compare_all(samples)
    able = {name: s for name, s in samples.items() if s.n > 1}
    if len(able) < 2:
        return None, set(), pairs
    best = sorted(able, key=lambda m: (-able[m].values.mean() if higher else able[m].values.mean(), m))[0]
    tied = {best}
    for name in able:
        if name != best:
            p = pairs[(best, name) if best < name else (name, best)].p_holm
            if p is None or p > alpha:
                tied.add(name)
    return best, tied, pairs
