"""Masks made for patches of images, on the grid of any kind of item: the same places at all times, groups at random.

A grid of rows and columns (images, spectrograms) gets its blocks. In clips, blocks of a frame last the whole clip, so
that no hidden place is seen a moment later. Groups of points have no rows: of them as many are hidden, at random, as
Point2Vec and Point-MAE do. Shapes as in masks.py.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ssl_bench.rng import Rng
from ssl_bench.views.masks import Grid, Pair, beit_blocks, inverse_block, random_keep
from ssl_bench.views.masks3d import through_time


def inverse(rng: Rng, grid: Grid, ratio: float, block: int, adjust: float, count: int) -> Pair:
    """What data2vec 2.0 keeps (`inverse_block`), `count` times: keep [B, M, K] and mask [B, M, N].

    Of groups a random share, which has no blocks.
    """
    draw = partial(inverse_block, rng, grid[-2:], ratio, block, adjust)
    if len(grid) == 1:
        if block or adjust:
            raise ValueError(f"Groups of points have no blocks to keep: set block={block} and adjust={adjust:g} to 0.")
        draw = partial(groups, rng, grid[0], ratio)
    keep, mask = (torch.stack(part, 1) for part in zip(*(draw() for _ in range(count)), strict=True))
    return through_time(keep, grid), mask.repeat(1, 1, math.prod(grid[:-2]))


def groups(rng: Rng, count: int, ratio: float) -> Pair:
    """keep [B, K] and mask [B, N] of `count` groups, of which int(ratio * count) are hidden (Point2Vec's rounding)."""
    if not 0 < (hidden := int(ratio * count)) < count:
        raise ValueError(f"A mask ratio of {ratio} hides {hidden} of {count} groups: some must stay, some must go.")
    return random_keep(rng, count, (hidden - 0.5) / count)


def kept(grid: Grid, ratio: float) -> int:
    """How many tokens of each item `inverse` keeps."""
    if len(grid) == 1:
        return grid[0] - int(ratio * grid[0])
    return math.prod(grid[:-2]) * int(math.prod(grid[-2:]) * (1 - ratio))


def blockwise(rng: Rng, grid: Grid, ratio: Tensor | float, least: int, exact: bool = False) -> Tensor:
    """What BEiT, iBOT and data2vec 1.0 hide (`beit_blocks`, of at least `least` patches): mask [B, N].

    `ratio` is one number, or one for each local item [B].
    """
    if len(grid) == 1:
        share = torch.as_tensor(ratio, dtype=torch.float32, device=rng.device).expand(rng.local)
        return rng.rand(grid[0]).argsort(1).argsort(1) < (share * grid[0] + 1e-3).floor().long()[:, None]
    return beit_blocks(rng, grid[-2:], ratio, least, exact=exact).repeat(1, math.prod(grid[:-2]))


def blocks(rng: Rng, grid: Grid, ratio: float, count: int) -> Tensor:
    """data2vec 1.0's masks [B, M, N], `count` of the exact share: blocks of a twelfth or more (BEiT: 16 of 196)."""
    least = max(1, math.prod(grid[-2:]) // 12)
    return torch.stack([blockwise(rng, grid, ratio, least, exact=True) for _ in range(count)], 1)
