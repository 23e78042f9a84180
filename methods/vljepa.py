"""VL-JEPA: from an image and a question to the embedding of the answer, by a contrastive loss.

"VL-JEPA: Joint Embedding Predictive Architecture for Vision-language", 2025, arXiv 2512.10942 (v1; v2 2026 has other
numbers). No official code was found: what is here follows the paper's description, small and from random weights. The
predictor's blocks see image and question in both directions; the loss is the mean of both directions' cross-entropies
of unit vectors. Answers repeat in a batch ("red" for a sixth of the images): an equal text is never a negative.
The published image encoder is frozen and its text encoder learns at a twentieth of the rate; both are pretrained there.
Ours begin at random, and everything is trained.

Recipes of what it is compared with, on the same blocks: `clip` (no question, whole captions; Radford et al. 2021, arXiv
2103.00020), `caption` (the answer's bytes one after another; CapPa's `Cap`, arXiv 2306.07915), `cosine` (no negatives).
Evaluated: the image encoder, mean of the patch tokens; predictor and text encoder are kept for `zeroshot`.
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
from ssl_bench.data.captioned import LENGTH, QUESTIONS, Captioned
from ssl_bench.models.answers import AnswerConfig, Answerer
from ssl_bench.models.texts import as_bytes
from ssl_bench.models.vit import ViT
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views


@dataclass(frozen=True)
class VLJEPAConfig:
    answer: AnswerConfig = AnswerConfig()
    loss: Literal["infonce", "cosine"] = "infonce"  # contrastive, or 1 - cosine without negatives, which collapses
    temperature: float = 0.07  # of the contrastive loss; the paper's is not told
    equal_negatives: bool = False  # whether equal texts count as negatives, as where nobody looks

    def check(self) -> None:
        self.answer.check()
        refuse_outside("objective.", self, {"temperature": 1e-3})

    def unused(self) -> set[str]:
        """Settings without effect beside the others: `resolve` refuses to have them set."""
        contrastive = {"temperature", "equal_negatives"}
        return contrastive | {"loss"} if self.answer.writes else contrastive if self.loss == "cosine" else set()


def infonce(a: Tensor, b: Tensor, equal: Tensor, temperature: float) -> Tensor:
    """Of unit vectors [B, D], pair by pair: mean of both directions' cross-entropies; none where `equal` [B, B]."""
    labels = torch.arange(len(a), device=a.device)
    others = equal & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    logits = (a @ b.T / temperature).masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def same_text(ids: Tensor) -> Tensor:
    """Which texts [B, L] are equal: bool [B, B]."""
    return (ids[:, None] == ids[None]).all(2)


class VLJEPA(Method):
    """Image encoder, and what answers."""

    family, paper = "JEPA", "VL-JEPA, 2025, arXiv 2512.10942"
    sees, evaluated, pooling = "an image, a question, its answer", "image encoder", "mean"
    kinds = ("captioned",)
    fewest = 2  # negatives
    objective: VLJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        assert isinstance(info.item, Captioned)
        self.item, self.objective = info.item, config.objective
        self.encoder = self.make_vit()
        self.answers = Answerer(self.objective.answer, config.backbone.embed_dim, LENGTH)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        """One question of each image; without questions the last, whose answer is the whole caption."""
        pairs = self.item.texts(images).long()
        which = (rng.rand() * QUESTIONS).long()
        if not self.objective.answer.asks:
            which = torch.full_like(which, QUESTIONS - 1)
        question, answer = pairs[torch.arange(len(pairs), device=pairs.device), which].unbind(1)
        images = (self.item.floats(images) - self.mean) / self.std
        return {"images": images, "question": question, "answer": answer}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, tokens = self.objective, self.encoder(views["images"])
        if o.answer.writes:
            return {"loss": -self.answers.likelihood(tokens, views["question"], views["answer"]).mean()}
        predicted, target = self.answers.answer(tokens, views["question"]), self.answers.text(views["answer"])
        spread = {"answer_std": predicted.detach().std(0).mean(), "text_std": target.detach().std(0).mean()}
        if o.loss == "cosine":
            return {"loss": (1 - (predicted * target).sum(1)).mean(), **spread}
        equal = same_text(collectives.gather(views["answer"]))
        if o.equal_negatives:
            equal = torch.zeros_like(equal)
        both = collectives.gather(predicted), collectives.gather(target)
        return {"loss": infonce(both[0], both[1], equal, o.temperature), **spread}

    def judged(self, encoder: ViT, x: Tensor) -> Tensor:
        """The embedding predicted for the whole caption: a collapse without negatives is one of answers."""
        if self.objective.answer.writes:
            return super().judged(encoder, x)
        question = as_bytes(["caption"], LENGTH).to(x.device).expand(len(x), -1)
        return self.answers.answer(encoder(x), question)

    def kept(self) -> Answerer:
        return self.answers

    def flops(self) -> float:
        return 3 * (self.encoder.flops() + self.answers.flops(self.encoder.num_prefix + self.encoder.num_patches))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "from random weights and not on V-JEPA 2, Llama and EmbeddingGemma, a fixed temperature, made images",
    "small, quick, clip, caption, cosine": "a small network from random weights, all of it trained at one rate, a fixed"
    " temperature of 0.07, 32 px",
}  # fmt: skip


def paper(backbone: str = "vit_large_patch16", **changes: Any) -> Config:
    """The shape of the paper's image stage, which has 2 billion samples: zero-shot ImageNet 61.6 there.

    ssl-bench pretrain --method vljepa --recipe paper data.name=captions:100000
    """
    objective = VLJEPAConfig(AnswerConfig(depth=8, text_depth=8, heads=16, out=1536))
    optim = OptimConfig(lr=5e-5, lr_end=5e-5, warmup=0.0)
    return budgets.captioned("vljepa", objective, optim, backbone, **changes)


def small(**changes: Any) -> Config:
    """32 px, 50 epochs. ssl-bench pretrain --method vljepa"""
    return budgets.small_captioned("vljepa", VLJEPAConfig(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """A first look: ssl-bench pretrain --method vljepa --recipe quick"""
    return budgets.quick_captioned("vljepa", VLJEPAConfig(), _optim(), **changes)


def clip(**changes: Any) -> Config:
    """Whole captions without a question: ssl-bench pretrain --method vljepa --recipe clip"""
    return _variant("clip", VLJEPAConfig(AnswerConfig(asks=False)), **changes)


def caption(**changes: Any) -> Config:
    """The answer byte by byte: ssl-bench pretrain --method vljepa --recipe caption"""
    return _variant("caption", VLJEPAConfig(AnswerConfig(writes=True)), **changes)


def cosine(**changes: Any) -> Config:
    """Without negatives, which collapses: ssl-bench pretrain --method vljepa --recipe cosine"""
    return _variant("cosine", VLJEPAConfig(loss="cosine"), **changes)


def _variant(recipe: str, objective: VLJEPAConfig, **changes: Any) -> Config:
    """The quick run under another objective."""
    return replace(budgets.quick_captioned("vljepa", objective, _optim(), **changes), recipe=recipe)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.05, weight_decay=0.05)
