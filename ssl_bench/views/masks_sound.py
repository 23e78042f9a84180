"""Mask samplers made for spectrograms: random complements; blocks whose bands and times leave the context too.

Shapes as in masks.py: B local sounds, N = F * T patches (frequency down, time across), indices in raster order.
"""

from __future__ import annotations

from ssl_bench.rng import Rng
from ssl_bench.views.masks import Grid, Pair, Range


def complement(rng: Rng, grid: Grid, ratio: Range = (0.4, 0.6)) -> Pair:
    """Audio-JEPA's random masks: context [B, n] and all the rest as one target [B, 1, N - n].

    One share of targets for the whole batch, uniform in `ratio`: n = int(N (1 - share)) (its random_block.py).
    """
    count = grid[0] * grid[1]
    low, high = ratio
    keep = int(count * (1 - (low + (high - low) * float(rng.shared(1)))))
    if not 0 < keep < count:
        raise ValueError(f"Random complements of {ratio} leave {keep} of {count} patches to the context.")
    order = rng.rand(count).argsort(1)
    return order[:, :keep].sort(1).values, order[:, keep:].sort(1).values[:, None]
