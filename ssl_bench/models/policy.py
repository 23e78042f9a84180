"""A policy as a run keeps it: from what is seen and what is wanted to a chunk of actions, and of latents to come.

Shapes: B pairs of frames, N patch tokens of a frame, D their width, K frames ahead, A numbers of the actions between
two frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_heads, refuse_outside
from ssl_bench.models.dynamics import PlainBlock
from ssl_bench.models.kept import Kept


@dataclass(frozen=True)
class PolicyConfig:
    chunk: int = 5  # frames ahead: the actions up to there, and the latents there
    width: int = 96  # of its tokens
    depth: int = 2  # blocks
    heads: int = 4  # of attention
    mlp_ratio: float = 2.0  # width of the MLP in widths of a token

    def check(self) -> None:
        refuse_outside("policy.", self, {"chunk": 1, "width": 1, "depth": 1, "heads": 1, "mlp_ratio": 0.01})
        refuse_heads("policy.", self, "width", "heads")


class Policy(Kept):
    """A transformer over the patch tokens of both frames and two queries, of actions and of the latent, a frame ahead.

    The limits of a world are the caller's business: actions are as they come.
    """

    file = "policy"

    def __init__(self, config: PolicyConfig, tokens: int, dim: int, actions: int) -> None:
        super().__init__()
        config.check()
        self.config, self.tokens, self.dim, self.actions = config, tokens, dim, actions
        w, hidden = config.width, round(config.mlp_ratio * config.width)
        self.enter = nn.Linear(dim, w)
        self.places = nn.Parameter(0.02 * torch.randn(2 * tokens, w))  # of the seen frame's tokens, then the goal's
        self.queries = nn.Parameter(0.02 * torch.randn(2 * config.chunk, w))  # for actions, then for latents
        self.blocks = nn.ModuleList(
            [PlainBlock(w, config.heads, w // config.heads, hidden) for _ in range(config.depth)]
        )
        self.norm = nn.LayerNorm(w)
        self.to_actions, self.to_latents = nn.Linear(w, actions), nn.Linear(w, dim)

    @property
    def facts(self) -> dict[str, Any]:
        shape = {"tokens": self.tokens, "dim": self.dim, "actions": self.actions}
        return {"config": dict(vars(self.config)), **shape}

    def forward(self, seen: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens [B, N, D] of two frames -> actions [B, K, A] and latents [B, K, D] of the frames ahead."""
        x = self.enter(torch.cat([seen, goal], 1)) + self.places
        x = torch.cat([x, self.queries.expand(len(x), -1, -1)], 1)
        everything = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, x, everything)
        told = self.norm(x[:, 2 * self.tokens :])
        return self.to_actions(told[:, : self.config.chunk]), self.to_latents(told[:, self.config.chunk :])

    def flops(self) -> float:
        """Forward FLOPs for one pair of frames."""
        c, w = self.config, self.config.width
        n = 2 * (self.tokens + c.chunk)
        block = 2.0 * n * w * w * (4 + 2 * c.mlp_ratio) + 4.0 * n * n * w
        leave = 2.0 * c.chunk * w * (self.actions + self.dim)
        return 4.0 * self.tokens * self.dim * w + c.depth * block + leave
