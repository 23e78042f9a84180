"""DINOv2: iBOT at scale, with KoLeo spreading the features and Sinkhorn-Knopp or centring for the targets.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, arXiv 2304.07193.

Beside iBOT: exactly half of the global crops are masked, in evenly spread ratios; only masked patches pass the
teacher's head; KoLeo pushes every student CLS (before the head) away from its nearest neighbour in the same view.
Defaults are the official short config (one head, centring); `long` is the other (two heads, Sinkhorn).
Adapted: KoLeo looks for neighbours in the batch of all processes (official: of one GPU), so that a run does not depend
on their number; both heads of `long` have one bottleneck. The released ViT-S, B and L are distilled from ViT-g: do not
compare them with this. Evaluated: the teacher's CLS.
The code that trained DINOv2's and DINOv3's released weights hands 1 - p to RandomApply (data/transforms.py), so their
global crops were blurred with probability 0 and 0.9, not 1 and 0.1; local ones with 0.5 either way. `paper` and `long`
have what was meant; for what was run: `objective.global_1.blur_p=0 objective.global_2.blur_p=0.9`.

Changes: 1 first version. 2 prototypes start at nn.Linear's default, as in the official code (0.02 before); the mask
token learns at the rate of layer 0 (it had that of the head); `paper` and `long` train the prototypes' lengths and drop
every block alike (param_groups.py, ssl_default_config.yaml).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.dino import DINOConfig, small_objective, small_optim
from methods.ibot import IBOT, IBOTConfig
from ssl_bench.config import budgets
from ssl_bench.config.schema import BudgetConfig, Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import sinkhorn
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Views
from ssl_bench.views.augment import AugmentConfig


@dataclass(frozen=True)
class DINOv2Config(IBOTConfig):
    """Defaults are those of vitl16_short.yaml."""

    global_1: AugmentConfig = replace(DINOConfig.global_1, crop_scale=(0.32, 1.0))  # first global crop: always blurred
    global_2: AugmentConfig = replace(DINOConfig.global_2, crop_scale=(0.32, 1.0))  # second global crop
    local: AugmentConfig = replace(DINOConfig.local, crop_scale=(0.05, 0.32))  # local crops
    local_crops: int = 8  # number of local crops
    prototypes: int = 65536  # output dimensions
    momentum: float = 0.992  # EMA at the start, cosine to 1
    koleo_weight: float = 0.1  # of the KoLeo term, summed over the two global views
    assignment: Literal["centering", "sinkhorn"] = "centering"  # how teacher logits become targets
    layer_decay: float = 0.9  # learning rate of a block / that of the next one
    patch_lr: float = 0.2  # learning rate of the patch projection, times this

    def check(self) -> None:
        super().check()
        if self.assignment != "centering" and self.center_momentum != DINOConfig.center_momentum:
            raise UserError("objective.center_momentum has no effect with objective.assignment=sinkhorn.")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"objective.layer_decay={self.layer_decay} must lie in (0, 1].")


def koleo_loss(cls: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo: minus the mean log distance of each L2-normalised row [B, D] to its nearest other row (KoLeoLoss)."""
    z = F.normalize(cls, dim=-1, eps=eps)
    with torch.no_grad():
        nearest = (z @ z.T).fill_diagonal_(-1).argmax(1)
    return -(F.pairwise_distance(z, z[nearest], eps=eps) + eps).log().mean()


class DINOv2(IBOT):
    """iBOT with KoLeo, other masks and a choice of target assignment."""

    family, paper = "self-distillation", "DINOv2, Oquab et al. 2024, arXiv 2304.07193"
    sees = "2 global crops, masked for the student; paper: and 8 local ones"
    kinds = ("image",)
    version = 2
    fewest = 2  # KoLeo needs a neighbour
    objective: DINOv2Config

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.min_block = 4

    def mask_ratios(self, rng: Rng) -> Tensor:
        """Strata of the ratio's range, one per masked crop, shuffled over the global batch (data/collate.py)."""
        o, whole = self.objective, rng.whole
        count = max(1, round(2 * rng.batch * o.masked_share))
        place = whole.rand(2).flatten().argsort().argsort().view(-1, 2)
        share = (place + whole.rand(2)) / count
        ratio = o.mask_ratio[0] + share * (o.mask_ratio[1] - o.mask_ratio[0])
        return torch.where(place < count, ratio, 0.0)[rng.rows]

    def teach(self, crops: Tensor, mask: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(crops)
        cls = self.teacher_head(tokens[:, 0])
        patches = (self.teacher_patch_head or self.teacher_head)(tokens[:, self.encoder.num_prefix :][mask])
        if self.objective.assignment == "sinkhorn":
            return sinkhorn(cls, temperature), sinkhorn(patches, temperature)
        return self.center(cls, temperature), self.patch_center(patches, temperature)

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        cls, patches = self.study(views)
        losses = self.losses(views, cls, patches, at)
        with torch.autocast(cls.device.type, enabled=False):  # neighbours of L2-normalised rows need all their bits
            halves = cls[: len(views["global"])].float().chunk(2)
            losses["koleo_loss"] = torch.stack([koleo_loss(collectives.gather(half)) for half in halves]).sum()
        weighted = (
            self.objective.patch_weight * losses["patch_loss"] + self.objective.koleo_weight * losses["koleo_loss"]
        )
        return {"loss": losses["cls_loss"] + weighted, **losses}

    def param_groups(self) -> list[dict[str, Any]]:
        o, depth = self.objective, self.config.backbone.depth
        scales = {self.mask_token: o.layer_decay ** (depth + 1)}
        for name, parameter in self.student.named_parameters():
            part, *rest = name.split(".")
            layer = int(rest[0]) + 1 if part == "blocks" else depth + 1 if part == "norm" else 0
            scales[parameter] = o.layer_decay ** (depth + 1 - layer) * (o.patch_lr if part == "patch_embed" else 1.0)
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for group in super().param_groups():
            for parameter in group["params"]:
                key = scales.get(parameter, 1.0), group["weight_decay_scale"]
                empty = {"params": [], "lr_scale": key[0], "weight_decay_scale": key[1]}
                groups.setdefault(key, empty)["params"].append(parameter)
        return list(groups.values())

    def flops(self) -> float:
        o = self.objective
        patches = 2 * self.grid[0] * self.grid[1]
        skipped = patches * (1 - o.masked_share * sum(o.mask_ratio) / 2)  # the teacher's head sees masked patches only
        return super().flops() - (self.patch_head or self.head).flops() * skipped


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "KoLeo over all processes, one clipping norm",
    "long": "as paper, and both heads of one bottleneck",
    "small, quick": "no local crops, global ones of 36 px, 50 to 100 %, without blur, 256 prototypes "
    "of fixed length, no layer decay",
}


def paper(backbone: str = "vit_large_patch16", **changes: Any) -> Config:
    """ViT-L/16 short, ImageNet-1k, 100 "epochs" of 1250 steps: k-NN 81.6, linear 82.9 (official README).

    ssl-bench pretrain --method dinov2 --recipe paper data.name=folder:/data/imagenet
    """
    objective = DINOv2Config(temperature_warmup=30 / 100, freeze_last=1 / 100, train_gain=True)
    optim = OptimConfig(
        lr=4e-3 * (2048 / 1024) ** 0.5,  # 4e-3 by the root of batch / 1024
        lr_end=1e-6,
        warmup=10 / 100,
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip=3.0,  # official: per FSDP module; here the global norm
    )
    budget = {"budget": BudgetConfig(batch_size=2048, steps=100 * 1250)}
    config = budgets.imagenet("dinov2", objective, optim, backbone, 2048, 100, **(budget | changes))
    vit = replace(config.backbone, pos_embed="learned", drop_path=0.3, drop_path_uniform=True, layer_scale=1e-5)
    return replace(config, backbone=vit)


def long(backbone: str = "vit_large_patch14", **changes: Any) -> Config:
    """ViT-L/14 long (vitl14.yaml) was trained on ImageNet-22k, 500 x 1250 steps: k-NN 82.0, linear 84.5 (README).

    ssl-bench pretrain --method dinov2 --recipe long data.name=folder:/data/imagenet22k
    """
    config = paper(backbone, **({"budget": BudgetConfig(batch_size=3072, steps=500 * 1250)} | changes))
    objective = replace(
        config.objective, shared_head=False, assignment="sinkhorn", prototypes=131072, momentum=0.994, layer_decay=1.0,
        local_size=98, temperature_warmup=30 / 500, freeze_last=1 / 500,
    )  # fmt: skip
    optim = replace(config.optim, lr=2e-4 * 3**0.5, warmup=80 / 500, weight_decay_end=0.2)
    backbone_config = replace(config.backbone, drop_path=0.4)
    return replace(config, recipe="long", objective=objective, optim=optim, backbone=backbone_config)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method dinov2"""
    return budgets.small("dinov2", _small(), small_optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method dinov2 --recipe quick"""
    return budgets.quick("dinov2", _small(), small_optim(), **changes)


def _small() -> DINOv2Config:
    return replace(small_objective(DINOv2Config()), layer_decay=1.0, patch_lr=1.0)
