"""From an image's tokens and a question to the answer's embedding, or to the answer itself, as a run keeps it.

VL-JEPA's predictor (arXiv 2512.10942; no public code): bidirectional blocks over the image's tokens and the question's,
the mean over all that is no padding, a linear map; and a text encoder that embeds answers. `writes`: the same blocks
as a captioner: the answer's bytes follow, causally, and are scored one after another.
Shapes: B images, N tokens, L bytes of a text, D width, E numbers of an embedding, V tokens that can come next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.models.kept import Kept
from ssl_bench.models.texts import END, PAD, ROWS, START, TOLD, attention, pooled
from ssl_bench.models.vit import block_flops, blocks, init_weights, run


@dataclass(frozen=True)
class AnswerConfig:
    depth: int = 2  # blocks over the image and the question
    text_depth: int = 1  # blocks of the encoder of answers
    heads: int = 2  # of attention
    out: int = 64  # numbers of an embedding
    asks: bool = True  # the question's tokens stand beside the image's; false: CLIP, which gets none
    writes: bool = False  # a captioner: no embedding, the answer's bytes one after another

    def check(self) -> None:
        refuse_outside("objective.answer.", self, {"depth": 1, "text_depth": 1, "heads": 1, "out": 2})
        if self.writes and (self.text_depth, self.out) != (AnswerConfig.text_depth, AnswerConfig.out):
            raise UserError("objective.answer.text_depth and out have no effect on a captioner: leave them out.")


class Answerer(Kept):
    """Predictor and encoder of answers, or a captioner, on tokens of width `dim`; texts have `length` bytes at most."""

    file = "answers"

    def __init__(self, config: AnswerConfig, dim: int, length: int) -> None:
        super().__init__()
        config.check()
        if dim % config.heads:
            raise UserError(f"objective.answer.heads={config.heads} must divide backbone.embed_dim={dim}.")
        self.config, self.dim, self.length = config, dim, length
        self.table = nn.Parameter(torch.randn(ROWS, dim) * dim**-0.5)
        self.places = nn.Parameter(0.02 * torch.randn(length + 1, dim))
        self.blocks, self.norm = blocks(dim, config.depth, config.heads), nn.LayerNorm(dim)
        if not config.writes:
            self.reader, self.reader_norm = blocks(dim, config.text_depth, config.heads), nn.LayerNorm(dim)
            self.to_answer, self.to_text = nn.Linear(dim, config.out), nn.Linear(dim, config.out)
        for part in self.children():
            init_weights(part)

    @property
    def facts(self) -> dict[str, Any]:
        return {"config": dict(vars(self.config)), "dim": self.dim, "length": self.length}

    def look_up(self, ids: Tensor) -> Tensor:
        return self.table[ids] * self.dim**0.5 + self.places[: ids.shape[1]]

    def prompt(self, tokens: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """What the blocks begin with [B, T, D], and which of it is there [B, T]."""
        there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if not self.config.asks:
            return tokens, there
        return torch.cat([tokens, self.look_up(question)], 1), torch.cat([there, question != PAD], 1)

    def answer(self, tokens: Tensor, question: Tensor) -> Tensor:
        """Unit vectors [B, E] from an image's tokens [B, N, D] and a question [B, L]."""
        x, there = self.prompt(tokens, question)
        x = self.norm(run(self.blocks, x, attention(there.long() - 1, causal=False)))
        return F.normalize(self.to_answer(pooled(x, there)).float(), dim=1)

    def text(self, ids: Tensor) -> Tensor:
        """Unit vectors [B, E] of answers [B, L]."""
        there = ids != PAD
        x = self.reader_norm(run(self.reader, self.look_up(ids), attention(there.long() - 1, causal=False)))
        return F.normalize(self.to_text(pooled(x, there)).float(), dim=1)

    def likelihood(self, tokens: Tensor, question: Tensor, ids: Tensor) -> Tensor:
        """Log-probability [B] of each answer [B, L] with its end, divided by its tokens: CapPa's mean per caption."""
        x, there = self.prompt(tokens, question)
        given = torch.cat([torch.full_like(ids[:, :1], START), ids], 1)
        lasting = ids != PAD
        target = F.pad(ids, (0, 1)).masked_fill(F.pad(lasting, (1, 0), value=True) & ~F.pad(lasting, (0, 1)), END)
        seen = torch.cat([there, F.pad(lasting, (1, 0), value=True)], 1)
        mask = attention(seen.long() - 1, causal=False)
        first = x.shape[1]
        later = torch.ones(seen.shape[1], seen.shape[1], dtype=torch.bool, device=x.device).triu(1)
        later[:, :first] = False  # all see the image and the question; the answer sees what is written
        x = torch.cat([x, self.look_up(given)], 1)
        x = self.norm(run(self.blocks, x, mask.masked_fill(later, -torch.inf)))[:, first:]
        scores = F.linear(x, self.table[:TOLD]).float()
        each = -F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        told = (target != PAD).to(each)
        return (each * told).sum(1) / told.sum(1)

    def flops(self, tokens: int) -> float:
        """Forward FLOPs for one image with `tokens` tokens, its question and its answer."""
        c, n = self.config, tokens + (self.length if self.config.asks else 0)
        if c.writes:
            n += self.length + 1
            return block_flops(n, self.dim, c.depth) + 2.0 * (self.length + 1) * self.dim * TOLD
        read = block_flops(self.length, self.dim, c.text_depth)
        return block_flops(n, self.dim, c.depth) + read + 4.0 * self.dim * c.out
