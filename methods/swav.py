"""SwAV: predict a crop's cluster assignment from the other crops; assignments are balanced over the batch.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
arXiv 2006.09882.

One network, no teacher. Embeddings of both global crops are assigned to prototypes by Sinkhorn-Knopp without gradient;
every other crop (global and local) predicts them. A queue of past embeddings can join the assignment where batches are
small. Evaluated: the encoder's CLS.
Checked against facebookresearch/swav 5e073db (main_swav.py, scripts/). Adapted: ResNets with LARS there; `paper`
follows the ViT setting of MoCo v3 (arXiv 2104.02057), which reports SwAV 67.1 with S/16 and 71.6 with B/16. With a
queue, every process takes a share of one common queue; it fills from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.dino import dino_loss
from methods.mocov3 import vit_optim
from methods.simclr import STRONG
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import sinkhorn
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import MultiCrop, check_crops, crop_flops, multi_crop, small_multi_crop


@dataclass(frozen=True)
class SwAVConfig(MultiCrop):
    """Defaults are those of main_swav.py but for the crops' filter, which `paper` sets: it is in small runs' names."""

    global_1: AugmentConfig = replace(STRONG, crop_scale=(0.14, 1.0))  # first global crop: SimCLR's colours
    global_2: AugmentConfig = replace(STRONG, crop_scale=(0.14, 1.0))  # second global crop
    local: AugmentConfig = replace(STRONG, crop_scale=(0.05, 0.14))  # local crops
    local_crops: int = 6  # number of local crops
    hidden: int = 2048  # width of the projector
    out: int = 128  # dimensions of the embedding
    prototypes: int = 3000  # clusters
    temperature: float = 0.1  # softmax of the predictions
    epsilon: float = 0.05  # of Sinkhorn-Knopp: smaller is harder
    iterations: int = 3  # of Sinkhorn-Knopp
    queue_length: int = 0  # past embeddings per global view that join the assignment; 0: none (3840 at batch 256)
    queue_start: float = 0.0  # share of training before they do, once there are enough (15 of 200 epochs at batch 256)
    freeze_prototypes: float = 0.01  # share of training in which the prototypes get no gradient: one of 100 epochs

    def check(self) -> None:
        super().check()
        if self.queue_length == 0 and self.queue_start != 0:
            raise UserError("objective.queue_start has no effect with objective.queue_length=0.")
        if min(self.temperature, self.epsilon) <= 0:
            raise UserError("objective.temperature and objective.epsilon must be positive.")


class SwAV(Method):
    """Encoder, projector and prototypes of unit length."""

    family, paper = "contrastive", "SwAV, Caron et al. 2020, arXiv 2006.09882"
    sees, evaluated, pooling = "2 global crops; paper: and 6 local ones", "encoder", "cls"
    fewest = 2  # Sinkhorn-Knopp gives a single image to all prototypes alike
    objective: SwAVConfig
    queue: Tensor

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        check_crops(config, "global_size", "local_size")
        self.encoder = self.make_vit()
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, end="bias")
        self.prototypes = nn.Parameter(F.normalize(torch.randn(o.prototypes, o.out), dim=-1))
        self.register_buffer("queue", torch.zeros(2, o.queue_length, o.out))

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        return multi_crop(images, rng, self.objective, self.mean, self.std)

    @torch.no_grad()
    def assign(self, z: Tensor, logits: Tensor, queue: Tensor, at: float) -> Tensor:
        """Targets [B, K] of one global view: embeddings z [B, D], their logits [B, K], its queue [Q, D]."""
        o, b = self.objective, len(z)
        if o.queue_length and at >= o.queue_start and queue[-1].any():  # full
            mine = queue[collectives.rank() :: collectives.world_size()]
            logits = torch.cat([logits, mine @ self.prototypes.T])
        return sinkhorn(logits, o.epsilon, o.iterations)[:b]

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, b = self.objective, len(views["global"]) // 2
        cls = torch.cat([self.encoder(views[name])[:, 0] for name in ("global", "local") if name in views])
        projected = self.projector(cls).float()  # BatchNorm over all crops together, as in the code
        with torch.autocast(cls.device.type, enabled=False):
            z = F.normalize(projected, dim=-1).unflatten(0, (-1, b))
            logits = z @ self.prototypes.T
            targets = [self.assign(z[v].detach(), logits[v].detach(), self.queue[v], at) for v in range(2)]
        if o.queue_length:
            self.newest = z[:2].detach()
        return {"loss": dino_loss(logits, torch.stack(targets), o.temperature)}

    def before_step(self, at: float) -> None:
        if at < self.objective.freeze_prototypes:
            self.prototypes.grad = None

    def after_step(self, at: float) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))
        if length := self.objective.queue_length:
            newest = torch.stack([collectives.gather(z) for z in self.newest.unbind()])
            self.queue.copy_(torch.cat([newest, self.queue], 1)[:, :length])

    def flops(self) -> float:
        o = self.objective
        head = self.projector.flops() + 2.0 * self.prototypes.numel()
        encoder = 2 * crop_flops(self.encoder, o.global_size) + o.local_crops * crop_flops(self.encoder, o.local_size)
        return 3 * (encoder + (2 + o.local_crops) * head)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "a ViT with AdamW (official: ResNet with LARS)",
    "small, quick": "no local crops, global ones of 36 px, 50 to 100 %, without blur, 128 prototypes",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 300 epochs; MoCo v3's paper reports linear 67.1 for its SwAV (two crops) with this ViT.

    ssl-bench pretrain --method swav --recipe paper data.name=folder:/data/imagenet
    """
    views = ("global_1", "global_2", "local")  # multicropdataset.py leaves torchvision's default
    bilinear = {view: replace(getattr(SwAVConfig, view), interpolation="bilinear") for view in views}
    objective = SwAVConfig(freeze_prototypes=1 / 300, **bilinear)  # one epoch
    return budgets.imagenet("swav", objective, vit_optim(300), backbone, 4096, 300, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method swav"""
    return budgets.small("swav", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method swav --recipe quick"""
    return budgets.quick("swav", _small(), _optim(), **changes)


def _small() -> SwAVConfig:
    """Without a queue: with one of 512 (prototypes in motion, features of steps ago) one run in three collapsed.

    Linear on validation, one seed: queue 28.9 to 41.5 (also with lr 3e-4, clipping, or prototypes frozen longer), none
    45.8, none with half the rate and clipping 48.0.
    """
    return small_multi_crop(SwAVConfig(hidden=256, out=64, prototypes=128))


def _optim() -> OptimConfig:
    return OptimConfig(lr=5e-4, warmup=0.1, weight_decay=0.05, clip=1.0)
