"""I-JEPA's mask sampler as the official code draws it, bit for bit: for those who want its masks, quirks included.

What differs from `masks.multiblock` is listed there and in methods/ijepa.py. Facts from facebookresearch/ijepa 52c1ae9
(src/masks/multiblock.py), in this project's own words; tests hold it to two batches of the official collator.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ssl_bench.rng import Rng
from ssl_bench.views.masks import Grid, Pair, Range

TRIES = 20  # placements of a context block before one more of the targets may overlap it


def official(rng: Rng, grid: Grid, targets: int, target: Range, aspect: Range, context: Range) -> Pair:
    """This process' rows of one batch; both seeds come from the step's, so that a restart draws the same masks."""
    _refuse_small(_smallest(grid, target, aspect), grid)  # whatever is drawn now: a run must not end with a later draw
    sizes, places = (rng.shared(2).double() * 2**31).long().tolist()
    drawn = official_multiblock(
        sizes, torch.Generator().manual_seed(places), rng.batch, grid, targets, target, aspect, context
    )
    kept, blocks = (part[rng.rows].to(rng.device) for part in drawn)
    return kept, blocks


def official_multiblock(
    step: int,
    generator: torch.Generator,
    batch: int,
    grid: Grid,
    targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    min_keep: int = 10,
) -> Pair:
    """Context [B, Nc] and targets [B, T, Nt] of the whole batch; `step` seeds the sizes, `generator` the places (CPU).

    Raises `ValueError` where a target block has no more than `min_keep` patches: the official code never returns then.
    """
    sizes = torch.Generator().manual_seed(step)
    target, context = (
        _size(float(torch.rand(1, generator=sizes)), grid, scale, aspect)
        for scale, aspect in ((target_scale, target_aspect), (context_scale, (1.0, 1.0)))
    )
    _refuse_small(target, grid, min_keep)
    all_targets, contexts = [], []
    for _ in range(batch):
        blocks = [_block(generator, target, grid) for _ in range(targets)]
        all_targets.append(torch.stack([block.flatten().nonzero()[:, 0] for block in blocks]))
        contexts.append(_context(generator, context, grid, blocks, min_keep))
    shortest = min(map(len, contexts))  # the first ones in raster order stay: the image's lower part is dropped
    return torch.stack([c[:shortest] for c in contexts]), torch.stack(all_targets)


def _refuse_small(target: Grid, grid: Grid, min_keep: int = 10) -> None:
    if math.prod(target) <= min_keep:
        raise ValueError(
            f"the official sampler wants targets of more than {min_keep} patches and draws {target[0]} x {target[1]} "
            f"on {grid[0]} x {grid[1]}; it would never return. Use objective.masking=multiblock."
        )


@functools.cache
def _smallest(grid: Grid, scale: Range, aspect: Range) -> Grid:
    """The smallest block that may be drawn; the same for every batch."""
    return min((_size(i / 100, grid, scale, aspect) for i in range(101)), key=math.prod)


def _size(share: float, grid: Grid, scale: Range, aspect: Range) -> Grid:
    """One number for area and aspect alike; both sides smaller than the grid."""
    area = int(grid[0] * grid[1] * (scale[0] + share * (scale[1] - scale[0])))
    ratio = aspect[0] + share * (aspect[1] - aspect[0])
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(height, grid[0] - 1), min(width, grid[1] - 1)


def _block(generator: torch.Generator, size: Grid, grid: Grid) -> Tensor:
    """A block [H, W] at a corner that never reaches the last row and column: the upper bound is exclusive."""
    top, left = (int(torch.randint(0, side - s, (1,), generator=generator)) for side, s in zip(grid, size, strict=True))
    block = torch.zeros(grid, dtype=torch.bool)
    block[top : top + size[0], left : left + size[1]] = True
    return block


def _context(generator: torch.Generator, size: Grid, grid: Grid, blocks: list[Tensor], min_keep: int) -> Tensor:
    """Patches of a context block outside the targets; after every `TRIES` failures one target fewer is cut out."""
    for attempt in range(TRIES * (len(blocks) + 1)):
        free = _block(generator, size, grid)
        for block in blocks[: len(blocks) - attempt // TRIES]:
            free &= ~block
        if free.sum() > min_keep:
            return free.flatten().nonzero()[:, 0]
    raise ValueError(f"no context of more than {min_keep} patches on a {grid[0]} x {grid[1]} grid.")
