"""How often are two methods called different that are equal, and how often when they are not?

python -m results.simulate [simulations] [seeds]

Two synthetic methods, a fresh test set of 999 images in every simulation, true difference 0, 1 and 5 points, and
pretraining seeds that move the accuracy by 0, 0.5, 1 or 3 points (standard deviation). Images differ in difficulty and
each method has its own taste, so that the choice of test images matters too.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats
from scipy.special import ndtr

from results.statistics import Comparison, Sample, best_and_tied, compare, hierarchical_bootstrap

IMAGES = 999
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


def rates(truth: float, spread: float, seeds: int, simulations: int, bootstrap: bool = True) -> dict[str, float]:
    """Share of simulations in which each procedure calls the two methods different."""
    calls: dict[str, list[bool]] = {}
    for i in range(simulations):
        rng = np.random.default_rng([int(10 * truth), int(10 * spread), seeds, i])
        difficulty = DIFFICULTY * rng.standard_normal(IMAGES)
        a, b = (draw(rng, m, spread, seeds, difficulty) for m in (45 + truth, 45.0))
        found: dict[str, Comparison] = {
            "table": compare(a, b),
            "seeds only": compare(Sample(a.values), Sample(b.values)),
        }
        if bootstrap:
            found["bootstrap"] = hierarchical_bootstrap(a, b, draws=1000, seed=i)
        for name, c in found.items():
            calls.setdefault(name, []).append(c.p is not None and c.p <= 0.05)
    return {name: float(np.mean(c)) for name, c in calls.items()}


def false_ties(methods: int, spread: float, seeds: int, simulations: int) -> float:
    """Share of simulations in which any of several equal methods is left out of the tie with the best."""
    wrong = 0
    for i in range(simulations):
        rng = np.random.default_rng([methods, int(10 * spread), seeds, i])
        difficulty = DIFFICULTY * rng.standard_normal(IMAGES)
        samples = {str(m): draw(rng, 45, spread, seeds, difficulty) for m in range(methods)}
        wrong += len(best_and_tied(samples)[1]) < methods
    return wrong / simulations


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for seeds in [int(s) for s in sys.argv[2:]] or [3]:
        print(f"{seeds} seeds, {simulations} simulations: how often two methods are called different")
        for truth in (0.0, 1.0, 5.0):
            for spread in (0.0, 0.5, 1.0, 3.0):
                found = "  ".join(f"{k} {100 * v:5.1f} %" for k, v in rates(truth, spread, seeds, simulations).items())
                print(f"  true difference {truth:g}, seed spread {spread:g}:  {found}", flush=True)
        for spread in (0.5, 1.0, 3.0):
            share = 100 * false_ties(6, spread, seeds, simulations)
            print(f"  six equal methods, seed spread {spread:g}: {share:.1f} % leave one out of the tie", flush=True)


if __name__ == "__main__":
    main()
