"""Texts as rows of tokens for the shared transformer: views of a row that do not see one another, what comes next.

A row holds one or several views one after another, without padding between them; positions restart at each view's first
token, and no token sees another view's. So views may share a row or have one each, and the network says the same.
Shapes: B rows, T places, L tokens of a text, D width, V tokens that can come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAD, START, END = 0, 256, 257  # below START: bytes and a dictionary's words; START begins Code, END ends it
PRED, PREDS = 258, 10  # the learned tokens that Text may be followed by
ROWS = PRED + PREDS  # of the table
TOLD = PRED  # tokens that can come next: all before


@dataclass(frozen=True)
class Rows:
    """Tokens and the view that each belongs to."""

    ids: Tensor  # int64 [B, T], PAD at the end
    view: Tensor  # int64 [B, T], 0, 1, ...; -1 at the end

    @property
    def places(self) -> Tensor:
        """Position within its view [B, T]; 0 at the end."""
        index = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        first = (self.view[:, :, None] == self.view[:, None]).int().argmax(2)
        return (index - first) * (self.view >= 0)

    def last(self, view: int) -> Tensor:
        """The place of the view's last token [B]; 0 where it has none."""
        index = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (index * (self.view == view)).amax(1)


def rows(*parts: tuple[Tensor, int]) -> Rows:
    """Texts [B, n] with their view each, one after another in one row; padding moves to the end."""
    ids = torch.cat([part for part, _ in parts], 1)
    view = torch.cat([torch.full_like(part, which) for part, which in parts], 1)
    order = (ids == PAD).to(torch.uint8).argsort(dim=1, stable=True)
    ids, view = ids.gather(1, order), view.gather(1, order)
    return Rows(ids, view.masked_fill(ids == PAD, -1))


def one(token: int, like: Tensor) -> Tensor:
    """The same token for each row of `like`: [B, 1]."""
    return torch.full_like(like[:, :1], token)


def as_bytes(texts: Sequence[str], length: int) -> Tensor:
    """Bytes of texts, int64 [N, L], PAD behind each."""
    return torch.tensor([list(text.encode().ljust(length, bytes([PAD]))) for text in texts])


def pooled(x: Tensor, there: Tensor) -> Tensor:
    """Mean [B, D] over the tokens [B, T, D] that are there [B, T]."""
    share = there.to(x.dtype)
    return (x * share[..., None]).sum(1) / share.sum(1, keepdim=True).clamp(min=1)


def asking(text: Tensor, preds: int) -> list[tuple[Tensor, int]]:
    """Text [B, L] and `preds` [PRED] tokens behind it in descending number, as view 0: the last is always number 1."""
    return [(text, 0), *((one(PRED + i, text), 0) for i in reversed(range(preds)))]


def attention(view: Tensor, causal: bool) -> Tensor:
    """What is added to attention scores, [B, 1, T, T]: 0 where a token sees another of its own view (-1: of none).

    Every token sees itself: a row without a finite entry would be NaN.
    """
    seen = (view[:, :, None] == view[:, None]) & (view[:, None] >= 0)
    if causal:
        seen = seen.tril()
    seen = seen | torch.eye(view.shape[1], dtype=torch.bool, device=view.device)
    return torch.zeros(seen.shape, device=view.device).masked_fill(~seen, -torch.inf)[:, None]


def states(vit: Any, given: Rows) -> Tensor:
    """Outputs [B, T, D] of the network, after its final norm."""
    x = vit.patch_embed.look_up(given.ids) + vit.pos_embed[0, given.places]
    found: Tensor = vit.encode(x, attention(given.view, vit.config.causal))
    return found


def at(states: Tensor, place: Tensor) -> Tensor:
    """The output [B, D] at one place [B] of each row."""
    return states[torch.arange(len(states), device=states.device), place]


def logits(vit: Any, states: Tensor) -> Tensor:
    """Scores [..., V] of what comes next, by the table that the tokens come from."""
    return F.linear(states, vit.patch_embed.table[:TOLD])


@torch.no_grad()
def generate(vit: Any, text: Tensor, length: int) -> Tensor:
    """Code of each Text [B, L], the likeliest token each time: [B, length], END where it ends and PAD behind."""
    out = text[:, :0]
    over = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    for _ in range(length):
        given = rows((text, 0), (one(START, text), 0), (out, 0))
        scores = logits(vit, at(states(vit, given), given.last(0)))
        scores[:, [PAD, START]] = -torch.inf
        token = scores.argmax(1).masked_fill(over, PAD)
        out, over = torch.cat([out, token[:, None]], 1), over | (token == END)
        if over.all():
            break
    return F.pad(out, (0, length - out.shape[1]))


def spans(draw: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform draws [B, 2] and numbers of steps [B] -> spans [s, t): s uniform, then t above s, never the whole."""
    n = count.to(draw)
    whole = (n - 1) / n**2  # chance of s = 0 without the whole span, which would be drawn again
    u = draw[:, 0] * (1 - 1 / n**2)
    s = torch.where(u < whole, 0.0, (1 + (u - whole) * n).floor().clamp(max=n - 1))
    ends = torch.where(s == 0, n - 1, n - s)
    return s.long(), (s + 1 + (draw[:, 1] * ends).floor().clamp(max=ends - 1)).long()


def span_parts(
    states: Tensor, text: tuple[Tensor, Tensor], code: tuple[Tensor, Tensor], span: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """States [B, T, D]; first and last place [B] of Text and of Code; spans of the steps between places, joined over
    the gap between both -> what lies around the span, and the span: sums of the states' differences, [B, D] each.
    """

    def path(k: Tensor) -> Tensor:
        first = torch.minimum(text[0] + k, text[1])
        second = code[0] + (k - (text[1] - text[0])).clamp(min=0)
        return at(states, first) - at(states, text[0]) + at(states, second) - at(states, code[0])

    patch = path(span[1]) - path(span[0])
    return path(text[1] - text[0] + code[1] - code[0]) - patch, patch


def counts(x: Tensor) -> Tensor:
    """How often each token occurs in texts [B, 1, L], padding left out: [B, 255]."""
    return F.one_hot(x[:, 0].long(), START)[..., 1:].sum(1).float()
