"""I-JEPA: predict the latent tokens of large target blocks from one context block.

Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", CVPR 2023, arXiv
2301.08243. The target encoder (EMA) sees the whole image; blocks are cut from its output, and predicted one by one.
Targets get a second LayerNorm without parameters; the loss is smooth-L1 as in the official code (the paper: L2).
Departs on purpose in its mask sampler (`masking=official`: bit for bit): blocks reach the last row and column, contexts
are cut at random places (there: the upper part stays), and it always ends. Most recipes add data2vec's instance norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import bounds, budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, linear
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import as_sound
from ssl_bench.views.masks3d import through_time
from ssl_bench.views.official_masks import official


@dataclass(frozen=True)
class IJEPAConfig:
    """Defaults are the paper's."""

    augment: AugmentConfig = AugmentConfig(crop_scale=(0.3, 1.0), flip=0.0)  # crop only, in every official config
    masking: Literal["multiblock", "block", "raster", "random", "official"] = "multiblock"  # 54.2/20.2/15.5/17.6 (T. 6)
    targets: int = 4  # target blocks per image; Table 9: 1 / 2 / 3 / 4 give 9.0 / 22.0 / 48.5 / 54.2
    target_scale: tuple[float, float] = (0.15, 0.2)  # share of the image per target block
    target_aspect: tuple[float, float] = (0.75, 1.5)  # height / width of a target block
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the image in the context, before targets are cut out
    target: Literal["latent", "pixels"] = "latent"  # Table 7: 66.9 / 40.7
    target_view: Literal["full", "cut"] = "full"  # what the target encoder sees; Table 11: 67.3 / 56.1
    target_norm: bool = True  # LayerNorm without parameters on targets (official train.py)
    instance_norm: bool = False  # first normalise each channel over the image's tokens, as data2vec 2.0 does
    teacher: Literal["ema", "copy", "trained"] = "ema"  # copy: stop-gradient only; trained: no stop-gradient
    momentum: float = 0.996  # EMA at the start, linear to 1 at the end
    predictor_depth: int = 6  # 6 for ViT-B, 12 for L and H; 0: no predictor, the mean context token is the prediction
    predictor_dim: int = 384  # narrow beats encoder width: 70.7 / 68.4 (Table 12)
    predictor_heads: int = 12  # official: the encoder's

    def check(self) -> None:
        self.augment.check()
        if self.predictor_depth:
            bounds.refuse_heads("objective.", self)

    def unused(self) -> set[str]:
        """Settings without effect beside the others: `resolve` refuses to have them set."""
        blocks = {"targets", "target_scale", "target_aspect", "context_scale"}
        out = set() if self.masking in ("multiblock", "official") else blocks
        out |= {"teacher", "target_view", "momentum"} if self.target == "pixels" else set()
        out |= {"momentum"} if self.teacher != "ema" else set()
        out |= {"instance_norm"} if self.target == "pixels" or self.target_view == "cut" else set()
        return out if self.predictor_depth else out | {"predictor_dim", "predictor_heads"}


def jepa_loss(predicted: Tensor, target: Tensor, normalise: bool = True) -> Tensor:
    """Smooth-L1 (beta 1), mean over everything, against LayerNormed targets [..., D] (official train.py, loss_fn)."""
    return F.smooth_l1_loss(predicted, F.layer_norm(target, target.shape[-1:]) if normalise else target)


class IJEPA(Method):
    """Context encoder, EMA target encoder, predictor."""

    family, paper = "JEPA", "I-JEPA, Assran et al. 2023, arXiv 2301.08243"
    sees, evaluated, pooling = "1 crop, context + 4 target blocks", "target encoder (EMA)", "mean"
    kinds: ClassVar[tuple[str, ...]] = ("image", "clip", "sound")
    objective: IJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.student = self.make_vit()
        out = self.student.patch_embed.proj.weight[0].numel() if o.target == "pixels" else None
        if o.predictor_depth:
            self.predictor = Predictor(self.student, o.predictor_dim, o.predictor_depth, o.predictor_heads, out)
        pixels, trained = o.target == "pixels", o.teacher == "trained"
        if pixels and not o.predictor_depth:
            raise UserError("objective.predictor_depth=0 needs objective.target=latent: a mean token cannot be pixels.")
        self.encoder = self.student if pixels else frozen_copy(self.student).requires_grad_(trained)
        self.grid = self.student.grid

    def masks(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Context positions [B, n] and target positions [B, T, m], disjoint."""
        o, frame = self.objective, self.grid[-2:]  # in clips, the same places at all times
        draw = official if o.masking == "official" else getattr(masks, o.masking)
        blocks: tuple[Any, ...] = (o.targets, o.target_scale, o.target_aspect, o.context_scale)
        context, targets = draw(rng, frame, *blocks * (o.masking in ("multiblock", "official")))
        return through_time(context, self.grid), through_time(targets, self.grid)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        drawn = dict(zip(("context", "targets"), self.masks(rng), strict=True))
        return {"images": augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std), **drawn}

    def targets(self, images: Tensor, positions: Tensor) -> Tensor:
        """Target tokens [B, T, m, D] (or pixels) at positions [B, T, m]."""
        o, flat, first = self.objective, positions.flatten(1), self.encoder.num_prefix
        if o.target == "pixels":
            return gather(self.student.patch_embed.patches(images), flat).unflatten(1, positions.shape[1:])
        with torch.set_grad_enabled(o.teacher == "trained"):
            if o.target_view == "cut":  # every block is encoded by itself
                return torch.stack([self.encoder(images, keep)[:, first:] for keep in positions.unbind(1)], 1)
            tokens = self.encoder(images)[:, first:]
            tokens = F.instance_norm(tokens.float().mT).mT if o.instance_norm else tokens
            return gather(tokens, flat).unflatten(1, positions.shape[1:])

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        images, keep, positions = views["images"], views["context"], views["targets"]
        target = self.targets(images, positions)
        context = self.student(views.get("source", images), keep)[:, self.student.num_prefix :]
        flat = not self.objective.predictor_depth
        predicted = context.mean(1)[:, None, None].expand_as(target) if flat else self.predict(context, views)
        spread = target.detach().float().flatten(0, -2).std(0).mean()
        return {**self.losses(predicted.float(), target.float()), "target_std": spread}

    def predict(self, context: Tensor, views: Views) -> Tensor:  # of target tokens [B, T, m, D]; variants condition it
        return self.predictor(context, views["context"], views["targets"])

    def losses(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:  # of tokens [B, T, m, D]; variants add
        return {"loss": jepa_loss(predicted, target, self.objective.target_norm)}

    def after_step(self, at: float) -> None:
        if (o := self.objective).target == "latent" and o.teacher != "trained":
            ema(self.encoder, self.student, linear(at, o.momentum, 1.0) if o.teacher == "ema" else 0.0)

    def flops(self) -> float:
        draws = [self.masks(Rng(seed, self.config.budget.batch_size, device=self.mean.device)) for seed in range(16)]
        n, m = (round(sum(d[i].shape[-1] for d in draws) / 16) for i in (0, 1))  # they vary from batch to batch
        return self.flops_of(n, draws[0][1].shape[1], m)

    def flops_of(self, n: int, t: int, m: int) -> float:  # per image, a context of n patches and t targets of m
        o = self.objective
        total = 3 * (self.student.flops(n) + (self.predictor.flops(n, t, m) if o.predictor_depth else 0.0))
        teacher = self.student.flops() if o.target_view == "full" else t * self.student.flops(m)
        return total + teacher * (0 if o.target == "pixels" else 3 if o.teacher == "trained" else 1)


OFF_PAPER = {"instance_norm": "instance norm"}  # what makes it another objective, as it stands in its row's name
DEPARTS = {  # what leaves the paper, by recipe
    "paper": "mask sampler", "quick_paper": "mask sampler, EMA from 0.98, predictor of 2 blocks, constant decay",
    "small, quick, clips, sound":
    "instance norm on targets, mask sampler, EMA from 0.98, 2-block predictor, constant decay",
}  # fmt: skip


def paper(backbone: str = "vit_huge_patch14", **changes: Any) -> Config:
    """ViT-H/14, ImageNet-1k, 300 epochs: linear 79.3 (Table 1), 72 h, 16 A100. --recipe paper data.name=folder:PATH"""
    optim = OptimConfig(lr=1e-3, lr_start=2e-4, lr_end=1e-6, warmup=40 / 300, weight_decay=0.04, weight_decay_end=0.4)
    settings = IJEPAConfig(predictor_depth=12, predictor_heads=16), optim, backbone, 2048, 300
    config = budgets.imagenet("ijepa", *settings, **changes)
    return replace(config, backbone=replace(config.backbone, class_token=False))


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method ijepa"""
    return budgets.small("ijepa", small_objective(IJEPAConfig), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method ijepa --recipe quick"""
    return budgets.quick("ijepa", small_objective(IJEPAConfig), small_optim(), **changes)


def quick_paper(**changes: Any) -> Config:
    """`quick` with the paper's targets: ssl-bench pretrain --method ijepa --recipe quick_paper"""
    return replace(quick(**changes), recipe="quick_paper", objective=small_objective(IJEPAConfig, norm=False))


def clips(**changes: Any) -> Config:
    """On tubelets, blocks that last the whole clip: ssl-bench pretrain --method ijepa --recipe clips"""
    return budgets.clips("ijepa", small_objective(IJEPAConfig), small_optim(), **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms: ssl-bench pretrain --method ijepa --recipe sound"""
    return budgets.quick_sounds("ijepa", as_sound(small_objective(IJEPAConfig)), small_optim(), **changes)


def small_objective(settings: type[IJEPAConfig], norm: bool = True, **changes: Any) -> Any:
    """What I-JEPA and the methods built on it change for small images."""
    return settings(
        predictor_depth=2, predictor_dim=64, predictor_heads=4,
        momentum=0.98,  # a teacher at 0.996 hardly moves in a few thousand steps; 0.95 drifts to easy targets
        **changes, instance_norm=norm,  # else colour and position fill the targets: linear (val.) 41.2, with it 47.7
    )  # fmt: skip


def small_optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, lr_start=2e-4, lr_end=1e-6, warmup=0.1, weight_decay=0.05)
