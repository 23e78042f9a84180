"""Point-MAE's decoder and loss: visible tokens and mask tokens at their centres -> points; Point-JEPA's predictor.

Pang et al., "Masked Autoencoders for Point Cloud Self-supervised Learning", ECCV 2022, arXiv 2203.06604. Shapes: B
clouds, G groups of k points, n visible ones, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_bench.models.groups import PlacedBlock, Places, padded
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, blocks, init_weights, run


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Chamfer distance L2 of point sets [..., k, 3] and [..., l, 3] -> [...] (Point-MAE; no root).

    The mean squared distance of a point to the nearest one of the other set, both ways added.
    """
    far = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)
    return far.amin(-1).mean(-1) + far.amin(-2).mean(-1)


class PointDecoder(nn.Module):
    """Places are its own, from the same centres, added before every block; only pre-training has one.

    `out` numbers for each group: the coordinates of its points, unless something else is said.
    """

    def __init__(self, vit: ViT, dim: int, depth: int, heads: int, out: int | None = None) -> None:
        super().__init__()
        self.num_prefix, self.count, self.depth = vit.num_prefix, vit.num_patches, depth
        self.embed, self.places = nn.Linear(vit.config.embed_dim, dim), Places(dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.blocks = blocks(dim, depth, heads, kind=PlacedBlock)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, out or vit.patch_embed.numbers)
        init_weights(self)

    def forward(self, tokens: Tensor, keep: Tensor, centres: Tensor) -> Tensor:
        """tokens [B, P + n, D] at groups keep [B, n], centres [B, G, 3] -> points [B, G, k * 3] around each centre."""
        x = self.embed(tokens)
        prefix, visible = x[:, : self.num_prefix], x[:, self.num_prefix :]
        full = self.mask_token.to(x.dtype).expand(len(x), self.count, -1)
        full = full.scatter(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]), visible)
        x = run(self.blocks, torch.cat([prefix, full], 1), None, padded(self.places(centres), self.num_prefix))
        return self.head(self.norm(x[:, self.num_prefix :]))

    def flops(self, visible: int) -> float:
        """Forward FLOPs per cloud; `visible` with the prefix."""
        dim, count = self.embed.out_features, self.count
        ends = 2.0 * dim * (visible * self.embed.in_features + count * self.head.out_features)
        return ends + count * self.places.flops() + block_flops(count + self.num_prefix, dim, self.depth)


class PointPredictor(nn.Module):
    """Point-JEPA's: context tokens, and at each target's centre a mask token that starts at zero -> target tokens.

    Positions are added once. With `again` every block gets the context as it came in (3D-JEPA, as its abstract says).
    """

    def __init__(self, width: int, dim: int, depth: int, heads: int, drop_path: float, again: bool) -> None:
        super().__init__()
        self.again, self.depth = again, depth
        self.embed, self.places = nn.Linear(width, dim), Places(dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = blocks(dim, depth, heads, drop_path=drop_path, uniform=drop_path > 0)
        self.norm, self.head = LayerNorm(dim), nn.Linear(dim, width)
        init_weights(self)

    def forward(self, context: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """context [B, n, D] at centres [B, n, 3] -> [B, T, m, D] at centres `there` [B, T, m, 3], run by run."""
        b, t, m = there.shape[:3]
        seen = (self.embed(context) + self.places(here)).repeat_interleave(t, 0)
        x = torch.cat([seen, (self.mask_token + self.places(there.flatten(0, 1))).to(seen.dtype)], 1)
        for block in self.blocks:
            x = block(torch.cat([seen, x[:, -m:]], 1) if self.again else x)
        return self.head(self.norm(x[:, -m:])).unflatten(0, (b, t))

    def flops(self, context: int, targets: int, size: int) -> float:
        """Forward FLOPs per cloud."""
        tokens, dim = context + targets * size, self.embed.out_features
        ends = (2.0 * self.embed.weight.numel() + self.places.flops()) * tokens
        return ends + targets * block_flops(context + size, dim, self.depth)


def group_loss(predicted: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """Chamfer L2 of groups [B, G, k * 3], mean over the masked ones (mask [B, G], 1 = masked)."""
    per_group = chamfer(*(x.unflatten(-1, (-1, 3)) for x in (predicted, groups)))
    return (per_group * mask).sum() / mask.sum()
