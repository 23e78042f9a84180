"""Mask samplers made for spectrograms: random complements; blocks whose bands and times leave the context too.

Shapes as in masks.py: B local sounds, N = F * T patches (frequency down, time across), indices in raster order.
"""

from __future__ import annotations

import torch

from ssl_bench.rng import Rng
from ssl_bench.views.masks import Grid, Pair, Range, multiblock


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


def time_frequency(
    rng: Rng, grid: Grid, targets: int = 3, target_scale: Range = (0.05, 0.075), target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0), removes: str = "both", extent: float = 1.0,
) -> Pair:  # fmt: skip
    """Blocks as in `multiblock`, whose bands and times leave the context too: context [B, n], targets [B, T, m].

    `removes`: "bands" (the rows of every target block), "times" (its columns) or "both"; `extent`: of the first so many
    of them. Where that leaves fewer than min(10, N / 16) patches, those that fewest blocks touch stay; contexts are cut
    to the shortest of the global batch, at random.
    """
    context, blocks = multiblock(rng.whole, grid, targets, target_scale, target_aspect, context_scale)
    places = torch.arange(grid[0] * grid[1], device=rng.device)
    hits = torch.zeros(len(blocks), len(places), device=rng.device)
    for axis, of in (("bands", lambda x: x // grid[1]), ("times", lambda x: x % grid[1])):
        if removes not in (axis, "both"):
            continue
        low, high = of(blocks).amin(2, keepdim=True), of(blocks).amax(2, keepdim=True)  # [B, T, 1]
        reach = low + ((high - low + 1) * extent).ceil()
        hits += ((of(places) >= low) & (of(places) < reach)).sum(1)
    hits = hits.gather(1, context)
    need = max(1, min(10, len(places) // 16, context.shape[1]))
    count = max(need, int((hits == 0).sum(1).min()))
    order = (hits + rng.whole.rand(context.shape[1])).argsort(1)[:, :count]
    return context.gather(1, order).sort(1).values[rng.rows], blocks[rng.rows]
