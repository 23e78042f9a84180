"""The JEPA predictor, shared by I-JEPA and the methods built on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_bench.models.positions import sincos
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, blocks, init_weights


class Predictor(nn.Module):
    """A narrow ViT over context tokens and one mask token per target position."""

    def __init__(self, vit: ViT, dim: int, depth: int, heads: int, out: int | None = None) -> None:
        super().__init__()
        width = vit.config.embed_dim
        self.depth = depth
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos(dim, vit.grid).unsqueeze(0), requires_grad=False)
        self.blocks = blocks(dim, depth, heads)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, out or width)
        init_weights(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Tensor, keep: Tensor, targets: Tensor, condition: Tensor | None = None) -> Tensor:
        """context [B, n, D] at positions keep [B, n] -> [B, T, m, D] at positions targets [B, T, m].

        Blocks are laid along the batch: no block attends to another.
        """
        return self.head(self.norm(self.tokens(context, keep, targets, condition)[:, :, -targets.shape[2] :]))

    def tokens(self, context: Tensor, keep: Tensor, targets: Tensor, condition: Tensor | None = None) -> Tensor:
        """Context, then target tokens [B, T, n + m, dim] after the blocks; `condition` [B, dim] joins the queries."""
        b, t, m = targets.shape
        pos = self.pos_embed.expand(b, -1, -1)
        x = self.embed(context) + gather(pos, keep)
        x = x.repeat_interleave(t, dim=0)
        token = self.mask_token if condition is None else self.mask_token + condition[:, None].repeat_interleave(t, 0)
        queries = token + gather(pos, targets.flatten(1)).reshape(b * t, m, -1)
        x = torch.cat([x, queries.to(x.dtype)], 1)
        for block in self.blocks:
            x = block(x)
        return x.unflatten(0, (b, t))

    def flops(self, context: float, targets: int, size: float) -> float:
        """Forward FLOPs per image."""
        dim, tokens = self.embed.out_features, int(context + size)
        projections = 2.0 * dim * (context * self.embed.in_features + targets * size * self.head.out_features)
        return projections + targets * block_flops(tokens, dim, self.depth)
