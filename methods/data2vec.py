"""data2vec: predict a teacher's averaged block outputs at masked places. 2.0 by default, 1.0 as the recipe `v1`.

1.0: Baevski et al., ICML 2022, arXiv 2202.03555. 2.0: Baevski et al., ICML 2023, arXiv 2212.07525.

The teacher (EMA) sees the full image once. 2.0: many masks share that pass; the student encodes visible patches only;
a convolutional decoder gets noise at masked places; CLS predicts the mean target. 1.0: block mask, mask tokens, linear
head. Adapted to the shared pre-norm ViT: targets are block outputs (2.0: FFN outputs of post-norm blocks), absolute
positions. Evaluated: the student (the official fine-tuning loads it), mean of the patch tokens.
`sound` is 2.0 as EAT has it (Chen et al. 2024, arXiv 2401.03497; its config: no augmentation, all blocks averaged, CLS
weight 1); data2vec's own audio models take waveforms. `points` is Point2Vec (Abou Zeid et al. 2023, arXiv 2303.16570;
its code: 65 % of groups hidden at random, layers normalised over channels, smooth-L1, a transformer as decoder, one
tokenizer for student and teacher). Of clips nothing is published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig, later
from ssl_bench.errors import UserError
from ssl_bench.models.latent_decoder import latent_decoder
from ssl_bench.models.targets import make_targets
from ssl_bench.models.vit import init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, linear
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.crops import TURNED, WHOLE, unmirrored
from ssl_bench.views.masks_grids import blocks, inverse, kept

EMA_WARMUP = 100_000 / 375_300  # share of training in which the teacher's momentum rises linearly
ONLY_2 = ("block", "adjust", "decoder_dim", "decoder_depth", "decoder_groups", "noise")


@dataclass(frozen=True)
class Data2VecConfig:
    """Defaults are 2.0's (config/v2/base_images_only_task.yaml)."""

    version: Literal["2.0", "1.0"] = "2.0"  # 1.0: mask tokens, one block mask, linear head
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.2, 1.0), flip=0.5, interpolation="bicubic")  # MAE's
    masks: int = 16  # masks per image that share one teacher pass (clone_batch), at least 1
    mask_ratio: float = 0.8  # share of the patches that is hidden; 1.0: 0.6
    block: int = 3  # side of a kept block, in patches; of points 0: groups are hidden at random
    adjust: float = 0.07  # more blocks are placed, for their overlaps; the kept count does not change
    layers: int = 10  # the teacher's last blocks that are averaged; 1.0: 6
    beta: float = 0.0  # of smooth-L1; 0: squared error / sqrt(D); 1.0: 2
    decoder_dim: int = 768  # channels of the convolutions; of points, width of the blocks
    decoder_depth: int = 6  # 3 x 3 convolutions (3 x 3 x 3 of clips); of points, blocks
    decoder_groups: int = 16  # groups of each, which must divide decoder_dim and the encoder's width; of points, heads
    noise: float = 0.01  # standard deviation at masked places of the decoder's input; of points 0: a mask token
    cls_weight: float = 2.56  # of the mean CLS loss: 0.01 x the 256 rows (16 images x 16 masks of a GPU) summed there
    momentum: float = 0.9998  # EMA at the start
    momentum_end: float = 0.99999  # after `EMA_WARMUP` of training; 1.0: the same as at the start
    normalised: Literal["", "tokens", "channels"] = later("")  # a layer's targets over; "": tokens in 2.0, channels 1.0

    def check(self) -> None:
        self.augment.check()
        for name in ONLY_2 if self.version == "1.0" else ():
            if getattr(self, name) != getattr(Data2VecConfig, name):
                raise UserError(f"objective.{name} has no effect with objective.version=1.0.")


def d2v_loss(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """[..., D] -> [...]: sum of squares / sqrt(D) (2.0), or the mean of smooth-L1 (1.0)."""
    if beta:
        return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").mean(-1)
    return (predicted - target).square().sum(-1) / math.sqrt(target.shape[-1])


class Data2Vec(Method):
    """Student, EMA teacher, decoder (2.0) or head (1.0)."""

    family, paper = "JEPA", "data2vec 2.0, Baevski et al. 2023, arXiv 2212.07525"
    sees, evaluated, pooling = "1 crop, M masks of 80 %", "student", "mean"
    kinds = ("image", "clip", "sound", "points")
    objective: Data2VecConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective, dim = config.objective, config.backbone.embed_dim
        o = self.objective
        if not 0 < o.layers <= config.backbone.depth or (o.cls_weight and not config.backbone.class_token):
            raise UserError("data2vec needs 1 <= objective.layers <= backbone.depth, and CLS unless cls_weight is 0.")
        self.encoder, self.teacher = self.make_vit(), frozen_copy(self.make_vit(drop_path=0.0))
        self.teacher.load_state_dict(self.encoder.state_dict())
        if o.version == "2.0":
            sizes = o.decoder_dim, o.decoder_depth, o.decoder_groups, o.noise
            self.head: nn.Module = latent_decoder(self.encoder, *sizes)
        else:
            self.head, self.mask_token = nn.Linear(dim, dim), nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        init_weights(self.head)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        o, vit = self.objective, self.encoder
        views = {"images": augment(images, rng, self.info.size, o.augment, self.mean, self.std)}
        if o.version == "1.0":
            return views | {"mask": blocks(rng, vit.grid, o.mask_ratio, o.masks)}
        keep, mask = inverse(rng, vit.grid, o.mask_ratio, o.block, o.adjust, o.masks)
        hidden = self.head.hidden(vit, views["images"], rng)  # type: ignore[operator]  # one draw for an image's masks
        return views | {"keep": keep, "mask": mask, "hidden": hidden}

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """[B, N, D] from one teacher pass on the full image."""
        outputs = self.teacher.layers(images, range(-self.objective.layers, 0), norm=False)
        over = self.objective.normalised or {"2.0": "tokens", "1.0": "channels"}[self.objective.version]
        return make_targets([y[:, self.encoder.num_prefix :] for y in outputs], over == "tokens")

    def predict(self, views: Views) -> tuple[Tensor, Tensor]:
        """The first token [B, M, D] and predicted patches [B, M, N, D], for M masks per image."""
        images, (b, m), p = views["images"], views["mask"].shape[:2], self.encoder.num_prefix
        if self.objective.version == "1.0":
            x = self.encoder(images.repeat_interleave(m, 0), None, views["mask"].flatten(0, 1), self.mask_token)
            predicted = self.head(x[:, p:])
        else:
            x = self.encoder.parts(images, views["keep"])
            predicted = self.head(x, views["keep"].flatten(0, 1), views["hidden"].repeat_interleave(m, 0))
        return x[:, 0].unflatten(0, (b, m)), predicted.unflatten(0, (b, m))

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, mask = self.objective, views["mask"].float()
        target = self.targets(views["images"])
        cls, predicted = self.predict(views)
        per_token = d2v_loss(predicted.float(), target[:, None].expand_as(predicted), o.beta)
        loss = (per_token * mask).sum() / mask.sum()
        cls_loss = d2v_loss(cls.float(), target.mean(1, keepdim=True).expand_as(cls), o.beta).mean()
        logs = {"cls_loss": cls_loss} if o.cls_weight else {}
        return {"loss": loss + o.cls_weight * cls_loss, **logs, "target_std": target.std((0, 1)).mean()}

    def after_step(self, at: float) -> None:
        o = self.objective
        ema(self.teacher, self.encoder, linear(min(at / EMA_WARMUP, 1.0), o.momentum, o.momentum_end))

    def flops(self) -> float:
        o, vit = self.objective, self.encoder
        visible = kept(vit.grid, o.mask_ratio) if o.version == "2.0" else None
        head = self.head.flops(visible) if visible else 2.0 * vit.num_patches * vit.config.embed_dim**2  # type: ignore[operator]
        return vit.flops() + 3 * o.masks * (vit.flops(visible) + head)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "targets from pre-norm blocks", "v1": "absolute positions",
    "small, quick": "targets from pre-norm blocks, CLS loss 256 times weaker (else worse), 4 masks of 70 %",
    "clips": "targets from pre-norm blocks, tubelets in place of patches, no CLS loss, 4 masks of 70 % at all times",
    "sound": "EAT's: targets from pre-norm blocks, 4 masks with blocks of 2 patches a side, EMA from 0.99",
    "points": "Point2Vec's: the tokenizer has a teacher too, EMA from 0.99, a view of each cloud, 4 + 2 blocks",
}  # fmt: skip
OPTIM = OptimConfig(lr=1e-3, warmup=50_040 / 375_300, weight_decay=0.05, beta2=0.95, clip=4.0)


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """2.0, ViT-B/16, ImageNet-1k, 375,300 updates of 256 images x 16 masks. --recipe paper data.name=folder:PATH"""
    return budgets.imagenet("data2vec", Data2VecConfig(), OPTIM, backbone, 256, 75, **changes)


def v1(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """1.0, ViT-B/16, ImageNet-1k, 800 epochs: fine-tuned 84.2 (paper). --recipe v1"""
    colour = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, jitter_p=1.0, interpolation="bicubic")
    objective = Data2VecConfig("1.0", colour, 1, 120 / 196, layers=6, beta=2.0, cls_weight=0.0, momentum_end=0.9998)
    optim = OptimConfig(lr=2e-3, warmup=10 / 800, weight_decay=0.05, clip=3.0)
    config = budgets.imagenet("data2vec", objective, optim, backbone, 2048, 800, **changes)
    return replace(config, recipe="v1", backbone=replace(config.backbone, drop_path=0.25, layer_scale=1e-4))


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method data2vec"""
    sizes = Data2VecConfig(masks=4, mask_ratio=0.7, block=2, layers=4, decoder_dim=64, decoder_depth=2)
    objective = replace(sizes, decoder_groups=1, momentum=0.99, momentum_end=0.999, cls_weight=0.01)
    return budgets.small("data2vec", objective, OPTIM, **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method data2vec --recipe quick"""
    return budgets.quick("data2vec", replace(small().objective, layers=2), OPTIM, **changes)


def clips(**changes: Any) -> Config:
    """On tubelets, what is hidden is so at all times: ssl-bench pretrain --method data2vec --recipe clips"""
    objective = unmirrored(replace(small().objective, layers=2, cls_weight=0.0))
    return budgets.clips("data2vec", objective, OPTIM, **changes)


def sound(**changes: Any) -> Config:
    """On spectrograms, after EAT: ssl-bench pretrain --method data2vec --recipe sound"""
    objective = replace(small().objective, augment=WHOLE, mask_ratio=0.8, cls_weight=1.0)
    return budgets.quick_sounds("data2vec", objective, OPTIM, **changes)


def points(**changes: Any) -> Config:
    """On groups of points, after Point2Vec: ssl-bench pretrain --method data2vec --recipe points"""
    sizes = replace(small().objective, masks=1, mask_ratio=0.65, layers=2, decoder_groups=4, normalised="channels")
    objective = replace(sizes, augment=TURNED, block=0, adjust=0.0, noise=0.0, beta=2.0, cls_weight=0.0)
    optim = replace(OPTIM, warmup=0.1, beta2=0.999, clip=0.0)
    return replace(budgets.quick_points("data2vec", objective, optim, **changes), recipe="points")
