"""CAPI: predict the cluster of masked patches; clusters and their assignments come from the teacher, online.

Darcet et al., "Cluster and Predict Latent Patches for Improved Masked Image Modeling", TMLR 2025, arXiv 2502.08769.

The teacher (EMA) sees the full image. A clustering head on its detached tokens learns by cross-entropy against its own
Sinkhorn-Knopp assignments, balanced over the batch for every position by itself, so that a cluster cannot just encode
where a patch lies. The student encodes visible patches; a predictor of cross-attention only (a query never sees
another) predicts the assignments of a few masked ones. Gradients: the clustering loss reaches the clustering head
alone, the prediction loss the student, predictor and prototypes alone, so their sum trains both as two losses would.
Adapted: absolute positions and LayerNorm (official: RoPE, RMSNorm), EMA of the encoder only (nothing else of it is
used). Evaluated: the EMA encoder, mean of the patch tokens (official: mean of the predictor's first block). `paper`
trains the prototypes' lengths and drops every block alike, those of the predictor too (model.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig, later
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import sinkhorn
from ssl_bench.models.positions import sincos
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import DropPath, LayerNorm, init_weights
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, warmup_cosine
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment


@dataclass(frozen=True)
class CAPIConfig:
    """Defaults are those of default_pretrain_config.yaml."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.6, 1.0), flip=0.5, interpolation="bicubic")  # data.py
    mask_ratio: float = 0.65  # share of the patches that is hidden: all but one rectangle, rolled around the borders
    predict: float = 0.05  # share of the hidden patches that is predicted: 8 of 166 at 16 x 16
    clusters: int = 16384  # prototypes
    target_temperature: float = 0.06  # of the logits that Sinkhorn-Knopp balances
    temperature: float = 0.12  # of both softmaxes in the losses
    iterations: int = 3  # of Sinkhorn-Knopp
    predictor_depth: int = 12  # cross-attention blocks, as wide as the encoder
    cluster_lr: float = 0.5  # learning rate of the clustering head: 5e-4 of 1e-3
    cluster_decay: float = 0.1  # its weight decay: AdamW's default 0.01 of 0.1
    patch_lr: float = 0.2  # learning rate of the patch embedding, as a factor
    momentum: float = 0.999  # EMA after the warm-up; it falls from 1 to here, then rises to 1 (cosine)
    momentum_warmup: float = 0.1  # share of training: 50k of 500k
    train_gain: bool = later(False)  # train the prototypes' lengths, which start at 1 (model.py, L2NormLinear)

    def check(self) -> None:
        self.augment.check()
        for name in ("mask_ratio", "predict"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"objective.{name}={getattr(self, name)} must lie in (0, 1].")


def cluster_loss(assignments: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of assignments [..., K] against softmax(logits / temperature), mean over all leading dimensions."""
    return -(assignments * F.log_softmax(logits / temperature, dim=-1)).sum(-1).mean()


class CrossBlock(nn.Module):
    """Pre-norm cross-attention from queries [B, m, D] to context [B, n, D], then an MLP; no self-attention."""

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop1, self.drop2 = (DropPath(drop_path) if drop_path else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.q(self.norm1(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.drop1(self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return x + self.drop2(self.mlp(self.norm2(x)))


class CAPI(Method):
    """Student, cross-attention predictor, prototypes; EMA teacher with a clustering head."""

    family, paper = "JEPA", "CAPI, Darcet et al. 2025, arXiv 2502.08769"
    sees, evaluated, pooling = "1 crop, 35 % of its patches", "EMA encoder", "mean"
    fewest = 2  # assignments are balanced over the images of a position
    objective: CAPIConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        dim, heads, drop = (getattr(config.backbone, name) for name in ("embed_dim", "num_heads", "drop_path"))
        self.student, self.encoder = self.make_vit(), frozen_copy(self.make_vit(drop_path=0.0))
        self.encoder.load_state_dict(self.student.state_dict())
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(sincos(dim, self.student.grid).unsqueeze(0), requires_grad=False)
        self.predictor = nn.ModuleList([CrossBlock(dim, heads, drop) for _ in range(o.predictor_depth)])
        self.norm = LayerNorm(dim)
        init_weights(self.predictor)
        self.prototypes = nn.Parameter(torch.randn(o.clusters, dim) * 0.02)
        self.gain = nn.Parameter(torch.ones(o.clusters, 1)) if o.train_gain else 1.0
        self.clusters = nn.Linear(dim, o.clusters)  # the clustering head
        nn.init.normal_(self.clusters.weight)
        nn.init.zeros_(self.clusters.bias)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        keep, mask = masks.inverse_rectangle(rng, self.student.grid, self.objective.mask_ratio)
        hidden = masks.indices(mask, mask.shape[1] - keep.shape[1])
        order = rng.rand(hidden.shape[1]).argsort(1)[:, : max(1, int(hidden.shape[1] * self.objective.predict))]
        crop = augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"images": crop, "keep": keep, "predict": hidden.gather(1, order)}

    def assign(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Assignments [B, N, K] without gradient, and the loss of the clustering head."""
        with torch.no_grad():
            tokens = self.encoder(images)[:, self.encoder.num_prefix :]
        with torch.autocast(images.device.type, enabled=False):  # logits / 0.06 would magnify bf16's rounding
            logits = self.clusters(F.normalize(tokens.float(), dim=-1).transpose(0, 1))
            with torch.no_grad():  # [N, B, K]. Shifts of a prototype cancel; this one keeps exp() from underflowing
                shifted = logits - collectives.mean(logits.mean(1, keepdim=True))
                assignments = sinkhorn(shifted, self.objective.target_temperature, self.objective.iterations)
            return assignments.transpose(0, 1), cluster_loss(assignments, logits, self.objective.temperature)

    def predict(self, images: Tensor, keep: Tensor, positions: Tensor) -> Tensor:
        """Logits [B, m, K] at positions [B, m] from the visible patches keep [B, n]: cosines to the prototypes."""
        context = self.student(images, keep)
        x = self.mask_token + gather(self.pos_embed.expand(len(keep), -1, -1), positions)
        for block in self.predictor:
            x = block(x, context)
        return F.linear(F.normalize(self.norm(x), dim=-1), F.normalize(self.prototypes, dim=-1) * self.gain)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        assignments, clustering = self.assign(views["images"])
        logits = self.predict(views["images"], views["keep"], views["predict"]).float()
        prediction = cluster_loss(gather(assignments, views["predict"]), logits, self.objective.temperature)
        return {"loss": prediction + clustering, "prediction": prediction, "clustering": clustering}

    def after_step(self, at: float) -> None:
        o = self.objective
        ema(self.encoder, self.student, warmup_cosine(at, o.momentum_warmup, 1.0, o.momentum, 1.0))

    def param_groups(self) -> list[dict[str, Any]]:
        o, clusters = self.objective, list(self.clusters.parameters())
        groups = [{"params": clusters, "lr_scale": o.cluster_lr, "weight_decay_scale": o.cluster_decay}]
        apart, patch = {id(p) for p in clusters}, {id(p) for p in self.student.patch_embed.parameters()}
        for group in super().param_groups():
            rest = [p for p in group["params"] if id(p) not in apart | patch]
            embed = [p for p in group["params"] if id(p) in patch]
            groups += [{**group, "params": rest}, {**group, "params": embed, "lr_scale": o.patch_lr}]
        return groups

    def flops(self) -> float:
        o, dim, patches = self.objective, self.config.backbone.embed_dim, self.student.num_patches
        hidden, head = int(patches * o.mask_ratio), 2.0 * dim * o.clusters
        queries, context = max(1, int(hidden * o.predict)), patches - hidden + self.student.num_prefix
        block = 2.0 * dim * (queries * 10 * dim + context * 2 * dim + 2 * queries * context)
        student = self.student.flops(patches - hidden) + o.predictor_depth * block + queries * head
        return self.student.flops() + 2 * patches * head + 3 * student  # no gradient to the clustering head's input


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "absolute positions, LayerNorm",
    "small, quick": "absolute positions, LayerNorm, 64 prototypes of fixed length, half of the hidden predicted",
}


def paper(backbone: str = "vit_large_patch14", **changes: Any) -> Config:
    """ViT-L/14, 500k steps of 16,384 images (6,400 epochs of ImageNet-1k): attentive 82.9 (official README).

    ssl-bench pretrain --method capi --recipe paper data.name=folder:/data/imagenet
    """
    # official: a cosine cut at 0.8 of its half period, which ends at 9.5 % of the peak
    optim = OptimConfig(lr=1e-3, lr_end=9.5e-5, warmup=0.1, weight_decay=0.1, beta2=0.95)
    config = budgets.imagenet("capi", CAPIConfig(train_gain=True), optim, backbone, 16384, 6400, **changes)
    vit = replace(config.backbone, class_token=False, reg_tokens=16, drop_path=0.2, drop_path_uniform=True)
    return replace(config, backbone=vit)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method capi"""
    return budgets.small("capi", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method capi --recipe quick"""
    return budgets.quick("capi", _small(), _optim(), **changes)


def _small() -> CAPIConfig:
    return CAPIConfig(AugmentConfig(crop_scale=(0.6, 1.0)), predict=0.5, clusters=64, predictor_depth=2, momentum=0.99)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.1, beta2=0.95)
