"""Projection heads shared by the methods (probe heads live in evaluation/)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.models.vit import init_weights
from ssl_bench.parallel.collectives import BatchNorm


class MLP(nn.Sequential):
    """The projector or predictor of the two-view methods: (Linear, BatchNorm, activation) x (layers - 1), then Linear.

    The published heads differ in the hidden width, the number of layers and the end: `end` is "linear" (no bias: BYOL,
    VICReg, Barlow Twins), "bias" (SimSiam's predictor, SwAV), "norm" (BatchNorm: SimCLR) or "whiten" (BatchNorm without
    affine: MoCo v3, SimSiam). Layers before a BatchNorm have no bias: it would be subtracted again.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        out: int,
        layers: int = 2,
        end: Literal["linear", "bias", "norm", "whiten"] = "linear",
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        modules: list[nn.Module] = []
        for i in range(layers - 1):
            modules += [nn.Linear(dim if i == 0 else hidden, hidden, bias=False), BatchNorm(hidden), activation()]
        modules.append(nn.Linear(hidden if layers > 1 else dim, out, bias=end == "bias"))
        if end in ("norm", "whiten"):
            modules.append(BatchNorm(out, affine=end == "norm"))
        super().__init__(*modules)
        init_weights(self)

    def flops(self) -> float:
        """Forward FLOPs for one vector."""
        return 2.0 * sum(p.numel() for p in self.parameters() if p.ndim == 2)


class DINOHead(nn.Module):
    """DINO's head: GELU MLP, L2 norm, then prototypes of unit length (weight norm with its gain fixed at 1).

    With `gain` the prototypes' lengths are trained too, and decayed, from 1 on (`norm_last_layer false`; DINOv2).
    Prototypes start at nn.Linear's default, uniform in +-1 / sqrt(bottleneck), as in the official code: AdamW turns
    a vector the faster the shorter it is.
    `norm` puts BatchNorm into the MLP (`use_bn_in_head` of the official code): a batch whose tokens are all nearly
    alike, as those of a fresh ViT are, is spread out at once.
    """

    def __init__(
        self, dim: int, hidden: int, bottleneck: int, out: int, layers: int = 3, norm: bool = False, gain: bool = False
    ) -> None:
        super().__init__()
        sizes = [dim] + [hidden] * (layers - 1) + [bottleneck]
        modules: list[nn.Module] = []
        for a, b in pairwise(sizes[:-1]):
            modules += [nn.Linear(a, b, bias=not norm)] + [BatchNorm(b)] * norm + [nn.GELU()]
        self.mlp = nn.Sequential(*modules, nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.empty(out, bottleneck))
        self.gain = nn.Parameter(torch.ones(out, 1)) if gain else None
        for m in self.mlp:
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> logits [..., out]: cosines between the bottleneck and the prototypes, times their gain."""
        x = F.normalize(self.mlp(x.flatten(0, -2)).unflatten(0, x.shape[:-1]), dim=-1, eps=1e-6)
        weight = F.normalize(self.prototypes, dim=-1)
        return F.linear(x, weight if self.gain is None else weight * self.gain)

    def freeze_last(self) -> None:
        """Drop the gradients of the last layer: DINO does so at first."""
        self.prototypes.grad = None
        if self.gain is not None:
            self.gain.grad = None

    def flops(self) -> float:
        """Forward FLOPs for one vector."""
        return 2.0 * sum(p.numel() for p in self.parameters() if p.ndim == 2 and p is not self.gain)
