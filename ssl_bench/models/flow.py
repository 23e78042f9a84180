"""Optical flow on maps of tokens: correlations of two maps, backward warping, a small coarse-to-fine estimator.

Shapes: B pairs, D channels, maps of h x w cells, R = (2 * reach + 1)^2 displacements, row by row; flows [B, 2, h, w]
are (x, y) in cells of the map, y downwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def displacements(reach: int) -> Tensor:
    """[R, 2] (x, y), in the order of `correlate`."""
    side = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return torch.cartesian_prod(side, side).flip(1)


def correlate(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """[B, R, h, w]: the mean product of each cell of `first` with those around its place in `second`; 0 outside."""
    (h, w), side, around = first.shape[-2:], range(2 * reach + 1), F.pad(second, (reach,) * 4)
    return torch.stack([(first * around[..., y : y + h, x : x + w]).mean(1) for y in side for x in side], 1)


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """`maps` [B, D, h, w] seen where `flow` leads, bilinear; the border stands for what lies outside."""
    h, w = maps.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij")
    place = torch.stack([2 * (x + flow[:, 0]) / max(w - 1, 1) - 1, 2 * (y + flow[:, 1]) / max(h - 1, 1) - 1], 3)
    place = place.to(maps).nan_to_num()  # torch 2.15 reads outside of its memory at a place that is no number
    return F.grid_sample(maps, place, padding_mode="border", align_corners=True)


def enlarged(flow: Tensor, scale: int) -> Tensor:
    """The same motion on a map with `scale` times as many cells along each side."""
    return scale * F.interpolate(flow, scale_factor=scale, mode="bilinear", align_corners=False)


class FlowHead(nn.Module):
    """Two levels, that of the tokens and one of half their size: warp the second map by the flow so far, correlate, add
    what three small convolutions make of it (PWC-Net's scheme, far smaller).
    """

    def __init__(self, dim: int, width: int = 32, reach: int = 2) -> None:
        super().__init__()
        self.width, self.reach = width, reach
        self.project = nn.ModuleList([nn.Linear(dim, width), nn.Linear(dim, 4 * width)])
        count = (2 * reach + 1) ** 2 + width + 2
        sizes = [(count, 64), (64, 32), (32, 2)]
        self.estimate = nn.ModuleList(
            nn.Sequential(*[m for a, b in sizes for m in (nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1))][:-1])
            for _ in range(2)
        )
        for part in self.estimate:
            last: nn.Module = list(part.children())[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.normal_(last.weight, std=1e-3)  # no motion at first
            nn.init.zeros_(last.bias)

    def pyramid(self, tokens: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Maps [B, width, h, w] and [B, width, 2h, 2w] of tokens [B, h * w, D]."""
        coarse, fine = ((layer(tokens)).transpose(1, 2).unflatten(2, grid) for layer in self.project)
        return [coarse, F.pixel_shuffle(fine, 2)]

    def forward(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        """Flows on both levels, the finer last, of two pyramids."""
        flow, found = torch.zeros_like(first[0][:, :2]), []
        for level, (a, b) in enumerate(zip(first, second, strict=True)):
            flow = enlarged(flow, 2) if level else flow
            cost = F.leaky_relu(correlate(F.normalize(a, dim=1), F.normalize(warp(b, flow), dim=1), self.reach), 0.1)
            flow = flow + self.estimate[level](torch.cat([cost * self.width, a, flow], 1))
            found.append(flow)
        return found

    def flops(self, cells: int) -> float:
        """Forward FLOPs of both levels for one direction of a pair with so many tokens, correlations included."""
        layers = sum(p.numel() for part in self.estimate for p in part.parameters() if p.ndim > 1) / 2
        project = sum(p.numel() for p in self.project.parameters() if p.ndim > 1)
        return 2.0 * cells * (2 * project + 5 * (layers + self.width * (2 * self.reach + 1) ** 2))
