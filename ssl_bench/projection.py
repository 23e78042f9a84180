"""Projection heads shared by the methods (probe heads live in heads.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DINOHead(nn.Module):
    """DINO's head: GELU MLP, L2 norm, then prototypes of unit length (weight norm with its gain fixed at 1)."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, out: int, layers: int = 3) -> None:
        super().__init__()
        sizes = [dim] + [hidden] * (layers - 1) + [bottleneck]
        modules: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            modules += [nn.Linear(a, b), nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        self.prototypes = nn.Parameter(torch.empty(out, bottleneck))
        for m in self.mlp:
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> logits [..., out]: cosines between the bottleneck and the prototypes."""
        x = F.normalize(self.mlp(x), dim=-1, eps=1e-6)
        return F.linear(x, F.normalize(self.prototypes, dim=-1))

    def flops(self) -> float:
        """Forward FLOPs for one vector."""
        return 2.0 * sum(p.numel() for p in self.parameters() if p.ndim == 2)
