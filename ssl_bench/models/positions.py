"""Fixed position embeddings of a grid of tokens, added once: 2-D and 3-D sin-cos, a table over the flattened index.

Shapes: N tokens in raster order, D width. Rotary positions, which are turned in every block, stand in rotary.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.models.timm_parts import resample_abs_pos_embed


def sincos_1d(dim: int, places: Tensor) -> Tensor:
    """[N, dim] of `places` [N]: all sines, then all cosines, of frequencies 10000^(-i / (dim / 2))."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = places.reshape(-1, 1).double() * omega
    return torch.cat([angles.sin(), angles.cos()], 1)


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions [H*W, D]. The first half of the channels encodes the column, as in MAE and I-JEPA."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def sincos_3d(dim: int, grid: tuple[int, int, int], uniform: bool = True) -> Tensor:
    """Fixed positions [T*H*W, D] of V-JEPA (pos_embs.py): channels of the time, then the row, then the column.

    `uniform` (every released config): 2 * ceil(D / 6) channels an axis, the whole cut to D, so that the column may get
    fewer. Else half of the channels are the time's.
    """
    each = 2 * math.ceil(dim / 6)
    widths = (each, each, each) if uniform else (dim // 2, dim // 4, dim // 4)
    axes = torch.meshgrid(*(torch.arange(s) for s in grid), indexing="ij")
    return torch.cat([sincos_1d(w, axis) for w, axis in zip(widths, axes, strict=True)], 1)[:, :dim].float()


def flat_table(dim: int, count: int) -> Tensor:
    """VideoMAE's positions [N, D] over the flattened index: sines on even channels, cosines on odd ones."""
    power = 2 * (torch.arange(dim) // 2) / dim
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000.0 ** power.double()
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).float()


def sincos(dim: int, grid: tuple[int, ...], kind: str = "sincos") -> Tensor:
    """Fixed positions [N, D] of a grid of two axes, or of three with the time first, or of a sequence, which is one.

    `kind` as `backbone.pos_embed`.
    """
    if kind == "sincos_1d" or (len(grid) == 1 and kind == "sincos"):
        return flat_table(dim, math.prod(grid))
    if len(grid) == 3:
        return sincos_3d(dim, (grid[0], grid[1], grid[2]), kind != "sincos_half")
    if kind == "sincos_half":
        raise UserError("backbone.pos_embed=sincos_half gives half of the channels to the time: images have none.")
    if len(grid) != 2:
        raise ValueError(f"There are no fixed positions for a grid of {len(grid)} axes.")
    return sincos_2d(dim, (grid[0], grid[1]))


def resample(table: Tensor, old: tuple[int, ...], new: tuple[int, ...], prefix: int) -> Tensor:
    """Positions [1, P + N, D] of grid `old` for grid `new`: bicubic for images, trilinear for clips, as V-JEPA.

    A grid of two axes cannot become one of three, nor the other way round.
    """
    if len(old) != len(new):
        raise ValueError(f"Positions of a grid of {len(old)} axes cannot serve one of {len(new)}.")
    if len(old) == 2:
        return resample_abs_pos_embed(table, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix)
    places = table[:, prefix:].unflatten(1, old).permute(0, 4, 1, 2, 3)
    moved = F.interpolate(places.float(), size=new, mode="trilinear").to(table.dtype)
    return torch.cat([table[:, :prefix], moved.flatten(2).transpose(1, 2)], 1)
