"""From the frames just seen to those that come, guided by all of the past: ThinkJEPA's two paths, as a run keeps them.

The dense path is a predictor over the tokens of the recent frames. The slow path reads frames at a stride through the
whole observed past, beside some learned tokens ("thoughts"). Before block i of the predictor its tokens x become
x * (1 + tanh(g_i) * scale) + tanh(g_i) * shift, where scale and shift come from the mean past token and the mean
thought of one layer of the slow path, and every gate g_i begins at 0: an untrained slow path changes nothing. Means are
taken of each clip's own tokens. (ThinkJEPA's first release took them over the batch.)

What is seen of a clip is told by shares of its length, in cells of time (tubelets). Shapes: B clips, n tokens of the
recent cells, s of the slow path's, m of the future, k thoughts, D width of the encoder, d of the predictor, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_heads, refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.models.block import Block
from ssl_bench.models.kept import Kept
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.rotary import RotaryBlock, angles
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import ViT, block_flops, blocks, init_weights, run

Guides = list[tuple[Tensor, Tensor]]  # scale and shift [B, d] before each block


@dataclass(frozen=True)
class ThinkerConfig:
    past: Literal["own", "other", "none"] = "own"  # what the slow path reads: other, another clip's; none: it is absent
    seen: float = 0.8  # share of the clip that is observed; the rest is predicted
    recent: float = 0.25  # share of what is observed, its end, that the dense path reads
    stride: int = 4  # the slow path reads every so many-th cell of all that is observed
    dim: int = 64  # width of both paths
    depth: int = 2  # blocks of the dense path
    heads: int = 2  # of attention in both
    slow_depth: int = 2  # blocks of the slow path
    thoughts: int = 4  # learned tokens of the slow path
    hidden: int = 128  # width of the layer between means and scale

    def check(self) -> None:
        whole = ("stride", "dim", "depth", "heads", "slow_depth", "thoughts", "hidden")
        refuse_outside("objective.", self, dict.fromkeys(whole, 1))
        refuse_outside("objective.", self, {"seen": 0.01, "recent": 0.01}, {"seen": 1.0})
        if self.recent > 1:
            raise UserError(f"objective.recent={self.recent} must be at most 1: it is a share of what is observed.")
        refuse_heads("objective.", self, "dim", "heads")

    def unused(self) -> set[str]:
        """Settings without effect beside the others: `resolve` refuses to have them set."""
        return {"stride", "slow_depth", "thoughts", "hidden"} if self.past == "none" else set()


@dataclass(frozen=True)
class Cells:
    """Which cells of time each path has."""

    recent: range
    slow: range
    future: range

    @staticmethod
    def of(config: ThinkerConfig, length: int) -> Cells:
        """Of clips of `length` cells; at least one is left for each."""
        if length < 2:
            raise UserError(f"Clips of {length} cell of time have no past and no future: set data.frames higher.")
        seen = min(max(round(config.seen * length), 1), length - 1)
        recent = max(round(config.recent * seen), 1)
        return Cells(range(seen - recent, seen), range(0, seen, config.stride), range(seen, length))


def places(cells: range, grid: tuple[int, ...]) -> Tensor:
    """Indices [1, n] of all tokens of some cells of a grid (time, rows, columns)."""
    each = math.prod(grid[1:])
    return (torch.tensor(list(cells))[:, None] * each + torch.arange(each)).flatten()[None]


@torch.no_grad()
def tokens(vit: ViT, clips: Tensor, keep: Tensor) -> Tensor:
    """Tokens at these places [1, n], encoded alone [B, n, D]: no other frame is seen."""
    return vit(clips, keep.expand(len(clips), -1))[:, vit.num_prefix :].float()


class SlowPath(nn.Module):
    """Blocks over past tokens and thoughts; what is read is every layer's output."""

    def __init__(self, vit: ViT, config: ThinkerConfig) -> None:
        super().__init__()
        self.config, self.grid, self.channels = vit.config, vit.grid, config.dim // config.heads
        self.embed = nn.Linear(vit.config.embed_dim, config.dim)
        self.thoughts = nn.Parameter(torch.randn(config.thoughts, config.dim) * 0.02)
        self.blocks = blocks(config.dim, config.slow_depth, config.heads, kind=RotaryBlock if vit.rotary else Block)
        init_weights(self)

    def forward(self, past: Tensor, keep: Tensor, pos: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """past [B, s, D] at keep [B, s] of positions pos [B, N, d] -> L times [B, s, d], and L times [B, k, d]."""
        x, count = self.embed(past) + gather(pos, keep), len(self.thoughts)
        x = torch.cat([self.thoughts.expand(len(x), -1, -1).to(x.dtype), x], 1)
        turned = angles(self.config, self.grid, self.channels, keep, count, x.device)
        read = []
        for block in self.blocks:
            x = run([block], x, None, turned)
            read.append(x)
        return [x[:, count:] for x in read], [x[:, :count] for x in read]


class Guidance(nn.Module):
    """Scale and shift before each of `depth` blocks of width `dim`, from the layers of a slow path of width `width`."""

    def __init__(self, width: int, dim: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.old, self.new = nn.Linear(width, dim, bias=False), nn.Linear(width, dim, bias=False)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4 * dim), nn.Linear(4 * dim, hidden), nn.GELU(), nn.Linear(hidden, 2 * dim))
            for _ in range(depth)
        )
        self.gates = nn.Parameter(torch.zeros(depth))
        init_weights(self)

    def forward(self, old: list[Tensor], new: list[Tensor]) -> Guides:
        """Tokens of each layer, old [B, s, width] and new [B, k, width]."""
        out, last = [], len(self.mlps) - 1
        for i, mlp in enumerate(self.mlps):
            layer = round(i * (len(old) - 1) / last) if last else -1  # the last block always reads the last layer
            o, n = self.old(old[layer]).mean(1), self.new(new[layer]).mean(1)
            scale, shift = mlp(torch.cat([o, n, (o - n).abs(), o * n], 1)).chunk(2, 1)
            gate = self.gates[i].tanh()
            out.append((gate * scale, gate * shift))
        return out


class Thinker(Kept):
    """Both paths, for the tokens of `vit`."""

    file = "thinker"
    keep: Tensor  # places of the tokens of each path [1, n], [1, m], [1, s]
    asked: Tensor
    past: Tensor
    mask: Tensor  # added to scores [1, 1, n + m, n + m]: -inf for later cells

    def __init__(self, vit: ViT, config: ThinkerConfig) -> None:
        super().__init__()
        self.config, self.cells = config, Cells.of(config, vit.grid[0])
        self.predictor = Predictor(vit, config.dim, config.depth, config.heads)
        if config.past != "none":
            self.slow = SlowPath(vit, config)
            self.guidance = Guidance(config.dim, config.dim, config.depth, config.hidden)
        c = self.cells
        for name, cells in (("keep", c.recent), ("asked", c.future), ("past", c.slow)):
            self.register_buffer(name, places(cells, vit.grid), persistent=False)
        each, times = math.prod(vit.grid[1:]), torch.tensor([*c.recent, *c.future])
        later = (times[None] > times[:, None]).repeat_interleave(each, 0).repeat_interleave(each, 1)
        self.register_buffer("mask", torch.zeros(later.shape).masked_fill(later, -torch.inf)[None, None], False)

    @property
    def facts(self) -> dict[str, Any]:
        return {"config": {f.name: getattr(self.config, f.name) for f in fields(ThinkerConfig)}}

    def guides(self, past: Tensor) -> Guides:
        """What the slow path makes of the tokens of its cells [B, s, D]."""
        b = len(past)
        pos = self.predictor.pos_embed.expand(b, -1, -1)
        return self.guidance(*self.slow(past, self.past.expand(b, -1), pos))

    def forward(self, recent: Tensor, past: Tensor | None = None) -> Tensor:
        """Tokens of the future [B, m, D] from those of the recent cells [B, n, D]; without a past the dense path alone.

        No token sees a later cell than its own.
        """
        b = len(recent)
        guides = None if past is None or self.config.past == "none" else self.guides(past)
        keep, asked = self.keep.expand(b, -1), self.asked.expand(b, -1)[:, None]
        return self.predictor(recent, keep, asked, attn_mask=self.mask, guides=guides)[:, 0].float()

    def flops(self) -> float:
        """Forward FLOPs for one clip, the frozen encoder left out."""
        c = self.config
        found = self.predictor.flops(self.keep.shape[1], 1, self.asked.shape[1])
        if c.past == "none":
            return found
        s, width = self.past.shape[1], self.slow.embed.in_features
        guided = c.depth * 2.0 * c.hidden * 6 * c.dim + 2.0 * c.dim**2 * (s + c.thoughts) * c.depth
        return found + 2.0 * s * width * c.dim + block_flops(s + c.thoughts, c.dim, c.slow_depth) + guided
