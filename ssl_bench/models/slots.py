"""The predictor of masked object slots: from what is seen of some objects to what is hidden of the others.

Read in galilai-group/cjepa at 1415830 (no licence file; facts only): every token sees every other, no norm before
attention, one inside the MLP; positions over time and none over slots. A hidden slot enters as a mask token that is
told the time and, through a linear map, what the object looked like in the first frame. Actions enter as nodes of their
own, one between two frames, which are never hidden. Shapes: B windows, T frames, S slots (objects) of D numbers, A of
the actions between two frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_bench.models.dynamics import ActionEmbed
from ssl_bench.models.timm_parts import Attention
from ssl_bench.models.vit import block_flops


class SlotBlock(nn.Module):
    """x + attention(x), then x + MLP(norm(x)), over [B, N, D]."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, qkv_bias=True, attn_drop=dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        out: Tensor = x + self.mlp(x)
        return out


class SlotPredictor(nn.Module):
    """Slots of all frames from those that are not hidden."""

    def __init__(
        self, frames: int, dim: int, depth: int, heads: int, hidden: int, dropout: float = 0.0, actions: int = 0
    ) -> None:
        super().__init__()
        self.frames, self.dim, self.depth, self.hidden = frames, dim, depth, hidden
        self.mask_token = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.times = nn.Parameter(torch.randn(frames, 1, dim))
        self.anchor = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*[SlotBlock(dim, heads, hidden, dropout) for _ in range(depth)])
        self.out = nn.Linear(dim, dim)
        self.act = ActionEmbed(actions, actions, 4 * dim, dim) if actions else None

    def entered(self, slots: Tensor, hidden: Tensor) -> Tensor:
        """The tokens [B, T, S, D] that go in; `hidden` bool [B, T, S] is never true of the first frame."""
        asked = self.mask_token + self.anchor(slots[:, :1])
        return torch.where(hidden[..., None], asked, slots) + self.times

    def forward(self, slots: Tensor, hidden: Tensor, actions: Tensor | None = None) -> Tensor:
        """Slots [B, T, S, D], where hidden anything, and actions [B, T - 1, A] -> predicted slots [B, T, S, D]."""
        x = self.entered(slots, hidden).flatten(1, 2)
        if self.act is not None:
            assert actions is not None
            x = torch.cat([x, self.act(actions) + self.times[:-1, 0]], 1)
        told = self.norm(self.blocks(x))[:, : hidden[0].numel()]
        out: Tensor = self.out(told).view_as(slots)
        return out

    def flops(self, slots: int, actions: int) -> float:
        """Forward FLOPs for one window; the anchors once for each slot."""
        d, nodes = self.dim, self.frames - 1 if actions else 0
        seen = self.frames * slots
        embed = 2.0 * nodes * (actions**2 + actions * 4 * d + 4 * d * d)
        return embed + 2.0 * d * d * (slots + seen) + block_flops(seen + nodes, d, self.depth, self.hidden / d)
