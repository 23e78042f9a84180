"""Point-JEPA: predict the latent tokens of neighbouring groups of points from those of a run of other groups.

Saito, Kudeshia & Poovvancheri, "Point-JEPA: A Joint Embedding Predictive Architecture for Self-Supervised Learning on
Point Cloud", WACV 2025, arXiv 2404.16432; facts from the official code (Ayumu-J-S/Point-JEPA, c36b51c).

Groups are put in an order in which neighbours are neighbours in space (greedy, from the least x + y + z). Four runs of
it are the targets; the context is a run of what is left without them. All clouds of a batch share one draw. Tokenizer
and positions are the student's also for the targets: the EMA copies the transformer alone. A target is the output of
the last block *before* the final norm, then a LayerNorm without parameters (I-JEPA: after the final norm).
Evaluated: the student, mean of the tokens (official: SVM on the maximum beside the mean).

`context_aware` and `cosine` are 3D-JEPA's ideas (Hu et al. 2024, arXiv 2409.15803) as far as its abstract tells them.
It has no public code: that the context is given anew to every block of the predictor, the loss 1 - cosine and all
numbers are choices made here (recipe `jepa3d`), and this is no reproduction of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_heads
from ssl_bench.config.schema import Config, OptimConfig, later, vit
from ssl_bench.errors import UserError
from ssl_bench.models.pointdecoder import PointPredictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import block_flops, run
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, linear
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.clouds import CloudConfig
from ssl_bench.views.masks_points import runs, sequence

PAPER = AugmentConfig(cloud=CloudConfig((0.8, 1.2), mirror=True, unit=True, rotate="upright", once=True))


@dataclass(frozen=True)
class PointJEPAConfig:
    """Defaults are the official configs'."""

    augment: AugmentConfig = PAPER  # scale, mirror, unit sphere, turn about y: one draw for a batch
    targets: int = 4  # runs to predict, each by itself
    target_ratio: tuple[float, float] = (0.15, 0.2)  # share of the groups in each of them
    context_ratio: tuple[float, float] = (0.4, 0.75)  # share of what the targets leave
    beta: float = 2.0  # of smooth-L1
    cosine: bool = False  # 1 - cosine in place of smooth-L1 (3D-JEPA)
    context_aware: bool = False  # every predictor block gets the encoder's context anew (3D-JEPA)
    momentum: float = 0.9995  # EMA at the start
    momentum_end: float = 0.99999  # EMA at the end, linear between
    predictor_depth: int = 6  # blocks of the predictor
    predictor_dim: int = 192  # its width
    predictor_heads: int = 6  # its heads
    predictor_drop_path: float = 0.25  # stochastic depth in each of its blocks
    instance_norm: bool = later(False)  # targets: first normalise each channel over the cloud's groups (data2vec 2.0)

    def check(self) -> None:
        self.augment.check()
        for name in ("target_ratio", "context_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UserError(f"objective.{name}={low:g},{high:g} must be in order, above 0 and at most 1.")
        if self.targets < 1 or self.predictor_depth < 1 or self.beta <= 0:
            raise UserError("objective.targets and predictor_depth must be 1 or more, and objective.beta positive.")
        refuse_heads("objective.", self)

    def unused(self) -> set[str]:
        """Settings without effect beside the others: `resolve` refuses to have them set."""
        return {"beta"} if self.cosine else set()


def pointjepa_loss(predicted: Tensor, target: Tensor, beta: float = 2.0, cosine: bool = False) -> Tensor:
    """Tokens [..., D] against normalised targets: smooth-L1, mean over everything, or 1 - cosine, mean over tokens."""
    if cosine:
        return (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()
    return F.smooth_l1_loss(predicted, target, beta=beta)


def make_targets(tokens: Tensor, instance_norm: bool = False) -> Tensor:
    """Outputs [B, G, D] of the last block -> targets: a LayerNorm without parameters; before it, if asked, over G."""
    tokens = F.instance_norm(tokens.float().mT).mT if instance_norm else tokens.float()
    return F.layer_norm(tokens, tokens.shape[-1:])


class PointJEPA(Method):
    """Student, predictor, an EMA copy of the student's blocks."""

    family, paper = "JEPA", "Point-JEPA, Saito et al. 2025, arXiv 2404.16432"
    sees, evaluated, pooling = "a run of neighbouring groups, 4 runs to predict", "student", "mean"
    kinds = ("points",)
    fewest = 2  # BatchNorm in the tokenizer
    objective: PointJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        if config.backbone.class_token or config.backbone.reg_tokens:
            raise UserError("pointjepa has no CLS and no registers: set backbone.class_token=false and reg_tokens=0.")
        self.encoder = self.make_vit()
        sizes = o.predictor_dim, o.predictor_depth, o.predictor_heads, o.predictor_drop_path
        self.predictor = PointPredictor(config.backbone.embed_dim, *sizes, o.context_aware)
        self.teacher = frozen_copy(self.make_vit(drop_path=0.0).blocks)
        self.teacher.load_state_dict(self.encoder.blocks.state_dict())

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        clouds = augment(images, rng, images.shape[1], self.objective.augment, self.mean, self.std)
        order = sequence(self.encoder.patch_embed.centres(clouds))
        context, targets = self.masks(rng)
        return {"clouds": clouds, "context": order[:, context], "targets": order[:, targets]}

    def masks(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Places in the sequence, the same for all clouds: context [n], targets [T, m]."""
        o = self.objective
        return runs(rng, self.encoder.num_patches, o.targets, o.target_ratio, o.context_ratio)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        net, clouds, keep, targets = self.encoder, views["clouds"], views["context"], views["targets"]
        tokens, places = net.patch_embed(clouds), net.located(clouds)
        assert places is not None
        with torch.no_grad():
            whole = make_targets(run(self.teacher, tokens, None, places), self.objective.instance_norm)
            target = gather(whole, targets.flatten(1)).unflatten(1, targets.shape[1:])
        context = net.encode(gather(tokens, keep), None, gather(places, keep))
        centres = net.patch_embed.centres(clouds)
        there = gather(centres, targets.flatten(1)).unflatten(1, targets.shape[1:])
        predicted = self.predictor(context, gather(centres, keep), there).float()
        loss = pointjepa_loss(predicted, target, self.objective.beta, self.objective.cosine)
        return {
            "loss": loss, "target_std": target.flatten(0, -2).std(0).mean(),
            "predicted_std": predicted.detach().flatten(0, -2).std(0).mean(),
        }  # fmt: skip

    def after_step(self, at: float) -> None:
        o = self.objective
        ema(self.teacher, self.encoder.blocks, linear(at, o.momentum, o.momentum_end))

    def flops(self) -> float:
        net, o, c = self.encoder, self.objective, self.config.backbone
        draws = [self.masks(Rng(seed, 2, device=self.mean.device)) for seed in range(16)]
        n = round(sum(len(context) for context, _ in draws) / len(draws))
        m = round(sum(targets.shape[1] for _, targets in draws) / len(draws))
        tokens = net.flops() - (teacher := block_flops(net.num_patches, c.embed_dim, c.depth, c.mlp_ratio))
        student = block_flops(n, c.embed_dim, c.depth, c.mlp_ratio)
        return 3 * (tokens + student + self.predictor.flops(n, o.targets, m)) + teacher


OFF_PAPER = {"instance_norm": "instance norm"}  # what makes it another objective, as it stands in its row's name
DEPARTS = {  # what leaves the paper, by recipe
    "paper": "rates step by step, no decay of biases and norms, no dropout, teacher at 0.9995 from the first step on",
    "small, quick": "EMA from 0.99, a predictor of two blocks, a draw for each cloud, no dropout",
    "points": "instance norm on targets, EMA from 0.99, a predictor of two blocks, a draw for each cloud, no dropout",
    "jepa3d": "3D-JEPA by its abstract alone: context in every block, cosine loss, runs of Point-JEPA, EMA from 0.99",
}  # fmt: skip


def paper(backbone: str = "vit_small_patch32", **changes: Any) -> Config:
    """ShapeNet55, 1,024 points, 500 epochs of 512: SVM on ModelNet40 93.7 (README). data.name=folder:PATH#kind=points

    ssl-bench pretrain --method pointjepa --recipe paper data.name=folder:/data/shapenet#kind=points
    """
    optim = OptimConfig(lr=1e-3, lr_start=1e-5, lr_end=1e-6, warmup=30 / 500, weight_decay=0.05)
    shape = vit(backbone, class_token=False, pos_embed="centres", drop_path=0.25)
    return budgets.shapes("pointjepa", PointJEPAConfig(), optim, shape, 512, 500, **changes)


def small(**changes: Any) -> Config:
    """256 points. ssl-bench pretrain --method pointjepa"""
    return budgets.small_points("pointjepa", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """With the paper's targets: ssl-bench pretrain --method pointjepa --recipe quick"""
    return budgets.quick_points("pointjepa", _small(), _optim(), **changes)


def points(**changes: Any) -> Config:
    """Groups kept apart in their targets (docs/points.md): ssl-bench pretrain --method pointjepa --recipe points"""
    return budgets.quick_points("pointjepa", replace(_small(), instance_norm=True), _optim(), **changes)


def jepa3d(**changes: Any) -> Config:
    """After 3D-JEPA's abstract: ssl-bench pretrain --method pointjepa --recipe jepa3d"""
    objective = replace(_small(), cosine=True, context_aware=True)
    return replace(budgets.quick_points("pointjepa", objective, _optim(), **changes), recipe="jepa3d")


def _small() -> PointJEPAConfig:
    return PointJEPAConfig(
        augment=replace(PAPER, cloud=replace(PAPER.cloud, once=False)),
        momentum=0.99, momentum_end=1.0,  # a teacher at 0.9995 hardly moves in a few hundred steps
        predictor_depth=2, predictor_dim=64, predictor_heads=4, predictor_drop_path=0.0,
    )  # fmt: skip


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
