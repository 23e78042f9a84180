"""How often do the marks and intervals of a table err, and how much do they see?

python -m results.simulate [simulations] [seeds ...]

Synthetic methods on a fresh test set of 999 images in every simulation. Images differ in difficulty and each method has
its own taste, so that the choice of test images matters; pretraining seeds move the accuracy by 0 to 3 points (standard
deviation), in "one unsteady" those of the last method by 3 and of the others by 0.5. Every column has an untrained
network at 40 %, of which the first method is one more, unless all are equal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.special import ndtr

from results.statistics import Sample, candidates, compare, compare_all, compare_with, interval, share

IMAGES = 999
FLOOR = 40.0  # accuracy of the untrained network
DIFFICULTY, TASTE = 1.2, 0.4  # standard deviations on the probit scale: of an image, of a method's view of an image


def draw(rng: np.random.Generator, accuracy: float, spread: float, seeds: int, difficulty: np.ndarray) -> Sample:
    """A method whose expected accuracy over images and seeds is `accuracy` percent."""
    slope = stats.norm.pdf(stats.norm.ppf(accuracy / 100)) * 100  # points per unit of the standardised probit
    shift = spread / slope
    scale = np.sqrt(1 + DIFFICULTY**2 + TASTE**2)
    taste = TASTE * rng.standard_normal(len(difficulty))
    level = stats.norm.ppf(accuracy / 100) * np.sqrt(1 + shift**2) + shift * rng.standard_normal((seeds, 1))
    bits = rng.random((seeds, len(difficulty))) < ndtr(level * scale + difficulty + taste)
    return Sample(100 * bits.mean(axis=1), bits)


def rates(truth: float, spread: float, seeds: int, simulations: int) -> float:
    """Share of simulations in which two methods are called different, nothing else being known."""
    calls = []
    for i in range(simulations):
        rng = np.random.default_rng([int(10 * truth), int(10 * spread), seeds, i])
        difficulty = DIFFICULTY * rng.standard_normal(IMAGES)
        a, b = (draw(rng, m, spread, seeds, difficulty) for m in (45 + truth, 45.0))
        c = compare(a, b)
        calls.append(c.p is not None and c.p <= 0.05)
    return float(np.mean(calls))


def columns(levels: Sequence[float], spreads: Sequence[float], seeds: int, simulations: int) -> dict[str, float]:
    """Of tables with one column, in percent: "lost": the best method is not among those that may be the best; "false
    bold": a method that is not above the untrained network is bold; "best bold" and "others bold": the best method is,
    and the share of the others; "covered": intervals that hold the true accuracy; "half": their half-width in points.
    """
    out: dict[str, list[float]] = {}
    for i in range(simulations):
        rng = np.random.default_rng([len(levels), int(10 * max(levels)), int(10 * spreads[0]), seeds, i])
        difficulty = DIFFICULTY * rng.standard_normal(IMAGES)
        random = draw(rng, FLOOR, min(spreads), seeds, difficulty)
        methods = {
            f"{m:02}": draw(rng, x, s, seeds, difficulty) for m, (x, s) in enumerate(zip(levels, spreads, strict=True))
        }
        shared = share([*methods.values(), random])
        against = compare_with(methods, random, shared)
        _, leading = candidates(methods, compare_all(methods, shared))
        above = {m for m, c in against.items() if (c.p_holm or 1) <= 0.05 and c.difference > 0}
        bold, best = leading & above, max(methods, key=lambda m: levels[int(m)])
        nothing = {m for m in methods if levels[int(m)] <= FLOOR}
        found = [interval(s, shared) for s in methods.values()]
        halves = [f.high - f.mean for f in found if f.high is not None]
        inside = [abs(f.mean - x) <= h for f, x, h in zip(found, levels, halves, strict=True)]
        seen: dict[str, float] = {
            "lost": best not in leading,
            "false bold": bool(bold & nothing),
            "best bold": best in bold,
        }
        seen |= {"others bold": len(bold - {best}) / (len(levels) - 1), "covered": float(np.mean(inside))}
        for name, value in seen.items():
            out.setdefault(name, []).append(100 * float(value))
        out.setdefault("half", []).append(float(np.median(halves)))
    return {name: float(np.mean(v)) for name, v in out.items()}


def settings(methods: int) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> accuracies and seed spreads of the methods of a column."""
    level = {"none learned": [FLOOR] * methods, "all equal": [45.0] * methods}
    level["best by 5"] = [50.0, FLOOR, *[45.0] * (methods - 2)]
    out = {f"{n}, spread {s:g}": (x, [s] * methods) for n, x in level.items() for s in (0.5, 1.0, 3.0)}
    return out | {f"{n}, one unsteady": (x, [0.5] * (methods - 1) + [3.0]) for n, x in level.items()}


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for seeds in [int(s) for s in sys.argv[2:]] or [2, 3, 5]:
        print(f"{seeds} seeds, {simulations} simulations: how often two methods are called different")
        for truth in (0.0, 5.0):
            for spread in (0.0, 0.5, 1.0, 3.0):
                called = 100 * rates(truth, spread, seeds, simulations)
                print(f"  true difference {truth:g}, seed spread {spread:g}: {called:5.1f} %", flush=True)
        for methods in (3, 22):
            print(f"{seeds} seeds, a column of {methods} methods and an untrained network, %")
            for name, (levels, spreads) in settings(methods).items():
                found = "  ".join(f"{k} {v:4.1f}" for k, v in columns(levels, spreads, seeds, simulations).items())
                print(f"  {name:28} {found}", flush=True)


if __name__ == "__main__":
    main()
