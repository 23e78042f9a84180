"""MSN: a masked crop must match the unmasked other crop's distribution over prototypes.

Assran et al., "Masked Siamese Networks for Label-Efficient Learning", ECCV 2022, arXiv 2204.07141.

The anchor network encodes a crop with random patches dropped and several small focal crops; the target network (EMA)
encodes one whole crop, sharpened. The entropy of the mean anchor prediction is pushed up, so that all prototypes are
used. Nothing is reconstructed. Evaluated: the target encoder's CLS.
Checked against facebookresearch/msn db0d572 (configs/pretrain/msn_vits16.yaml, src/).
Adapted: the shared ViT's initialisation and position embedding; every image loses its own patches, not the batch's.

Changes: 1 first version. 2 no weight decay on the prototypes, and clipping measures and scales encoder and projector
alone; crops are bilinear, torchvision's default (bicubic before). All as in msn_train.py and transforms.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.assignment import sinkhorn
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, cosine, ema, frozen_copy, linear
from ssl_bench.views import masks
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import COLOUR, MultiCrop, check_crops, crop_flops, multi_crop, small_multi_crop

HALF = replace(COLOUR, saturation=0.4, blur_p=0.5, interpolation="bilinear")  # SimCLR's colours at strength 0.5
STRETCH = 0.8  # the official schedules are 1.25 times as long as the training, which ends at this part of them


@dataclass(frozen=True)
class MSNConfig(MultiCrop):
    """Defaults are those of ViT-S/16."""

    global_1: AugmentConfig = replace(HALF, crop_scale=(0.3, 1.0))  # the target's crop
    global_2: AugmentConfig = replace(HALF, crop_scale=(0.3, 1.0))  # the anchor's randomly masked crop
    local: AugmentConfig = replace(HALF, crop_scale=(0.05, 0.3))  # the anchor's focal crops
    local_crops: int = 10  # focal crops per image
    mask_ratio: float = 0.15  # share of patches dropped from the masked crop
    hidden: int = 2048  # width of the projector
    out: int = 256  # dimensions of the embedding
    prototypes: int = 1024  # learned, compared by cosine
    temperature: float = 0.1  # softmax of the anchor
    sharpen: float = 0.25  # target: probabilities to the power 1 / sharpen, normalised
    use_sinkhorn: bool = True  # balance the sharpened targets over the batch
    entropy_weight: float = 1.0  # of the mean prediction's entropy (ME-MAX)
    momentum: float = 0.996  # EMA at the start; linear towards 1, of which it does 80 %

    def check(self) -> None:
        super().check()
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"objective.mask_ratio={self.mask_ratio} must lie between 0 and 1.")
        if min(self.temperature, self.sharpen) <= 0:
            raise UserError("objective.temperature and objective.sharpen must be positive.")


def msn_terms(anchors: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of anchor logits [V, B, K] under target probabilities [B, K], and log K minus the entropy of the
    mean prediction over views, images and processes: 0 when all prototypes are used alike."""
    log_p = F.log_softmax(anchors / temperature, dim=-1)
    mean = collectives.mean(log_p.exp().mean((0, 1)))
    missing = (mean * mean.clamp_min(1e-12).log()).sum() + torch.tensor(float(len(mean))).log()
    return -(targets * log_p).sum(-1).mean(), missing


class MSN(Method):
    """Anchor and target network (encoder and projector each), common prototypes."""

    family, paper = "self-distillation", "MSN, Assran et al. 2022, arXiv 2204.07141"
    sees = "1 whole crop, 1 masked crop; paper: and 10 focal ones"
    evaluated, pooling = "target encoder (EMA)", "cls"
    version = 2
    fewest = 2  # BatchNorm over the masked crops
    objective: MSNConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        check_crops(config, "global_size", "local_size")
        self.anchor = self.make_vit()
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, layers=3, end="bias", activation=nn.GELU)
        teacher = self.make_vit(drop_path=0.0)
        teacher.load_state_dict(self.anchor.state_dict())
        self.encoder = frozen_copy(teacher)
        self.target_projector = frozen_copy(self.projector)
        self.prototypes = nn.Parameter(torch.empty(o.prototypes, o.out).uniform_(-(o.out**-0.5), o.out**-0.5))
        self.num_patches = (o.global_size // config.backbone.patch_size) ** 2

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        keep, _ = masks.random_keep(rng, self.num_patches, self.objective.mask_ratio)
        return multi_crop(images, rng, self.objective, self.mean, self.std) | {"keep": keep}

    def logits(self, z: Tensor) -> Tensor:
        """Cosines [..., K] between embeddings [..., D] and prototypes."""
        return F.normalize(z.float(), dim=-1) @ F.normalize(self.prototypes, dim=-1).T

    @torch.no_grad()
    def targets(self, crops: Tensor) -> Tensor:
        """Sharpened distributions [B, K]: softmax(x / t) to the power 1 / s, normalised, is softmax(x / (t * s))."""
        o, z = self.objective, self.target_projector(self.encoder(crops)[:, 0])
        with torch.autocast(crops.device.type, enabled=False):
            logits, temperature = self.logits(z), o.temperature * o.sharpen
        return (
            sinkhorn(F.log_softmax(logits / temperature, -1), 1.0)
            if o.use_sinkhorn
            else F.softmax(logits / temperature, dim=-1)
        )

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        whole, masked = views["global"].chunk(2)
        cls = [self.anchor(masked, views["keep"])[:, 0]]
        if "local" in views:
            cls.append(self.anchor(views["local"])[:, 0])
        z = torch.cat([self.projector(part) for part in cls])  # BatchNorm by crop size, as in the code
        with torch.autocast(z.device.type, enabled=False):
            anchors = self.logits(z).unflatten(0, (-1, len(whole)))
        match, missing = msn_terms(anchors, self.targets(whole), self.objective.temperature)
        return {"loss": match + self.objective.entropy_weight * missing, "match": match, "missing_entropy": missing}

    def param_groups(self) -> list[dict[str, Any]]:
        groups = super().param_groups()
        rest = [p for p in groups[0]["params"] if p is not self.prototypes]
        mine = {"params": [self.prototypes], "lr_scale": 1.0, "weight_decay_scale": 0.0, "clip": False}
        return [{**groups[0], "params": rest}, *groups[1:], mine]

    def after_step(self, at: float) -> None:
        momentum = linear(STRETCH * at, self.objective.momentum, 1.0)
        ema(self.encoder, self.anchor, momentum)
        ema(self.target_projector, self.projector, momentum)

    def flops(self) -> float:
        o = self.objective
        head = self.projector.flops() + 2.0 * self.prototypes.numel()
        masked = self.anchor.flops(int(self.num_patches * (1 - o.mask_ratio))) + head
        focal = crop_flops(self.anchor, o.local_size) + head
        return crop_flops(self.anchor, o.global_size) + head + 3 * (masked + o.local_crops * focal)


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation and positions, masks per image",
    "small, quick": "no focal crops, global ones of 36 px, 50 to 100 %, without blur, 256 prototypes",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16, ImageNet-1k, 800 epochs, 64 images on each of 16 GPUs. Published, 1 %: ViT-B/4 75.7 (I-JEPA's Table 2).

    ssl-bench pretrain --method msn --recipe paper data.name=folder:/data/imagenet
    """
    optim = OptimConfig(
        lr=1e-3,
        lr_start=2e-4,
        lr_end=cosine(STRETCH, 1e-3, 1e-6),
        warmup=15 / 800,
        weight_decay=0.04,
        weight_decay_end=cosine(STRETCH, 0.04, 0.4),
        clip=3.0,
    )
    return budgets.imagenet("msn", MSNConfig(), optim, backbone, 1024, 800, **changes)


def small(**changes: Any) -> Config:
    """28-64 px. ssl-bench pretrain --method msn"""
    return budgets.small("msn", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method msn --recipe quick"""
    return budgets.quick("msn", _small(), _optim(), **changes)


def _small() -> MSNConfig:
    return small_multi_crop(MSNConfig(hidden=256, out=64, prototypes=256, momentum=0.99))


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.04)
