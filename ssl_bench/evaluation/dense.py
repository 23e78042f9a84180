"""Patches and their pixels: how maps of classes are cut on the grid of the tokens, and put together again.

Shapes: N images of H x W pixels, T = g x h tokens, patches of p x q pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features
from ssl_bench.evaluation.scorers import VOID
from ssl_bench.rng import mix
from ssl_bench.screen import paced

BATCH = 256  # images


@dataclass(frozen=True)
class Grid:
    """Tokens down and across, and pixels of a mask down and across each."""

    down: int
    across: int
    height: int
    width: int

    @classmethod
    def of(cls, x: Features) -> Grid:
        """Of a part with tokens and masks; tokens lie on a grid of the image's proportions."""
        assert x.tokens is not None and x.masks is not None
        height, width = x.masks.shape[1:]
        tokens = x.tokens.batch(np.arange(1)).shape[1]
        down = round((tokens * height / width) ** 0.5)
        if down * (tokens // max(down, 1)) != tokens or height % down or width % (tokens // down):
            raise UserError(
                f"{tokens} tokens do not lie on a grid that divides masks of {height} x {width} pixels: choose "
                "--image-size as a multiple of the patches."
            )
        return cls(down, tokens // down, height // down, width // (tokens // down))

    def cut(self, maps: Tensor) -> Tensor:
        """[N, H, W] -> [N, T, p, q], in the order of tokens."""
        grid = maps.unflatten(2, (self.across, self.width)).unflatten(1, (self.down, self.height))
        return grid.permute(0, 1, 3, 2, 4).flatten(1, 2)

    def join(self, patches: Tensor) -> Tensor:
        """The inverse of `cut`."""
        grid = patches.unflatten(1, (self.down, self.across)).permute(0, 1, 3, 2, 4)
        return grid.flatten(3, 4).flatten(1, 2)


def most_frequent(pixels: Tensor, num_classes: int) -> Tensor:
    """int64 [M]: the class that most pixels [M, p, q] of a patch have, of equal ones the lowest; -1: all are void."""
    counts = torch.stack([(pixels == c).flatten(1).sum(1) for c in range(num_classes)], 1)
    return counts.argmax(1).where(counts.sum(1) > 0, -1)


def sample(x: Features, grid: Grid, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens fp32 [M, D] and pixels [M, p, q] of at most `count` patches, drawn evenly, void ones left out."""
    assert x.tokens is not None and x.masks is not None
    each = grid.down * grid.across
    generator = torch.Generator().manual_seed(mix("dense patches", seed))
    chosen = torch.randperm(len(x) * each, generator=generator)[:count].sort().values
    tokens, pixels = [], []
    parts = torch.arange(len(x)).split(BATCH)
    for rows in paced("taking patches", parts, len(parts)):
        first, last = int(rows[0]) * each, (int(rows[-1]) + 1) * each
        here = chosen[(chosen >= first) & (chosen < last)] - first
        seen = grid.cut(x.masks[rows]).flatten(0, 1)[here]
        known = (seen != VOID).flatten(1).any(1)
        if known.any():
            tokens.append(x.tokens.batch(rows.numpy()).float().flatten(0, 1)[here[known]])
            pixels.append(seen[known])
    if not tokens:
        raise UserError("Every pixel of the training masks is void: there is nothing to learn from.")
    return torch.cat(tokens), torch.cat(pixels)
