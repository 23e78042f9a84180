"""LLM-JEPA: the next token of Text and Code, and beside it Code's embedding predicted from Text's.

Huang, LeCun & Balestriero, "LLM-JEPA", 2025, arXiv 2509.14252; facts from the official code (rbalestr-lab/llm-jepa,
dd61966, and galilai-group/llm-jepa, 2d18002). One causal network; both embeddings get a gradient: no EMA, no
stop-gradient, no negatives, and the next-token loss alone is against collapse. The predictor is the network itself,
run over `preds` learned [PRED] tokens behind Text; an embedding is the last layer's output at a view's last token.
Text and Code share a second row and do not see one another; positions restart there.
Ours: the end of Code is a token of its own and is trained (official: where padding is the end token it never is).

`span` is STP's term ("semantic tube", 2026, arXiv 2602.22617; the same repository): what a random span of tokens adds
to the state shall point where what lies around it points. It needs no second row.
Evaluated: the encoder, causal as trained, mean of Text's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_outside
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models import texts
from ssl_bench.models.texts import END, PAD, PREDS, START, TOLD, Rows, asking, one, rows
from ssl_bench.models.vit import ViT
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views


@dataclass(frozen=True)
class LLMJEPAConfig:
    jepa: float = 1.0  # weight of 1 - cosine of Text's and Code's embedding (lambda); 0: next tokens alone
    preds: int = 1  # [PRED] tokens behind Text (k); 0: the embedding is at Text's last token
    dropout: float = 0.0  # share of the steps without that term (alpha), whose second row is not computed then
    token: float = 1.0  # weight of the next-token loss (gamma)
    told: Literal["code", "all"] = "code"  # next tokens of Code and its end, or of Text too (as the official code does)
    span: float = 0.0  # weight of STP's term

    def check(self) -> None:
        least = dict.fromkeys(("jepa", "preds", "dropout", "token", "span"), 0.0)
        refuse_outside("objective.", self, least, {"preds": PREDS + 1, "dropout": 1})
        if not self.jepa and (self.preds, self.dropout) != (0, 0):
            raise UserError("objective.preds and dropout have no effect while objective.jepa is 0: set them to 0.")
        if not (self.token or self.jepa or self.span):
            raise UserError("objective.token, jepa and span are all 0: nothing is left to learn.")


def next_token_loss(logits: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """Logits [B, T, V], tokens and weights of what follows each place [B, T]: mean over the tokens of all processes."""
    following = ids.roll(-1, 1).masked_fill(weight == 0, PAD)
    each = F.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none").view_as(weight)
    return (each * weight).mean() / collectives.mean(weight.mean())


def jepa_loss(text: Tensor, code: Tensor) -> Tensor:
    """1 - cosine of embeddings [B, D], the mean; both sides get a gradient."""
    return (1 - F.cosine_similarity(text, code, dim=-1)).mean()


def llmjepa_loss(token: Tensor, text: Tensor, code: Tensor, gamma: float, weight: float) -> Tensor:
    """gamma * next-token loss + lambda * (1 - cosine)."""
    return gamma * token + weight * jepa_loss(text, code)


def skipped(draw: Tensor, dropout: float) -> bool:
    """Whether a step whose uniform draw this is goes without the JEPA term."""
    return bool(draw > 1 - dropout)


class LLMJEPA(Method):
    """One causal network."""

    family, paper = "JEPA", "LLM-JEPA, Huang et al. 2025, arXiv 2509.14252"
    sees, evaluated, pooling = "a text and code of one meaning, causally", "encoder, causal", "mean"
    kinds = ("text",)
    objective: LLMJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        if not config.backbone.causal:
            raise UserError("llmjepa needs backbone.causal=true: what sees the next token need not foretell it.")
        self.encoder = self.make_vit()
        self.length = info.item.shape[1]
        if o.preds > self.length:
            raise UserError(f"objective.preds={o.preds} must be at most the tokens of a text, {self.length}.")

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        """The whole row with weights of what follows each place; Text and Code as two views of a second row."""
        o, (text, code) = self.objective, images.long().unbind(1)
        whole = rows((text, 0), (one(START, text), 0), (code, 0), (one(END, text), 0))
        told = whole.ids.roll(-1, 1) != PAD
        told[:, -1] = False  # behind a full row comes nothing
        if o.told == "code":
            told &= (whole.ids == START).int().cumsum(1) > 0
        found = {"ids": whole.ids, "weight": told.float()}
        if o.span:
            found["drawn"] = rng.rand(2)
        if o.jepa and not (o.dropout and skipped(rng.shared(1), o.dropout)):
            second = rows(*asking(text, o.preds), (code, 1))
            found |= {"second": second.ids, "view": second.view}
        return found

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, net, ids = self.objective, self.encoder, views["ids"]
        hidden = texts.states(net, Rows(ids, (ids != PAD).long() - 1))
        token = next_token_loss(texts.logits(net, hidden), ids, views["weight"])
        loss, out = o.token * token, {"token": token}
        if "second" in views:
            second = Rows(views["second"], views["view"])
            found = texts.states(net, second).float()
            text, code = (texts.at(found, second.last(view)) for view in (0, 1))
            loss = llmjepa_loss(token, text, code, o.token, o.jepa)
            others = jepa_loss(text.detach(), code.detach().roll(1, 0))  # of pairs that are none: the term says
            out |= {"jepa": jepa_loss(text, code), "others": others}  # something where these are farther apart
        if o.span:
            out["span"] = self.span(hidden.float(), ids, views["drawn"])
            loss = loss + o.span * out["span"]
        return {"loss": loss, **out}

    def span(self, hidden: Tensor, ids: Tensor, drawn: Tensor) -> Tensor:
        """STP's 1 - cosine, over Text and over Code with the tokens that it begins and ends with."""
        start = (ids == START).int().argmax(1)
        text, code = (torch.zeros_like(start), start - 1), (start, (ids != PAD).sum(1) - 1)
        rest, patch = texts.span_parts(hidden, text, code, texts.spans(drawn, start + code[1] - code[0] - 1))
        return jepa_loss(rest, patch)

    def judged(self, encoder: ViT, x: Tensor) -> Tensor:
        """Text's embedding, as the loss has it."""
        given = rows(*asking(x[:, 0].long(), self.objective.preds))
        return texts.at(texts.states(encoder, given), given.last(0))

    def flops(self) -> float:
        o, net, whole = self.objective, self.encoder, 2 * self.length + 2
        first = net.flops(whole) + 2.0 * whole * TOLD * self.config.backbone.embed_dim
        second = net.flops(2 * self.length + o.preds) * (1 - o.dropout) if o.jepa else 0.0
        return 3 * (first + second)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "bytes in place of a vocabulary, a ViT's blocks, fp32 weights, the end token is trained",
    "small, quick, plain, dropout, stp": "a small network from random weights, the end token is trained, next tokens of"
    " Code alone, lambda 1 (STP: 0.02) not searched for, AdamW at 1e-3 with warm-up and a cosine",
}  # fmt: skip


def paper(backbone: str = "vit_small_patch1", **changes: Any) -> Config:
    """From random weights on NL-RX-SYNTH, 4 epochs of 128: prefix match 60.6, plain 54.4 (paper; Llama's shape, 1 B).

    ssl-bench pretrain --method llmjepa --recipe paper data.name=folder:/data/synth#kind=text
    """
    optim = OptimConfig(lr=8e-5, warmup=0.0, weight_decay=0.0, clip=1.0)
    return budgets.texts("llmjepa", LLMJEPAConfig(2.0, 3, told="all"), optim, backbone, **changes)


def small(**changes: Any) -> Config:
    """Half a ViT-Tiny, 50 epochs. ssl-bench pretrain --method llmjepa"""
    return budgets.small_texts("llmjepa", LLMJEPAConfig(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method llmjepa --recipe quick"""
    return budgets.quick_texts("llmjepa", LLMJEPAConfig(), _optim(), **changes)


def plain(**changes: Any) -> Config:
    """What it is compared with, next tokens alone: ssl-bench pretrain --method llmjepa --recipe plain"""
    return _variant("plain", LLMJEPAConfig(jepa=0.0, preds=0), **changes)


def dropout(**changes: Any) -> Config:
    """The JEPA term in a quarter of the steps (paper, Table 6): ssl-bench pretrain --method llmjepa --recipe dropout"""
    return _variant("dropout", LLMJEPAConfig(dropout=0.75), **changes)


def stp(**changes: Any) -> Config:
    """Next tokens and STP's span term: ssl-bench pretrain --method llmjepa --recipe stp"""
    return _variant("stp", LLMJEPAConfig(jepa=0.0, preds=0, span=0.02), **changes)


def _variant(recipe: str, objective: LLMJEPAConfig, **changes: Any) -> Config:
    """The quick run under another objective."""
    return replace(budgets.quick_texts("llmjepa", objective, _optim(), **changes), recipe=recipe)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.01)
