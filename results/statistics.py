"""Statistics on one column of a table: intervals, and which methods can be told apart.

Two things vary: the pretraining seed and the test images. Each gives a half-width of its own, and the squares of the
two add up to that of the whole (Zou & Donner 2008, "MOVER"), for one method as for the difference of two, whose images
are the same. A t-interval over both at once takes two close seeds for certainty; a percentile bootstrap over three
seeds sees too little of them. `results/simulate.py` measures levels, coverage and power.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import optimize, special, stats
from statsmodels.stats import contingency_tables, proportion

LEVEL = 0.95
FEW = 4  # rows with several seeds, below which nothing is said of what they share
K = TypeVar("K")
UNSTEADY = 0.8  # share of methods alike whose variance would be lower: above it a method stands for itself


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str  # what may differ next time: "seeds and images", "seeds", "images" or "none"


@dataclass(frozen=True)
class Sample:
    """What one method scored: `values` [seeds] in points, `bits` [seeds, images] in 0..1 or None.

    `fixed`: no randomness of training exists (raw pixels), so that one value is all there is. `graded`: an image is
    not right or wrong, `bits` are shares. `known`: the interval over images of a single run, where it has no bits.
    """

    values: np.ndarray
    bits: np.ndarray | None = None
    fixed: bool = False
    graded: bool = False
    known: tuple[float, float] | None = None

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
    how: str  # "seeds and images", "seeds", "McNemar: two runs, not two methods", the same by paired t, "none"
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


def image_interval(bits: np.ndarray, level: float = LEVEL) -> Interval:
    """Wilson's interval over test images for one seed, in percent. It says nothing about another seed."""
    right, count = float(bits.sum()), bits.size
    low, high = proportion.proportion_confint(right, count, alpha=1 - level, method="wilson")
    return Interval(100 * right / count, 100 * float(low), 100 * float(high), 1, "images")


def interval(sample: Sample, shared: Shared | None = None) -> Interval:
    """Over seeds and images where there are several seeds and bits, else over what there is of the two."""
    mean = float(sample.values.mean())
    if sample.n == 1:
        if sample.bits is None and sample.known:
            return Interval(mean, *sample.known, 1, "images")
        if sample.graded and sample.bits is not None:
            half = _half([_images(100 * sample.bits[0], [])], 1 - LEVEL)
            return Interval(mean, mean - half, mean + half, 1, "images")
        found = None if sample.bits is None else image_interval(sample.bits[0])
        return replace(found, mean=mean) if found else Interval(mean, None, None, 1, "none")
    parts = [_seeds(sample, shared)]
    if sample.bits is not None:
        parts.append(_images(100 * sample.bits.mean(axis=0), [sample]))
    half = _half(parts, 1 - LEVEL)
    return Interval(mean, mean - half, mean + half, sample.n, "seeds" if sample.bits is None else "seeds and images")


def share(samples: Iterable[Sample]) -> Shared | None:
    """The variance between seeds that the methods have in common, and how much they have it in common.

    Two or three seeds know next to nothing of their own variance: of 22 methods with three seeds each, 12 points apart,
    Holm's correction over 231 pairs left 20 tied with the best. Empirical Bayes (Smyth 2004, section 6.2): variances
    are draws from a scaled inverse chi-square, whose scale and degrees of freedom are fitted to their logarithms. Where
    rows differ much in their variance, the freedom goes to zero and each stands for itself. None with fewer than
    `FEW` of them.
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
        if a.graded:
            return Comparison(difference, None, None, paired(a.bits[0], b.bits[0]), "t: two runs, not two methods")
        return Comparison(difference, None, None, mcnemar(a.bits[0], b.bits[0]), "McNemar: two runs, not two methods")
    parts = [_both_seeds([_seeds(s, shared) for s in (a, b) if not s.fixed], shared)]
    if bits:
        assert a.bits is not None
        assert b.bits is not None
        parts.append(_images(100 * (a.bits.mean(axis=0) - b.bits.mean(axis=0)), (a, b)))
    if sum(variance for variance, _ in parts) <= 0:
        return Comparison(difference, None, None, 1.0 if difference == 0 else None, "none")
    half = _half(parts, 1 - level)
    p = _p(abs(difference), parts)
    return Comparison(difference, difference - half, difference + half, p, "seeds and images" if bits else "seeds")


def _half(parts: Iterable[tuple[float, float]], alpha: float) -> float:
    """Half-width from parts (variance, degrees of freedom): the squares of their own half-widths add up."""
    return float(np.sqrt(sum(v * special.stdtrit(f, alpha / 2) ** 2 for v, f in parts)))


def _p(distance: float, parts: Sequence[tuple[float, float]]) -> float:
    """The level at which the interval of half-width `_half` just reaches zero, 1e-12 at least."""
    if distance >= _half(parts, 1e-12):
        return 1e-12
    return float(np.exp(optimize.brentq(lambda x: _half(parts, np.exp(x)) - distance, np.log(1e-12), 0.0)))


def _seeds(s: Sample, shared: Shared | None) -> tuple[float, float]:
    """Variance of the mean due to seeds, and its degrees of freedom."""
    own, freedom = float(s.values.var(ddof=1)), float(s.n - 1)
    if shared is None:
        return own / s.n, freedom
    # Others lend their seeds to what they may have in common; they never excuse an unsteady method.
    if own > shared.variance * stats.f.ppf(UNSTEADY, freedom, shared.freedom):
        return own / s.n, freedom
    both = (freedom * own + shared.freedom * shared.variance) / (freedom + shared.freedom)
    return both / s.n, min(freedom + shared.freedom, shared.total)


def _both_seeds(parts: Sequence[tuple[float, float]], shared: Shared | None) -> tuple[float, float]:
    """Variance of a difference due to seeds, with Welch's degrees of freedom; what both borrow counts once."""
    total = sum(v for v, _ in parts)
    freedom = total**2 / sum(v**2 / f for v, f in parts if v > 0) if total > 0 else min(f for _, f in parts)
    return total, min(freedom, shared.total) if shared else freedom


def _images(per_image: np.ndarray, samples: Iterable[Sample]) -> tuple[float, float]:
    """Variance of the mean of `per_image` due to the choice of images, without the part the seeds already show."""
    images = len(per_image)
    variance = float(per_image.var(ddof=1)) / images
    for s in samples:
        if s.n > 1 and s.bits is not None:
            x = 100 * s.bits.astype(float)
            rest = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
            variance -= float((rest**2).sum()) / ((s.n - 1) * (images - 1)) / (s.n * images)
    return max(variance, 0.0), images - 1


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test on the correctness of two single runs on the same images."""
    a, b = a >= 0.5, b >= 0.5  # several probe seeds: the majority
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return float(contingency_tables.mcnemar(table, exact=True).pvalue)


def paired(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the paired t-test on what two single runs score on each of the same images."""
    return 1.0 if (a == b).all() else float(stats.ttest_rel(a, b).pvalue)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction. (statsmodels has it too, with a full garbage collection in every call: 0.1 s.)"""
    p = np.asarray(pvalues, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    out = np.empty(len(p))
    out[order] = stepped
    return [float(x) for x in out]


def compare_all(samples: Mapping[str, Sample], shared: Shared | None = None) -> dict[tuple[str, str], Comparison]:
    """All pairs; `p_holm` is corrected over all that speak about methods, for whoever picks a pair by its numbers."""
    pairs = itertools.combinations(sorted(samples), 2)
    return _corrected({(i, j): compare(samples[i], samples[j], shared=shared) for i, j in pairs})


def compare_with(
    samples: Mapping[str, Sample], reference: Sample, shared: Shared | None = None
) -> dict[str, Comparison]:
    """Every method with one reference, Holm over the methods."""
    return _corrected({name: compare(samples[name], reference, shared=shared) for name in sorted(samples)})


def _corrected(found: dict[K, Comparison]) -> dict[K, Comparison]:
    family = {key: c.p for key, c in found.items() if c.ranks and c.p is not None}
    corrected = dict(zip(family, holm(list(family.values())), strict=True))
    return {key: replace(c, p_holm=corrected.get(key)) for key, c in found.items()}


def candidates(
    samples: Mapping[str, Sample], pairs: Mapping[tuple[str, str], Comparison], higher: bool = True
) -> tuple[str | None, set[str]]:
    """The highest mean, and all that may be the best: the true best is among them in 95 % of tables.

    A method is out where another is better in a one-sided test at 5 % over the number of others (Bonferroni; the set
    of Hsu 1981): only the tests of the true best count, so 22 methods are 21 tests and not 231. Methods with one seed
    neither lead nor count; with fewer than two others there is nothing to lead.
    """
    able = sorted(name for name, s in samples.items() if s.n > 1)
    if len(able) < 2:
        return None, set()
    sign = 1 if higher else -1
    best = min(able, key=lambda m: (-sign * samples[m].values.mean(), m))
    beaten = set()
    for (i, j), c in pairs.items():
        if {i, j} <= set(able) and c.p is not None and c.p / 2 <= (1 - LEVEL) / (len(able) - 1):
            beaten.add(j if sign * c.difference > 0 else i)
    return best, set(able) - beaten
