"""3-D rotary positions: queries and keys of a token are turned by its time, row and column, in every block.

Two forms, by name: `rope` is V-JEPA 2.1's, a rotation (the score of two tokens depends on their offset alone);
`rope_tiled` is V-JEPA 2's as released, whose angles are laid out for other pairs than those that are turned, so that
norms change and scores depend on where the tokens are: only for its published weights.

Shapes: B items, P prefix tokens (never turned), N tokens in raster order (time, row, column), d channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config.schema import ViTConfig
from ssl_bench.errors import UserError
from ssl_bench.models.timm_parts import Attention, Block

FORMS = ("rope", "rope_tiled")


def angle_table(grid: tuple[int, ...], channels: int, form: str, like: int = 0) -> Tensor:
    """Angles [N, d] of a grid's tokens; an image (two axes) is one frame.

    Each axis gets 2 * (d // 3 // 2) channels in the order time, row, column; the rest stays unturned (angle 0). `like`
    moves rows and columns to where those of a grid of so many a side are (2.1's `interpolate_rope`); time never is.
    """
    each = 2 * (channels // 3 // 2)
    if not each:
        raise UserError(f"Rotary positions need heads of at least 6 channels; these have {channels}.")
    sizes = (1,) * (3 - len(grid)) + tuple(grid)
    omega = 10000.0 ** (-torch.arange(each // 2, dtype=torch.float64) / (each / 2))
    parts = []
    for axis, index in enumerate(torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in sizes), indexing="ij")):
        scale = (like - 1) / (sizes[axis] - 1) if like and axis and sizes[axis] > 1 else 1.0
        angles = scale * index.reshape(-1, 1) * omega
        parts.append(angles.repeat(1, 2) if form == "rope_tiled" else angles.repeat_interleave(2, 1))
    return F.pad(torch.cat(parts, 1), (0, channels - 3 * each)).float()


def angles(
    config: ViTConfig, grid: tuple[int, ...], channels: int, keep: Tensor | None, prefix: int, device: torch.device
) -> Tensor | None:
    """What blocks with heads of `channels` get: [B or 1, 1, P + n, d] of the kept tokens, 0 for the prefix.

    None where `config` adds positions instead.
    """
    if config.pos_embed not in FORMS:
        return None
    table = angle_table(grid, channels, config.pos_embed, config.rope_grid).to(device)
    kept = table[None] if keep is None else table[keep]
    return F.pad(kept, (0, 0, prefix, 0))[:, None]


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Channels (0, 1), (2, 3), ... of x [B, heads, n, d] turned by angles [B or 1, 1, n, d]."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-second, first), -1).flatten(-2)
    return (x * angles.cos() + turned * angles.sin()).to(x.dtype)


class RotaryAttention(Attention):
    """timm's attention with turned queries and keys."""

    def forward(self, x: Tensor, angles: Tensor, attn_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = turn(q, angles), turn(k, angles)
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            out = (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, -1))


class RotaryBlock(Block):
    """timm's block around it. Without angles it refuses to run: tokens without places would train in silence."""

    def __init__(self, dim: int, num_heads: int, **settings: Any) -> None:
        super().__init__(dim, num_heads, attn_layer=RotaryAttention, **settings)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if angles is None:
            raise UserError(
                "This method runs the blocks by itself and gives them no rotary positions: "
                "leave backbone.pos_embed at sincos, or use another method."
            )
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), angles=angles, attn_mask=attn_mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
