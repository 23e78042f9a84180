"""The JEPA predictor, shared by I-JEPA and the methods built on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl_bench.models.block import Block
from ssl_bench.models.positions import sincos
from ssl_bench.models.rotary import RotaryBlock, angles
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import LayerNorm, ViT, block_flops, blocks, init_weights, run


class Predictor(nn.Module):
    """A narrow ViT over context tokens and one mask token per target position."""

    def __init__(
        self, vit: ViT, dim: int, depth: int, heads: int, out: int | None = None, mask_tokens: int = 1
    ) -> None:
        super().__init__()
        width = vit.config.embed_dim
        self.depth, self.config, self.grid, self.channels = depth, vit.config, vit.grid, dim // heads
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(mask_tokens, 1, dim))
        kind = vit.config.pos_embed if vit.config.pos_embed.startswith("sincos") else "sincos"
        added = torch.zeros(vit.num_patches, dim) if vit.rotary else sincos(dim, vit.grid, kind)
        self.pos_embed = nn.Parameter(added.unsqueeze(0), requires_grad=False)
        self.blocks = blocks(dim, depth, heads, kind=RotaryBlock if vit.rotary else Block)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, out or width)
        init_weights(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, context: Tensor, keep: Tensor, targets: Tensor, condition: Tensor | None = None, which: int = 0,
        attn_mask: Tensor | None = None, guides: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:  # fmt: skip
        """context [B, n, D] at positions keep [B, n] -> [B, T, m, D] at positions targets [B, T, m].

        Blocks are laid along the batch: no block attends to another. `which` of the mask tokens is asked; `attn_mask`
        [B * T, 1, 1, n + m] is added to the scores; `guides`, a scale and a shift [B, dim] before each block: x times
        1 + scale, plus shift.
        """
        tokens = self.tokens(context, keep, targets, condition, which, attn_mask, guides)
        return self.head(self.norm(tokens[:, :, -targets.shape[2] :]))

    def tokens(
        self, context: Tensor, keep: Tensor, targets: Tensor, condition: Tensor | None = None, which: int = 0,
        attn_mask: Tensor | None = None, guides: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:  # fmt: skip
        """Context, then target tokens [B, T, n + m, dim] after the blocks; `condition` [B, dim] joins the queries."""
        b, t, m = targets.shape
        pos = self.pos_embed.expand(b, -1, -1)
        x = self.embed(context) + gather(pos, keep)
        x = x.repeat_interleave(t, dim=0)
        token = self.mask_token[which : which + 1]
        token = token if condition is None else token + condition[:, None].repeat_interleave(t, 0)
        queries = token + gather(pos, targets.flatten(1)).reshape(b * t, m, -1)
        x = torch.cat([x, queries.to(x.dtype)], 1)
        places = torch.cat([keep.repeat_interleave(t, 0), targets.flatten(0, 1)], 1)
        turned = angles(self.config, self.grid, self.channels, places, 0, x.device)
        if guides is None:
            return run(self.blocks, x, attn_mask, turned).unflatten(0, (b, t))
        for block, (scale, shift) in zip(self.blocks, guides, strict=True):
            scale, shift = (part[:, None].repeat_interleave(t, 0) for part in (scale, shift))
            x = run([block], x * (1 + scale) + shift, attn_mask, turned)
        return x.unflatten(0, (b, t))

    def flops(self, context: float, targets: int, size: float) -> float:
        """Forward FLOPs per image."""
        dim, tokens = self.embed.out_features, int(context + size)
        projections = 2.0 * dim * (context * self.embed.in_features + targets * size * self.head.out_features)
        return projections + targets * block_flops(tokens, dim, self.depth)
