"""NEPA: a causal ViT predicts the embedding of the next patch.

Xu et al., "Next-Embedding Prediction Makes Strong Vision Learners", 2025, arXiv 2512.16922 (code: SihanXU/nepa).

The sequence is CLS and then the patches in raster order; the output at each place must point along the raw patch
embedding of the next one. That target is the network's own input, detached: no mask, decoder or EMA target. Only the
stop-gradient guards against collapse, so the embedding's spread is logged.
Adapted to the shared ViT: absolute sin-cos positions, added after the target is taken (official: RoPE, QK-norm),
no LayerScale outside `paper()`.
Evaluated: the EMA of the weights, as official (EMA is used for evaluation only), mean of the patch tokens, run
*bidirectionally*: that is how the paper fine-tunes, and the shared protocols pass no attention mask. The paper gives
no frozen number; features of a causal network without its mask are off its training distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy
from ssl_bench.views.augment import AugmentConfig, augment


@dataclass(frozen=True)
class NEPAConfig:
    """Defaults are the paper's."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.08, 1.0), flip=0.5)  # crop and flip only
    momentum: float = 0.9999  # of the evaluated average; training never uses it

    def check(self) -> None:
        self.augment.check()
        if not 0 <= self.momentum < 1:
            raise UserError(f"objective.momentum={self.momentum} must lie in [0, 1): 1 would evaluate the start.")


def prediction_loss(h_in: Tensor, h_out: Tensor) -> Tensor:
    """-mean cos(h_out[t], h_in[t + 1]) over [B, T, D]; the target h_in gets no gradient (modeling_vit_nepa.py)."""
    return -F.cosine_similarity(h_out[:, :-1], h_in[:, 1:].detach(), dim=-1).mean()


class NEPA(Method):
    """One causal ViT, and its average for evaluation."""

    family, paper = "JEPA", "NEPA, Xu et al. 2025, arXiv 2512.16922"
    sees, evaluated, pooling = "1 crop, causally", "EMA, bidirectional", "mean"
    objective: NEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = config.objective
        if not config.backbone.class_token:
            raise UserError("nepa needs backbone.class_token=true: CLS predicts the first patch.")
        self.student = self.make_vit()
        self.encoder = frozen_copy(self.student)
        length = self.student.num_prefix + self.student.num_patches
        self.causal: Tensor  # added to the attention scores: no place sees a later one
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("causal", mask, persistent=False)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        return {"images": augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        sequence = self.student.embed(views["images"])
        with torch.no_grad():  # the patch embeddings before positions: a position is no secret worth predicting
            patches = self.student.patch_embed(views["images"])
        hidden = self.student.encode(sequence, self.causal.to(sequence.dtype))
        last = self.student.num_prefix - 1  # the token before the first patch: CLS, or the last register
        h_in = torch.cat([sequence[:, last : last + 1].detach(), patches], 1).float()
        spread = patches.float().flatten(0, 1).std(0).mean()
        return {"loss": prediction_loss(h_in, hidden[:, last:].float()), "embedding_std": spread}

    def after_step(self, at: float) -> None:
        ema(self.encoder, self.student, self.objective.momentum)

    def flops(self) -> float:
        embedding = 2.0 * self.student.num_patches * self.student.patch_embed.proj.weight.numel()
        return 3 * self.student.flops() + embedding


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "absolute positions, no QK-norm",
    "small, quick": "absolute positions, no QK-norm, no LayerScale, crops of 30 to 100 %, EMA 0.99",
}


def paper(backbone: str = "vit_base_patch14", **changes: Any) -> Config:
    """ViT-B/14, ImageNet-1k, 1600 epochs: fine-tuned 83.8 (paper).

    ssl-bench pretrain --method nepa --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(
        lr=3e-4 * 4096 / 256,  # 3e-4 by batch / 256
        warmup=0.025,
        weight_decay=0.05,
        beta2=0.95,
        clip=1.0,  # the Hugging Face Trainer's default applies
    )
    config = budgets.imagenet("nepa", NEPAConfig(), optim, backbone, 4096, 1600, **changes)
    return replace(config, backbone=replace(config.backbone, layer_scale=1e-5))


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method nepa"""
    return budgets.small("nepa", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method nepa --recipe quick"""
    return budgets.quick("nepa", _small(), _optim(), **changes)


def _small() -> NEPAConfig:
    return NEPAConfig(augment=AugmentConfig(crop_scale=(0.3, 1.0), flip=0.5), momentum=0.99)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05, beta2=0.95, clip=1.0)
