"""Fixed position embeddings of a grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions [H*W, D]. The first half of the channels encodes the column, as in MAE and I-JEPA."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def sincos(dim: int, grid: tuple[int, ...]) -> Tensor:
    """Fixed positions [N, D] of a grid of two axes; kinds of items with other grids add theirs here."""
    if len(grid) != 2:
        raise ValueError(f"There are no fixed positions for a grid of {len(grid)} axes.")
    return sincos_2d(dim, (grid[0], grid[1]))
