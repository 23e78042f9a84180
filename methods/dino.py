"""DINO: the student's view of every crop must agree with the teacher's view of the global crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.14294.

The teacher (EMA of backbone and head) sees two global crops, the student these and the local crops. Cross-entropy
over prototypes, teacher centred (against one prototype winning) and sharpened (against uniform output).
The centre moves after the loss. Evaluated: the teacher's CLS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench import budgets
from ssl_bench.augment import AugmentConfig, augment
from ssl_bench.config import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.projection import DINOHead
from ssl_bench.method import DataInfo, Method, Views, cosine, ema, frozen_copy, linear
from ssl_bench.rng import Rng

COLOUR = AugmentConfig(
    flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, jitter_p=0.8, gray_p=0.2, interpolation="bicubic"
)  # main_dino.py, DataAugmentationDINO


@dataclass(frozen=True)
class DINOConfig:
    """Defaults are the published "boosted" recipe (README), not the command line's defaults."""

    global_1: AugmentConfig = replace(COLOUR, crop_scale=(0.4, 1.0), blur_p=1.0)  # first global crop: always blurred
    global_2: AugmentConfig = replace(COLOUR, crop_scale=(0.4, 1.0), blur_p=0.1, solarize_p=0.2)  # second global crop
    local: AugmentConfig = replace(COLOUR, crop_scale=(0.05, 0.4), blur_p=0.5)  # local crops
    local_crops: int = 8  # small crops, seen by the student only
    local_size: int = 96  # their pixels per side; a multiple of the patch size
    global_size: int = 224  # pixels per side of the global crops
    head_hidden: int = 2048  # width of the head's MLP
    head_bottleneck: int = 256  # width before the prototypes
    prototypes: int = 65536  # output dimensions
    student_temperature: float = 0.1  # softmax of the student
    teacher_temperature: float = 0.04  # softmax of the teacher at the start
    teacher_temperature_end: float = 0.07  # after its linear warm-up
    temperature_warmup: float = 0.1  # share of training: 30 of 300 epochs
    center_momentum: float = 0.9  # of the running mean of teacher logits
    momentum: float = 0.996  # EMA at the start, cosine to 1
    freeze_last: float = 0.01  # share of training in which the prototypes get no gradient: 1 of 100 epochs

    def check(self) -> None:
        for part in (self.global_1, self.global_2, self.local):
            part.check()
        if self.local_crops == 0 and self.local != DINOConfig().local:
            raise UserError("objective.local has no effect with objective.local_crops=0.")


def dino_loss(student: Tensor, teacher: Tensor, center: Tensor, student_temp: float, teacher_temp: float) -> Tensor:
    """Cross-entropy over all pairs of different views: student logits [V, B, K], teacher logits [2, B, K], center [K].

    Mean over the 2V - 2 pairs and the batch (official DINOLoss).
    """
    p = F.softmax((teacher - center) / teacher_temp, dim=-1)
    log_q = F.log_softmax(student / student_temp, dim=-1)
    pairs = [-(p[i] * log_q[v]).sum(-1).mean() for i in range(len(p)) for v in range(len(log_q)) if v != i]
    return torch.stack(pairs).mean()


class DINO(Method):
    """Student and EMA teacher, each a ViT with a head on CLS."""

    family, paper = "self-distillation", "DINO, Caron et al. 2021, arXiv 2104.14294"
    sees, evaluated, pooling = "2 global + L local crops", "teacher (EMA)", "cls"
    objective: DINOConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        if not config.backbone.class_token:
            raise UserError("dino needs backbone.class_token=true: its head sits on CLS.")
        for name in ("global_size", "local_size"):
            if getattr(o, name) % config.backbone.patch_size:
                raise UserError(f"objective.{name}={getattr(o, name)} is not divisible by backbone.patch_size={config.backbone.patch_size}.")
        self.student = self.make_vit()
        self.head = DINOHead(config.backbone.embed_dim, o.head_hidden, o.head_bottleneck, o.prototypes)
        teacher = self.make_vit(drop_path=0.0)
        teacher.load_state_dict(self.student.state_dict())
        self.encoder = frozen_copy(teacher)
        self.teacher_head = frozen_copy(self.head)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(o.prototypes))

    def train(self, mode: bool = True) -> DINO:
        super().train(mode)
        self.encoder.eval()
        self.teacher_head.eval()
        return self

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        o, size = self.objective, self.objective.global_size
        crops = [augment(images, rng, size, a, self.mean, self.std) for a in (o.global_1, o.global_2)]
        views = {"global": torch.cat(crops)}
        if o.local_crops:
            local = [augment(images, rng, o.local_size, o.local, self.mean, self.std) for _ in range(o.local_crops)]
            views["local"] = torch.cat(local)
        return views

    def teacher_temperature(self, at: float) -> float:
        o = self.objective
        return linear(min(at / o.temperature_warmup, 1.0), o.teacher_temperature, o.teacher_temperature_end)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        b = len(views["global"]) // 2
        with torch.no_grad():
            teacher = self.teacher_head(self.encoder(views["global"])[:, 0]).float().unflatten(0, (2, b))
        tokens = [self.student(views[name])[:, 0] for name in ("global", "local") if name in views]
        student = self.head(torch.cat(tokens)).float().unflatten(0, (-1, b))
        loss = dino_loss(student, teacher, self.center, self.objective.student_temperature, self.teacher_temperature(at))
        self.batch_center = teacher.mean((0, 1))
        return {"loss": loss}

    def before_step(self, at: float) -> None:
        if at < self.objective.freeze_last:
            self.head.prototypes.grad = None

    def after_step(self, at: float) -> None:
        momentum = cosine(at, self.objective.momentum, 1.0)
        ema(self.encoder, self.student, momentum)
        ema(self.teacher_head, self.head, momentum)
        self.center.lerp_(self.batch_center, 1 - self.objective.center_momentum)

    def flops(self) -> float:
        o = self.objective
        whole, local = ((size // self.config.backbone.patch_size) ** 2 for size in (o.global_size, o.local_size))
        crop, head = self.student.flops(whole), self.head.flops()
        teacher = 2 * (crop + head)
        return teacher + 3 * (2 * (crop + head) + o.local_crops * (self.student.flops(local) + head))


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs, "boosted": k-NN 73.3, linear 76.0 (official README).

    ssl-bench pretrain --method dino --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(
        lr=5e-4 * 1024 / 256,  # 5e-4 by batch / 256
        lr_end=1e-6,
        warmup=10 / 300,
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip=3.0,
        clip_mode="tensor",  # utils.clip_gradients clips every parameter by itself
    )
    config = budgets.imagenet("dino", DINOConfig(freeze_last=1 / 300), optim, backbone, 1024, 300, **changes)
    return replace(config, backbone=replace(config.backbone, pos_embed="learned", drop_path=0.1))


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method dino"""
    return budgets.small("dino", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method dino --recipe quick"""
    return budgets.quick("dino", _small(), _optim(), **changes)


def _small() -> DINOConfig:
    colour = replace(COLOUR, interpolation="bilinear")
    return DINOConfig(
        global_1=replace(colour, crop_scale=(0.4, 1.0)),
        global_2=replace(colour, crop_scale=(0.4, 1.0), solarize_p=0.2),
        local=replace(colour, crop_scale=(0.1, 0.4)),
        local_crops=2,
        local_size=24,
        global_size=48,
        head_hidden=256,
        head_bottleneck=64,
        prototypes=1024,
        momentum=0.99,
    )


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_mode="tensor")
