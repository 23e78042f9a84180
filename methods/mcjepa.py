"""MC-JEPA: one encoder learns content from two crops of a frame, and motion by estimating the flow between two frames.

Bardes, Ponce and LeCun, "MC-JEPA: A Joint-Embedding Predictive Architecture for Self-Supervised Learning of Motion and
Content Features", 2023, arXiv 2307.12698.

There is no official code. From the abstract: one shared encoder, flow and content learned jointly. Secondary, not
verified: VICReg on two crops of still images; an estimator in the manner of PWC-Net, coarse to fine on warped features;
regression of warped features, photometric, smoothness and backward consistency terms; variance and covariance terms on
the features; the flow terms start late. Constants marked [2] are such. Photometric term, occlusion and smoothness are
ARFlow's (Liu et al. 2020, arXiv 2003.13045; its code at e92a8bb), marked [A].
Adapted: a ViT in place of ConvNeXt-T, so the pyramid is two levels made of its tokens (models/flow.py); frames are
shown alone, as still clips; pairs are neighbouring frames of the same clips that give the crops.
Evaluated: the encoder's CLS; the estimator is left behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.vicreg import VICRegConfig, vicreg_terms
from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.errors import UserError
from ssl_bench.models.flow import FlowHead, enlarged, warp
from ssl_bench.models.projection import MLP
from ssl_bench.parallel import collectives
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views
from ssl_bench.views.crops import check_crops, cut, small_two_crops, unmirrored
from ssl_bench.views.plain import plain


@dataclass(frozen=True)
class MCJEPAConfig(VICRegConfig):
    """VICReg's settings for the content, and weights of the motion terms."""

    flow_start: float = 0.1  # share of training before the motion terms count [2]
    regression: float = 1.0  # warped features of the second frame against the first's [2]
    photometric: float = 1.0  # warped second frame against the first
    smooth: float = 75.0  # edge-aware smoothness [2]
    cycle: float = 0.2  # the flow back undoes the flow there (own choice)
    spread: float = 1.0  # variance and covariance of the frames' tokens (own choice)
    width: int = 32  # channels of the pyramid
    reach: int = 2  # cells around which features are correlated (ARFlow: 4, on finer maps)

    def check(self) -> None:
        super().check()
        if not 0 <= self.flow_start < 1 or min(self.width, self.reach) < 1:
            raise UserError("mcjepa needs 0 <= flow_start < 1, width >= 1 and reach >= 1 in objective.")


def ssim_distance(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2 over windows of 3 x 3, in 0..1, of pictures [B, C, H, W] with values in 0..1 [A]."""
    ma, mb, aa, bb, ab = (F.avg_pool2d(x, 3, 1) for x in (a, b, a * a, b * b, a * b))
    va, vb, cov = aa - ma**2, bb - mb**2, ab - ma * mb
    ssim = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2) / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2))
    return ((1 - ssim) / 2).clamp(0, 1)


def visible(flow: Tensor, back: Tensor) -> Tensor:
    """1 where the flow back undoes the flow [B, 2, H, W] in pixels, 0 where something is hidden: [B, 1, H, W] [A]."""
    there = warp(back, flow)
    limit = 0.01 * (flow.square() + there.square()).sum(1, keepdim=True) + 0.5
    return ((flow + there).square().sum(1, keepdim=True) <= limit).to(flow)


def photometric_loss(first: Tensor, second: Tensor, flow: Tensor, seen: Tensor) -> Tensor:
    """0.15 L1 + 0.85 SSIM of the warped second picture against the first, over what is visible [A]."""
    warped, share = warp(second, flow), collectives.mean(seen.mean()).clamp(min=1e-3)
    l1 = ((first - warped).abs() * seen).mean() / share
    return 0.15 * l1 + 0.85 * ssim_distance(first * seen, warped * seen).mean() / share


def smoothness(flow: Tensor, picture: Tensor) -> Tensor:
    """First-order smoothness where the picture is even; flow in shares of the smaller side [A]."""
    flow, total = flow / min(flow.shape[-2:]), torch.zeros((), device=flow.device)
    for axis in (2, 3):
        edges = torch.exp(-10 * picture.diff(dim=axis).abs().mean(1, keepdim=True))
        total = total + (flow.diff(dim=axis).abs() * edges).mean() / 2
    return total


class MCJEPA(Method):
    """Encoder, expander and flow estimator."""

    family, paper = "JEPA", "MC-JEPA, Bardes et al. 2023, arXiv 2307.12698 (adapted: no official code)"
    sees, evaluated, pooling = "2 crops of a frame, and 2 frames", "encoder", "cls"
    kinds = ("clip",)
    fewest = 2  # the variance is over images
    objective: MCJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        check_crops(config, "crop_size")
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        self.encoder.patch_embed.requires_grad_(not o.freeze_patch)
        self.grid = (self.encoder.grid[1], self.encoder.grid[2])
        self.patch = config.backbone.patch_size
        if self.patch % 2:
            raise UserError(f"mcjepa halves patches: backbone.patch_size={self.patch} must be even.")
        self.projector = MLP(config.backbone.embed_dim, o.hidden, o.out, layers=3)
        self.head = FlowHead(config.backbone.embed_dim, o.width, o.reach)

    def views(self, clips: Tensor, rng: Rng, at: float) -> Views:
        o, rows = self.objective, torch.arange(len(clips), device=clips.device)
        t = (rng.rand() * (clips.shape[1] - 1)).long()
        pair = torch.cat([clips[rows, t], clips[rows, t + 1]])
        crops = cut(clips[rows, t], rng, o.crop_size, [o.view_1, o.view_2], self.mean, self.std)
        return {"crops": crops, "frames": plain(pair, self.info.size, 0, "bilinear", self.info.mean, self.info.std)}

    def still(self, frames: Tensor) -> Tensor:
        """Tokens of frames [B, C, H, W], each shown alone: a clip of one tubelet."""
        tokens: Tensor = self.encoder(frames[:, None].expand(-1, self.config.backbone.tubelet, -1, -1, -1))
        return tokens

    def flow(self, tokens: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Flows there and back [2 * B, 2, h, w] on each level, and pyramids of (first, second) for either direction."""
        maps = self.head.pyramid(tokens, self.grid)
        turned = [torch.cat(m.chunk(2)[::-1]) for m in maps]
        return self.head(maps, turned), [maps, turned]

    def motion(self, frames: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """The motion terms of frames [2 * B, C, H, W], first ones before second ones, and their patch tokens."""
        o, shown = self.objective, (frames * self.std + self.mean).clamp(0, 1)
        other = torch.cat(shown.chunk(2)[::-1])
        flows, (maps, turned) = self.flow(tokens)
        whole = enlarged(flows[-1], self.patch // 2)
        back = torch.cat(whole.chunk(2)[::-1])
        with torch.no_grad():
            seen = visible(whole, back)
        warped = [F.mse_loss(warp(b, flow), a) for a, b, flow in zip(maps, turned, flows, strict=True)]
        flat = collectives.gather(tokens).flatten(0, 1)
        _, variance, covariance = vicreg_terms(flat, flat)
        terms = {
            "regression": torch.stack(warped).mean(), "photometric": photometric_loss(shown, other, whole, seen),
            "smooth": smoothness(whole, shown), "cycle": ((whole + warp(back, whole)).abs() * seen).mean(),
            "spread": o.variance * variance + o.covariance * covariance / 2,
        }  # fmt: skip
        return {**terms, "motion": torch.stack([getattr(o, k) * v for k, v in terms.items()]).sum()}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        o, prefix = self.objective, self.encoder.num_prefix
        z1, z2 = (self.projector(cls).float() for cls in self.still(views["crops"])[:, 0].chunk(2))
        tokens = self.still(views["frames"])[:, prefix:].float()
        with torch.autocast(z1.device.type, enabled=False):
            terms = vicreg_terms(collectives.gather(z1), collectives.gather(z2))
            found = self.motion(views["frames"].float(), tokens)
        content = o.invariance * terms[0] + o.variance * terms[1] + o.covariance * terms[2]
        return {"loss": content + float(at >= o.flow_start) * found["motion"], "content": content, **found}

    def flops(self) -> float:
        cells, crop = self.grid[0] * self.grid[1], (self.objective.crop_size // self.patch) ** 2
        encoder = self.encoder.flops(cells) + self.encoder.flops(crop)
        return 3 * 2 * (encoder + self.projector.flops() + 2.0 * self.objective.out**2 + self.head.flops(cells))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "built from the abstract and secondary sources, a ViT with AdamW, a pyramid of two levels",
    "small, quick": "built from the abstract and secondary sources, a ViT, a pyramid of two levels, crops of 20 to "
    "100 % without blur, small heads",
}


def paper(backbone: str = "vit_small_patch16", **changes: Any) -> Config:
    """ViT-S/16 on films, 100k steps: expect no published number, the settings are ours.

    ssl-bench pretrain --method mcjepa --recipe paper data.name=folder:/data/films#kind=clip
    """
    return _still(budgets.films("mcjepa", unmirrored(MCJEPAConfig()), _optim(), backbone, 384, 100_000, **changes))


def small(**changes: Any) -> Config:
    """8 frames of 32 px. ssl-bench pretrain --method mcjepa"""
    return _still(budgets.small_clips("mcjepa", _small(), _optim(), **changes))


def quick(**changes: Any) -> Config:
    """A first look at motion: ssl-bench pretrain --method mcjepa --recipe quick data.name=movingphotos:2"""
    return _still(budgets.quick_clips("mcjepa", _small(), _optim(), **changes))


def _still(config: Config) -> Config:
    """Tokens of one frame each, with CLS."""
    return replace(config, backbone=replace(config.backbone, class_token=True, tubelet=1))


def _small() -> MCJEPAConfig:
    return replace(unmirrored(small_two_crops(MCJEPAConfig(hidden=256, out=256))), crop_size=32)


def _optim() -> OptimConfig:
    return OptimConfig(lr=1e-3, warmup=0.1, weight_decay=0.05)
