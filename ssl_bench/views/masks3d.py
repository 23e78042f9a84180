"""Batched masks of clips: V-JEPA's multi-block masks through time, VideoMAE's tubes, 2-D masks through all frames.

Shapes: B local clips, N = T * H * W tokens in the order time, row, column. As in masks.py, a clip's mask depends on the
step's seed and on its place in the global batch alone, and impossible settings raise `ValueError` at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_bench.rng import Rng
from ssl_bench.views.masks import ATTEMPTS, Grid, Pair, indices, random_keep

Range = tuple[float, float]
Cut = Literal["first", "spread", "pad"]


@dataclass(frozen=True)
class Blocks:
    """One of V-JEPA's mask configs: so many blocks of one size, the union of which is the target."""

    count: int
    spatial: Range  # share of a frame that a block covers
    temporal: Range = (1.0, 1.0)  # share of the frames that it lasts
    aspect: Range = (0.75, 1.5)  # height / width


SHORT, LONG = Blocks(8, (0.15, 0.15)), Blocks(2, (0.7, 0.7))  # of every released V-JEPA; they differ in space alone


@dataclass(frozen=True)
class Masks:
    """Context [B, n] and targets [B, m], token numbers in order; with `cut="pad"` lists may end in repeats."""

    context: Tensor
    targets: Tensor
    context_real: Tensor  # bool [B, n]: no padding
    targets_real: Tensor  # bool [B, m]


def block_size(grid: Grid, blocks: Blocks, draws: Sequence[float]) -> tuple[int, int, int]:
    """Tubelets, rows, columns of a block from three uniform numbers: duration, area, aspect (multiblock3d.py)."""
    time, area, aspect = (
        low + u * (high - low)
        for u, (low, high) in zip(draws, (blocks.temporal, blocks.spatial, blocks.aspect), strict=True)
    )
    tokens = int(grid[1] * grid[2] * area)
    rows, columns = round(math.sqrt(tokens * aspect)), round(math.sqrt(tokens / aspect))
    return max(1, int(grid[0] * time)), min(max(rows, 1), grid[1]), min(max(columns, 1), grid[2])


def covered(grid: Grid, size: tuple[int, int, int], corners: Tensor) -> Tensor:
    """Bool [B, N]: the union of blocks of one size whose first tubelet, row and column are `corners` [B, K, 3]."""
    inside = []
    for axis in range(3):
        place = torch.arange(grid[axis], device=corners.device) - corners[..., axis, None]
        inside.append((place >= 0) & (place < size[axis]))
    t, r, c = inside
    return (t[..., :, None, None] & r[..., None, :, None] & c[..., None, None, :]).any(1).flatten(1)


def cut_lists(hidden: Tensor, cut: Cut, noise: Tensor | None = None) -> Masks:
    """Context (what is not hidden) and targets (what is) of bool [B, N] as rectangular lists.

    "first": both are cut to the shortest of the batch and keep their first tokens, so that the end of clips is neither
    context nor target (as published); "spread": cut as much, at random places (`noise` [B, N]); "pad": nothing is
    lost, short lists are filled up and what fills them is marked.
    """
    parts = []
    for mask in (~hidden, hidden):
        counts = mask.sum(1)
        size = int(counts.max() if cut == "pad" else counts.min())
        if cut == "spread":
            assert noise is not None
            found = noise.masked_fill(~mask, 2.0).argsort(1)[:, :size].sort(1).values
        else:
            found = indices(mask, size)
        real = torch.arange(size, device=mask.device) < counts[:, None]
        parts.append((torch.where(real, found, found[:, :1]), real))
    (context, known), (targets, asked) = parts
    return Masks(context, targets, known, asked)


def multiblock3d(rng: Rng, grid: Grid, configs: Sequence[Blocks] = (SHORT, LONG), cut: Cut = "first") -> list[Masks]:
    """V-JEPA's masks of one batch, one `Masks` for each config.

    As official: one block size for the batch and all blocks of a config, the same three uniform numbers for all
    configs, positions for every clip and block, every row reachable, a clip without context drawn again (here at most
    `ATTEMPTS` times, then all its blocks lie on one place). Lists are cut over the whole global batch, not over one
    process' share of it, so that the number of processes changes nothing.
    """
    if len(grid) != 3:
        raise ValueError(f"Blocks through time need a grid of time, rows and columns; this one is {grid}.")
    draws, whole = rng.shared(3).tolist(), rng.whole
    out = []
    for blocks in configs:
        size = block_size(grid, blocks, draws)
        if size == tuple(grid):
            raise ValueError(f"One block covers the {' x '.join(map(str, grid))} grid: lower its share of the frame.")
        room = torch.tensor([g - s + 1 for g, s in zip(grid, size, strict=True)], device=rng.device)
        places = (whole.rand(ATTEMPTS + 1, blocks.count, 3) * room).long()
        places[:, -1] = places[:, -1, :1]
        tries = torch.stack([covered(grid, size, places[:, i]) for i in range(ATTEMPTS + 1)], 1)
        first = (~tries.all(2)).to(torch.uint8).argmax(1)
        hidden = tries[torch.arange(len(tries), device=rng.device), first]
        noise = whole.rand(hidden.shape[1]) if cut == "spread" else None
        found = cut_lists(hidden, cut, noise)
        out.append(Masks(*(value[rng.rows] for value in vars(found).values())))
    return out


def tubes(rng: Rng, grid: Grid, ratio: float) -> Pair:
    """VideoMAE's tubes: keep [B, K] and mask [B, N] (True = hidden), the same places of the frame at all times.

    int(ratio * H * W) places are hidden in every clip, as there.
    """
    places = grid[-2] * grid[-1]
    if not 0 < (masked := int(ratio * places)) < places:
        raise ValueError(f"A mask ratio of {ratio} hides {masked} of {places} places: some must stay, some must go.")
    keep, mask = random_keep(rng, places, masked / places)
    if keep.shape[1] != places - masked:  # a float's last bit
        keep, mask = random_keep(rng, places, (masked - 0.5) / places)
    return through_time(keep, grid), mask.repeat(1, math.prod(grid[:-2]))


def running_cells(grid: Grid, phase: Tensor) -> Tensor:
    """VideoMAE v2's decoder mask: bool [B, N], True where a token is not decoded, from phases [B] in 0..3.

    Two of every 2 x 2 cell are left out, and the pattern turns by one place with every tubelet.
    """
    unit = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], device=phase.device).bool()
    turns = (phase[:, None] + torch.arange(grid[0], device=phase.device)) % 4
    rows, columns = (torch.arange(n, device=phase.device) % 2 for n in grid[1:])
    return unit[turns][..., 2 * rows[:, None] + columns].flatten(1)


def through_time(places: Tensor, grid: Grid) -> Tensor:
    """Places [..., n] of one frame -> tokens [..., T * n] at all times; the same where the grid has no time."""
    if len(grid) < 3:
        return places
    start = torch.arange(grid[0], device=places.device) * (grid[1] * grid[2])
    return (start[:, None] + places[..., None, :]).flatten(-2)


def additive(*real: Tensor) -> Tensor | None:
    """What attention adds to its scores so that padding is not seen, [B, 1, 1, n]; None where there is none."""
    known = torch.cat(real, 1)
    return None if bool(known.all()) else torch.zeros_like(known, dtype=torch.float32).masked_fill(
        ~known, -torch.inf)[:, None, None]  # fmt: skip
