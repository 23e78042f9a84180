"""What a latent becomes under an action: the one action-conditioned predictor, and what it predicts for an encoder.

Read in stable-worldmodel `wm/lewm/*` at addbab4 (MIT) and vjepa2 `src/models/ac_predictor.py` at c2963a4 (MIT): blocks
whose two branches are shifted, scaled and gated by the action (AdaLN-zero: at first a block changes nothing), attention
to the past alone, learned positions. Actions also enter as tokens of their own before each frame's (V-JEPA 2-AC), or
laid beside the latent (DINO-WM). Shapes: B sequences, T frames, F numbers of a frame's features, D of its latent, A of
an action (all those between two frames), W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_heads, refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.models.kept import Kept
from ssl_bench.parallel import collectives

Reads = Literal["cls", "mean", "cells"]


@dataclass(frozen=True)
class DynamicsConfig:
    """The latent and the predictor."""

    reads: Reads = "cls"  # what of a frame's tokens is its feature: CLS, mean of the patches, or cells laid end to end
    cells: int = 4  # cells a side, for reads=cells: patch tokens averaged within each
    latent: int = 32  # width of the projected latent; 0: the feature itself, standardised (of frozen encoders)
    projector: int = 256  # hidden width of the projector, and of the one behind the predictor
    norm: Literal["batch", "layer"] = "batch"  # in them (batch: LeWM's; its running statistics lag at high rates)
    conditioning: Literal["adaln", "tokens", "concat"] = "adaln"  # how an action enters
    width: int = 96  # of the predictor
    depth: int = 2  # blocks
    heads: int = 4  # of the predictor's attention
    channels: int = 0  # of a head; 0: width / heads
    mlp_ratio: float = 2.0  # hidden width of a block's MLP / width
    dropout: float = 0.0  # LeWM: 0.1
    history: int = 3  # frames that are seen at once

    def check(self) -> None:
        refuse_outside("dynamics.", self, {"cells": 1, "latent": 0, "projector": 1, "width": 1, "depth": 1, "heads": 1})
        least = {"history": 1, "dropout": 0.0, "mlp_ratio": 0.01, "channels": 0}
        refuse_outside("dynamics.", self, least, {"dropout": 1})
        refuse_heads("dynamics.", self, "width", "heads")


def frame_mask(frames: int, tokens: int) -> Tensor:
    """bool [n, n], n = frames * tokens: whether a token sees another, of its own frame or of an earlier one."""
    frame = torch.arange(frames * tokens) // tokens
    return frame[:, None] >= frame


class Attention(nn.Module):
    """Multi-head attention with its own LayerNorm; `inner` is heads times channels of a head."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv(self.norm(x)).chunk(3, -1))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = F.dropout(scores.masked_fill(~mask, -torch.inf).softmax(-1), self.dropout, self.training)
        out: Tensor = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training)


class ConditionalBlock(nn.Module):
    """x + gate * attention(shifted and scaled norm), then the same with an MLP; all six come from the condition."""

    def __init__(self, dim: int, heads: int, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, heads * channels, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )  # fmt: skip
        self.adaln = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.adaln.weight)
        nn.init.zeros_(self.adaln.bias)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaln(F.silu(condition)).chunk(6, -1)
        plain = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        x = x + gate * self.attn(plain * (1 + scale) + shift, mask)
        plain = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        out: Tensor = x + gate2 * self.mlp(plain * (1 + scale2) + shift2)
        return out


class PlainBlock(nn.Module):
    """The same without a condition."""

    def __init__(self, dim: int, heads: int, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, heads * channels, dropout)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(x, mask)
        out: Tensor = x + self.mlp(x)
        return out


class ActionEmbed(nn.Sequential):
    """An action [..., A] -> [..., W]: LeWM's linear map to `narrow` numbers and an MLP."""

    def __init__(self, actions: int, narrow: int, hidden: int, width: int) -> None:
        super().__init__(nn.Linear(actions, narrow), nn.Linear(narrow, hidden), nn.SiLU(), nn.Linear(hidden, width))


class CausalPredictor(nn.Module):
    """Blocks over the latents of up to `frames` frames, each of which sees itself and what came before."""

    def __init__(
        self, frames: int, depth: int, heads: int, channels: int, hidden: int, dim: int, dropout: float = 0.0,
        conditioning: str = "adaln",
    ) -> None:  # fmt: skip
        super().__init__()
        self.conditioning = conditioning
        self.pos_embedding = nn.Parameter(torch.randn(1, frames, dim))
        self.norm = nn.LayerNorm(dim)
        kind: Any = ConditionalBlock if conditioning == "adaln" else PlainBlock
        self.blocks = nn.ModuleList([kind(dim, heads, channels, hidden, dropout) for _ in range(depth)])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x, condition [B, T, W] -> [B, T, W]; `tokens` sees the condition as a token before each frame's."""
        frames = x.shape[1]
        x = x + self.pos_embedding[:, :frames]
        tokens = 2 if self.conditioning == "tokens" else 1
        if tokens == 2:
            x = torch.stack([condition + self.pos_embedding[:, :frames], x], 2).flatten(1, 2)
        mask = frame_mask(frames, tokens).to(x.device)
        for block in self.blocks:
            x = block(x, condition, mask)
        out: Tensor = self.norm(x[:, 1::2] if tokens == 2 else x)
        return out


class RowNorm(nn.BatchNorm1d):
    """BatchNorm over all rows of [..., D], of all processes; what it has seen serves outside training."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if not self.training or collectives.world_size() == 1:
            return super().forward(rows).view_as(x)
        mean = collectives.mean(rows.mean(0))
        var = collectives.mean((rows - mean).square().mean(0))
        self.seen(mean.detach(), var.detach(), len(rows) * collectives.world_size())
        out = (rows - mean) * torch.rsqrt(var + self.eps)
        return (out * self.weight + self.bias if self.affine else out).view_as(x)

    @torch.no_grad()
    def seen(self, mean: Tensor, var: Tensor, count: int) -> None:
        """The running statistics, as torch keeps them."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * count / (count - 1), share)


def projector(inputs: int, hidden: int, out: int, norm: str) -> nn.Sequential:
    """LeWM's: linear, norm, GELU, linear."""
    middle = RowNorm(hidden) if norm == "batch" else nn.LayerNorm(hidden)
    return nn.Sequential(nn.Linear(inputs, hidden), middle, nn.GELU(), nn.Linear(hidden, out))


class Dynamics(Kept):
    """Features of a frame -> its latent -> the next frame's, given the actions between them."""

    file = "dynamics"

    def __init__(self, config: DynamicsConfig, features: int, actions: int) -> None:
        super().__init__()
        config.check()
        self.config, self.features, self.actions = config, features, actions
        self.dim = config.latent or features
        c, w = config, config.width
        if c.latent:
            self.project: nn.Module = projector(features, c.projector, c.latent, c.norm)
            self.unproject: nn.Module = projector(w, c.projector, c.latent, c.norm)
        else:
            self.project = RowNorm(features, momentum=None, affine=False)  # the mean of all that was seen
            self.unproject = nn.Linear(w, features)
        self.enter = nn.Linear(self.dim + (w if c.conditioning == "concat" else 0), w)
        self.act = ActionEmbed(actions, actions, 4 * w, w)
        hidden = round(c.mlp_ratio * w)
        self.predictor = CausalPredictor(
            c.history, c.depth, c.heads, c.channels or w // c.heads, hidden, w, c.dropout, c.conditioning
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What `Dynamics(DynamicsConfig(**config), features, actions)` needs to be made again."""
        return {"config": dict(vars(self.config)), "features": self.features, "actions": self.actions}

    def forward(self, z: Tensor, actions: Tensor) -> Tensor:
        """Latents [B, T, D] with the actions [B, T, A] that follow each -> the latents one frame on, T <= history."""
        given = self.act(actions)
        x = self.enter(torch.cat([z, given], -1) if self.config.conditioning == "concat" else z)
        out: Tensor = self.unproject(self.predictor(x, given))
        return out

    def rollout(self, z: Tensor, actions: Tensor) -> Tensor:
        """From known latents [B, h, D]: [B, k, D] for actions [B, h - 1 + k, A], those between the known ones first."""
        known, first = z, z.shape[1]
        for _ in range(actions.shape[1] - first + 1):
            last, seen = known.shape[1], min(known.shape[1], self.config.history)
            step = self(known[:, last - seen :], actions[:, last - seen : last])
            known = torch.cat([known, step[:, -1:]], 1)
        return known[:, first:]

    def flops(self, frames: int) -> tuple[float, float]:
        """Forward FLOPs of the latents of one frame, and of the predictor over `frames` at once."""
        c, w = self.config, self.config.width
        project = 2.0 * (self.features * c.projector + c.projector * c.latent) if c.latent else 0.0
        leave = 2.0 * (w * c.projector + c.projector * c.latent) if c.latent else 2.0 * w * self.features
        embed = 2.0 * (self.actions**2 + self.actions * 4 * w + 4 * w * w)
        enter = 2.0 * w * self.enter.in_features
        tokens = frames * (2 if c.conditioning == "tokens" else 1)
        inner = c.heads * (c.channels or w // c.heads)
        block = 2.0 * tokens * w * (4 * inner + 2 * c.mlp_ratio * w) + 4.0 * tokens**2 * inner
        block += 12.0 * tokens * w * w if c.conditioning == "adaln" else 0.0
        return project, frames * (embed + enter + leave) + c.depth * block


def forecast_loss(dynamics: Dynamics, z: Tensor, actions: Tensor, rollout: int = 2, exponent: float = 1.0) -> Tensor:
    """V-JEPA 2-AC's: mean |error|^p of the next latents of z [B, T, D], and of those `rollout` steps on, by itself.

    Teacher forcing over all frames that fit the history, and the mean over the steps 2 to `rollout` from the first
    frame; both with equal weight. Targets get no gradient.
    """
    seen = min(dynamics.config.history, z.shape[1] - 1)
    forced = dynamics(z[:, :seen], actions[:, :seen])
    loss = (forced - z[:, 1 : seen + 1].detach()).abs().pow(exponent).mean()
    if rollout > 1:
        alone = dynamics.rollout(z[:, :1], actions[:, :rollout])[:, 1:]
        loss = loss + (alone - z[:, 2 : rollout + 1].detach()).abs().pow(exponent).mean()
    return loss


def read(tokens: Tensor, prefix: int, grid: tuple[int, ...], config: DynamicsConfig) -> Tensor:
    """A frame's feature [B, F] from its tokens [B, P + N, D]."""
    if config.reads == "cls":
        if not prefix:
            raise UserError("dynamics.reads=cls needs a CLS token: set backbone.class_token=true, or reads=mean.")
        return tokens[:, 0]
    patches = tokens[:, prefix:]
    if config.reads == "mean":
        return patches.mean(1)
    maps = patches.transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(maps, (min(config.cells, grid[0]), min(config.cells, grid[1]))).flatten(1)


def width_of(config: DynamicsConfig, dim: int, grid: tuple[int, ...]) -> int:
    """F of an encoder of this width and grid."""
    down, across = (min(config.cells, side) for side in grid)
    return dim * down * across if config.reads == "cells" else dim
