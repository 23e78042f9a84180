"""Clouds of points as tokens: groups of neighbours, a small PointNet, positions from the groups' centres; plain torch.

Clouds are in farthest-point order (data/points.py), so the first G points are the G centres that farthest-point
sampling would choose. Shapes: B clouds, P points, G groups of k points, n kept groups, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.errors import UserError
from ssl_bench.models.timm_parts import Block
from ssl_bench.parallel import collectives


def neighbours(points: Tensor, centres: Tensor, k: int) -> Tensor:
    """The k nearest points [B, G, k, 3] of each centre [B, G, 3], itself among them, relative to it (Point-BERT).

    Distances are summed over the three squared differences, never by a matrix product, which loses near ties.
    """
    far = (centres.unsqueeze(2) - points.unsqueeze(1)).square().sum(-1)
    index = far.topk(k, largest=False).indices
    found = points.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, 3)).unflatten(1, index.shape[1:])
    return found - centres.unsqueeze(2)


class TokenNorm(nn.BatchNorm1d):
    """BatchNorm of [N, D] over the batches of all processes, with running statistics for evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or collectives.world_size() == 1:
            return super().forward(x)
        wide = x.float()
        mean = collectives.mean(wide.mean(0))
        var = collectives.mean((wide - mean).square().mean(0))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            count = len(x) * collectives.world_size()
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(var * count / (count - 1), self.momentum)  # type: ignore[union-attr, arg-type]
        return ((wide - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)


class PointNet(nn.Module):
    """Point-BERT's small PointNet, as Point-JEPA has it (no bias before a BatchNorm): groups [..., k, 3] -> [..., D].

    Every point alone, the group's maximum beside each point (global first), every point alone, the maximum.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.first = nn.Sequential(
            nn.Linear(3, width, bias=False), TokenNorm(width), nn.ReLU(), nn.Linear(width, 2 * width)
        )
        self.second = nn.Sequential(nn.Linear(wide, wide, bias=False), TokenNorm(wide), nn.ReLU(), nn.Linear(wide, dim))

    def forward(self, groups: Tensor) -> Tensor:
        k = groups.shape[-2]
        local = self.first(groups.reshape(-1, 3)).unflatten(0, (-1, k))
        both = torch.cat([local.max(1, keepdim=True).values.expand_as(local), local], -1)
        return self.second(both.flatten(0, 1)).unflatten(0, (-1, k)).max(1).values.unflatten(0, groups.shape[:-2])

    def flops(self) -> float:
        """Forward FLOPs for one point, 2 per multiply-add."""
        return 2.0 * sum(p.numel() for p in self.parameters() if p.ndim == 2)


class Places(nn.Sequential):
    """Positions [B, G, D] of centres [B, G, 3]: Linear, GELU, Linear."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(3, min(128, 2 * dim)), nn.GELU(), nn.Linear(min(128, 2 * dim), dim))

    def flops(self) -> float:
        """Forward FLOPs for one centre."""
        return 2.0 * sum(p.numel() for p in self.parameters() if p.ndim == 2)


class PlacedBlock(Block):
    """timm's block with the tokens' positions added before it, as all published transformers of points have it."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if angles is None:
            raise UserError("This method runs the blocks by itself and gives them no positions of points: use another.")
        return super().forward(x + angles.to(x.dtype), attn_mask)


def padded(places: Tensor, prefix: int) -> Tensor:
    """Positions [B, n, D] with nothing for `prefix` tokens before them."""
    return F.pad(places, (0, 0, prefix, 0))
