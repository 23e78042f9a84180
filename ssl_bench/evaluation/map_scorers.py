"""Scorers of label maps and of matched patches, against masks.

Shapes: N images of H x W pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.masks import VOID
from ssl_bench.errors import UserError
from ssl_bench.evaluation.scorers import Scorer


def overlaps(output: Tensor, truth: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pixels of each class in both, and in either, int64 [N, C], of label maps uint8 [N, H, W]; void ones left out."""
    both, either = [], []
    for mine, true in zip(output.flatten(1), truth.flatten(1), strict=True):
        mine, true = (labels[true != VOID].long() for labels in (mine, true))
        hit = true[mine == true].bincount(minlength=num_classes)
        both.append(hit)
        either.append(mine.bincount(minlength=num_classes) + true.bincount(minlength=num_classes) - hit)
    return torch.stack(both), torch.stack(either)


def miou(both: Tensor, either: Tensor) -> float:
    """Mean intersection over union in percent of `overlaps`, of all images together, over the classes that occur."""
    hit, all_ = both.sum(0), either.sum(0)
    return 100 * float((hit[all_ > 0] / all_[all_ > 0]).double().mean()) if all_.any() else 0.0


@dataclass(frozen=True)
class Segmentation(Scorer):
    """Of label maps uint8 [N, H, W]: mIoU over the pixels of all images, macro over the classes that occur in truth or
    answer, and its 95 % interval where the images are drawn again `draws` times; the share of right pixels.
    """

    draws: int = 1000

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        if output.shape != truth.shape or int(output.max()) >= num_classes:
            raise UserError(f"Label maps {list(output.shape)} of {num_classes} classes for masks {list(truth.shape)}.")
        if not (truth != VOID).any():
            raise UserError("Every pixel of the test masks is void: there is nothing to score.")
        found = overlaps(output, truth, num_classes)
        both, either = (counts.numpy() for counts in found)
        rng, drawn = np.random.default_rng(0), []
        for _ in range(self.draws):
            weight = rng.multinomial(len(both), np.full(len(both), 1 / len(both)))
            hit, all_ = weight @ both, weight @ either
            drawn.append(100 * float((hit[all_ > 0] / all_[all_ > 0]).mean()) if all_.any() else 0.0)
        low, high = np.percentile(drawn, (2.5, 97.5))
        right = 100 * float((output == truth).sum() / (truth != VOID).sum())
        return {"miou": miou(*found), "miou_low": float(low), "miou_high": float(high), "pixels": right}

    def kept(self, output: Tensor, truth: Tensor) -> dict[str, Any]:
        return {"image_miou": self.per_image(output, truth)}

    def per_image(self, output: Tensor, truth: Tensor) -> list[float | None]:
        """Each image's own mIoU in percent, over the classes that occur in it; None where all is void."""
        both, either = overlaps(output, truth, VOID)
        pairs = zip(both, either, strict=True)
        found = [(b[e > 0] / e[e > 0]).double().mean().item() if e.any() else None for b, e in pairs]
        return [None if value is None else round(100 * value, 2) for value in found]


@dataclass(frozen=True)
class Matches(Scorer):
    """Of [N, T, 3], how far in patches the match of a patch lies from the true place (-1: none), and that place (y, x)
    as fractions of the image: percent within `within` patches, of all and macro over the mask's classes there.
    """

    within: float

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        size = torch.tensor(truth.shape[1:])
        at = (output[..., 1:] * size).long().clamp(min=torch.tensor(0), max=size - 1)
        label = truth[torch.arange(len(truth))[:, None], at[..., 0], at[..., 1]]
        known, right = output[..., 0] >= 0, (output[..., 0] <= self.within).double()
        if not known.any():
            raise UserError("No patch of a view has its place in the part of the image that this encoder sees.")
        classes = [right[known & (label == c)].mean() for c in label[known & (label != VOID)].unique()]
        by_class = float(100 * torch.stack(classes).mean()) if classes else 0.0
        return {"recall": float(100 * right[known].mean()), "recall_by_class": by_class}


def endpoint(output: Tensor, truth: Tensor) -> Tensor:
    """How far each pixel's flow ends from where it should, fp32 [N, H, W] in pixels, of flows [N, 2, H, W]."""
    return (output - truth).norm(dim=1)


@dataclass(frozen=True)
class Endpoint(Scorer):
    """Of flows [N, 2, H, W]: the mean endpoint error in pixels and its 95 % interval where clips are drawn again
    `draws` times; that over the pixels that move; and that of no motion at all.
    """

    draws: int = 1000

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        if output.shape != truth.shape or not output.isfinite().all():
            raise UserError(f"Flows {list(output.shape)} for {list(truth.shape)}, and every number must be finite.")
        error, still = endpoint(output, truth).double(), endpoint(torch.zeros_like(truth), truth).double()
        each, moves = error.mean((1, 2)).numpy(), still > 0
        rng = np.random.default_rng(0)
        weights = rng.multinomial(len(each), np.full(len(each), 1 / len(each)), self.draws) / len(each)
        low, high = np.percentile(weights @ each, (2.5, 97.5))
        found = {"epe": float(error.mean()), "epe_low": float(low), "epe_high": float(high)}
        moving = float(error[moves].mean()) if moves.any() else 0.0
        return {**found, "epe_moving": moving, "epe_zero": float(still.mean())}

    def kept(self, output: Tensor, truth: Tensor) -> dict[str, Any]:
        return {"clip_epe": [round(float(v), 4) for v in endpoint(output, truth).mean((1, 2))]}


MAPS = (Segmentation, Matches, Endpoint)
