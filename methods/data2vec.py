"""data2vec: predict a teacher's averaged block outputs at masked places. 2.0 by default, 1.0 as the recipe `v1`.

1.0: Baevski et al., ICML 2022, arXiv 2202.03555. 2.0: Baevski et al., ICML 2023, arXiv 2212.07525.

The teacher (EMA) sees the full image once. 2.0: many masks share that pass; the student encodes visible patches only;
a convolutional decoder gets noise at masked places; CLS predicts the mean target. 1.0: block mask, mask tokens, linear
head. Adapted to the shared pre-norm ViT: targets are block outputs (2.0: FFN outputs of post-norm blocks), absolute
positions. Evaluated: the student (the official fine-tuning loads it), mean of the patch tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.tokenizer import gather
from ssl_bench.models.vit import init_weights
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, ema, frozen_copy, linear
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig, augment

EMA_WARMUP = 100_000 / 375_300  # share of training in which the teacher's momentum rises linearly
ONLY_2 = ("block", "adjust", "decoder_dim", "decoder_depth", "decoder_groups", "noise")


@dataclass(frozen=True)
class Data2VecConfig:
    """Defaults are 2.0's (config/v2/base_images_only_task.yaml)."""

    version: Literal["2.0", "1.0"] = "2.0"  # 1.0: mask tokens, one block mask, linear head
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.2, 1.0), flip=0.5, interpolation="bicubic")  # MAE's
    masks: int = 16  # masks per image that share one teacher pass (clone_batch), at least 1
    mask_ratio: float = 0.8  # share of the patches that is hidden; 1.0: 0.6
    block: int = 3  # side of a kept block, in patches
    adjust: float = 0.07  # more blocks are placed, for their overlaps; the kept count does not change
    layers: int = 10  # the teacher's last blocks that are averaged; 1.0: 6
    beta: float = 0.0  # of smooth-L1; 0: squared error / sqrt(D); 1.0: 2
    decoder_dim: int = 768  # channels of the convolutions
    decoder_depth: int = 6  # 3 x 3 convolutions
    decoder_groups: int = 16  # groups of each; must divide decoder_dim and the encoder's width
    noise: float = 0.01  # standard deviation at masked places of the decoder's input
    cls_weight: float = 2.56  # of the mean CLS loss: 0.01 x the 256 rows (16 images x 16 masks of a GPU) summed there
    momentum: float = 0.9998  # EMA at the start
    momentum_end: float = 0.99999  # after `EMA_WARMUP` of training; 1.0: the same as at the start

    def check(self) -> None:
        self.augment.check()
        for name in ONLY_2 if self.version == "1.0" else ():
            if getattr(self, name) != getattr(Data2VecConfig, name):
                raise UserError(f"objective.{name} has no effect with objective.version=1.0.")


def make_targets(outputs: list[Tensor], instance_norm: bool) -> Tensor:
    """Block outputs [B, N, D] each -> targets [B, N, D]: normalise each, average, LayerNorm (no affine anywhere).

    2.0 normalises a layer over its tokens (instance norm), 1.0 over its channels.
    """
    width = outputs[0].shape[-1:]
    layers = [F.instance_norm(y.float().mT).mT if instance_norm else F.layer_norm(y.float(), width) for y in outputs]
    return F.layer_norm(torch.stack(layers).mean(0), width)


def d2v_loss(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """[..., D] -> [...]: sum of squares / sqrt(D) (2.0), or the mean of smooth-L1 (1.0)."""
    if beta:
        return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").mean(-1)
    return (predicted - target).square().sum(-1) / math.sqrt(target.shape[-1])


class Decoder(nn.Module):
    """Grouped 3 x 3 convolutions, each with LayerNorm (no affine), GELU and a residual where widths agree; Linear."""

    def __init__(self, grid: tuple[int, ...], width: int, dim: int, depth: int, groups: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(dim if i else width, dim, 3, padding=1, groups=groups) for i in range(depth)]
        self.grid, self.convs, self.head = grid, nn.ModuleList(convs), nn.Linear(dim, width)

    def forward(self, visible: Tensor, keep: Tensor, noise: Tensor) -> Tensor:
        """Tokens [B, n, D] at positions keep [B, n], noise [B, N, D] elsewhere -> predictions [B, N, D]."""
        x = noise.to(visible.dtype).scatter(1, keep.unsqueeze(-1).expand_as(visible), visible)
        x = x.transpose(1, 2).unflatten(2, self.grid)
        for conv in self.convs:
            y = conv(x).permute(0, 2, 3, 1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:])).permute(0, 3, 1, 2)
            x = x + y if x.shape == y.shape else y
        return self.head(x.flatten(2).transpose(1, 2))


class Data2Vec(Method):
    """Student, EMA teacher, decoder (2.0) or head (1.0)."""

    family, paper = "JEPA", "data2vec 2.0, Baevski et al. 2023, arXiv 2212.07525"
    sees, evaluated, pooling = "1 crop, M masks of 80 %", "student", "mean"
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
            self.head: nn.Module = Decoder(self.encoder.grid, dim, o.decoder_dim, o.decoder_depth, o.decoder_groups)
        else:
            self.head, self.mask_token = nn.Linear(dim, dim), nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        init_weights(self.head)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        o, vit = self.objective, self.encoder
        views = {"images": augment(images, rng, self.info.size, o.augment, self.mean, self.std)}
        if o.version == "1.0":
            args = rng, vit.grid, o.mask_ratio, max(1, vit.num_patches // 12)  # BEiT: 16 of 196
            drawn = [masks.beit_blocks(*args, exact=True) for _ in range(o.masks)]
            return views | {"mask": torch.stack(drawn, 1)}
        pairs = [masks.inverse_block(rng, vit.grid, o.mask_ratio, o.block, o.adjust) for _ in range(o.masks)]
        keep, mask = (torch.stack(part, 1) for part in zip(*pairs, strict=True))
        noise = rng.randn(vit.num_patches, vit.config.embed_dim) * o.noise  # an image's masks share one draw
        return views | {"keep": keep, "mask": mask, "noise": noise}

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """[B, N, D] from one teacher pass on the full image."""
        outputs = self.teacher.layers(images, range(-self.objective.layers, 0), norm=False)
        return make_targets([y[:, self.encoder.num_prefix :] for y in outputs], self.objective.version == "2.0")

    def predict(self, views: Views) -> tuple[Tensor, Tensor]:
        """The first token [B, M, D] and predicted patches [B, M, N, D], for M masks per image."""
        images, (b, m), p = views["images"], views["mask"].shape[:2], self.encoder.num_prefix
        if self.objective.version == "1.0":
            x = self.encoder(images.repeat_interleave(m, 0), None, views["mask"].flatten(0, 1), self.mask_token)
            predicted = self.head(x[:, p:])
        else:
            x = self.encoder.embed(images)  # once, for all masks
            visible = gather(x[:, p:], views["keep"].flatten(1)).reshape(b * m, -1, x.shape[-1])
            x = self.encoder.encode(torch.cat([x[:, :p].repeat_interleave(m, 0), visible], 1))
            predicted = self.head(x[:, p:], views["keep"].flatten(0, 1), views["noise"].repeat_interleave(m, 0))
        return x[:, 0].unflatten(0, (b, m)), predicted.unflatten(0, (b, m))

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, mask = self.objective, views["mask"].float()
        target = self.targets(views["images"])
        cls, predicted = self.predict(views)
        per_token = d2v_loss(predicted.float(), target[:, None].expand_as(predicted), o.beta)
        loss = (per_token * mask).sum() / mask.sum()
        cls_loss = d2v_loss(cls.float(), target.mean(1, keepdim=True).expand_as(cls), o.beta).mean()
        return {"loss": loss + o.cls_weight * cls_loss, "cls_loss": cls_loss, "target_std": target.std((0, 1)).mean()}

    def after_step(self, at: float) -> None:
        o = self.objective
        ema(self.teacher, self.encoder, linear(min(at / EMA_WARMUP, 1.0), o.momentum, o.momentum_end))

    def flops(self) -> float:
        o, vit = self.objective, self.encoder
        head = 2.0 * vit.num_patches * sum(p.numel() for p in self.head.parameters() if p.ndim > 1)
        student = vit.flops(int(vit.num_patches * (1 - o.mask_ratio)) if o.version == "2.0" else None)
        return vit.flops() + 3 * o.masks * (student + head)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "targets from pre-norm blocks", "v1": "absolute positions",
    "small, quick": "targets from pre-norm blocks, CLS loss 256 times weaker (else worse), 4 masks of 70 %",
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
