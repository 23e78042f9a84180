"""`dense`: what the patch tokens know of the pixels under them, on a set with masks.

Definition: patch tokens of the last layer after the final norm, of images without augmentation, standardised per
dimension over the training patches. `layers=last4` puts those of the last four layers side by side (DINOv2, arXiv
2304.07193, section 7.4), `concat=cls` or `registers` these tokens of the image beside each (as there, for depth),
`image_size` shows images larger than the encoder's, with positions interpolated; raw input has none of these. Answers
are label maps at the masks' size in the store; a pixel takes the answer of the patch it lies in (of the nearest one,
where the network's centre crop leaves it out). The headline is mIoU over the pixels of all test images, macro over the
classes that occur, void pixels left out; beside it its 95 % interval over images drawn again, and the share of right
pixels. Each image's own mIoU is recorded.

dense         L2 logistic regression on patches, whose label is the most frequent of their pixels. C among
              10^linspace(-6, 5, 8) by mIoU on the validation part, then both parts are fitted (CAPI, Darcet et al.
              2025, arXiv 2502.08769; capi/eval_segmentation.py)
dense:last4   the same with layers=last4
dense:knn     the nearest training patches; each pixel goes to the class that most of their pixels at the same place
              have, of equal ones to the nearest's. k and cosine or L2 chosen on the validation part (CAPI)
dense:linear  BatchNorm, dropout 0.1 and a 1 x 1 convolution (N(0, 0.01)), logits bilinear at the masks' size; AdamW,
              rate and decay 1e-3, batch 16, linear warm-up, cosine (DINOv3, arXiv 2508.10104;
              config-ade20k-linear-training.yaml). Left out: random scales and crops, flips, windows that slide.
              Nothing is chosen; 2,000 steps in place of 40,000
dense:match   without training or labels: of each test image a part (0.6 to 0.9 of its sides, mirrored or not, the same
              for all methods) is shown too; each patch of it goes to the patch of the image nearest by cosine. Percent
              of patches that land within one patch of their true place: of all, and macro over the mask's classes there
              (keypoints' usual PCK; the pairs are this benchmark's own)

At most `images` training images, drawn by the seed. The row of raw input gets patches of `raw_patch` pixels per side.
No variant regresses depth: no set here has any, and a map of the object's size, which `factors` could give, is its mask
times the one number per image that protocol `factors` regresses already.

Changes: 1 first version.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ssl_bench.config.schema import bounded, later
from ssl_bench.errors import UserError
from ssl_bench.evaluation import map_scorers, matches
from ssl_bench.evaluation.dense_heads import DenseHead, Linear, Logistic, Neighbours
from ssl_bench.evaluation.logistic import COMPARED
from ssl_bench.evaluation.patch_tokens import Reading
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, refuse_idle
from ssl_bench.evaluation.scorers import Scorer
from ssl_bench.rng import mix
from ssl_bench.screen import paced

ROWS = 256  # images at a time


@dataclass(frozen=True)
class DenseConfig:
    head: Literal["logistic", "knn", "linear", "match"] = "logistic"
    images: int = bounded(2000, least=0)  # training images at most; 0: all
    raw_patch: int = 6  # pixels per side of a patch of raw input
    strengths: int = 8  # values of C between 10^-6 and 10^5
    tol: float = COMPARED  # share of the objective left to gain at which L-BFGS stops
    ks: tuple[int, ...] = (1, 3, 10, 30)
    metrics: tuple[str, ...] = ("cosine", "l2")
    steps: int = 2000
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = bounded(1e-3, least=0)
    within: float = later(1.0)  # patches from the true place that a match may lie
    layers: Literal["last", "last4"] = later("last")
    concat: Literal["none", "cls", "registers"] = later("none")  # tokens of the image beside every patch token
    image_size: int = later(0)  # pixels of the input's shorter side; 0: what the encoder was made for

    @property
    def reading(self) -> Reading:
        return Reading(self.layers, self.concat, self.image_size, self.raw_patch)

    def check(self) -> None:
        own = {
            "logistic": ("strengths", "tol"), "knn": ("ks", "metrics"),
            "linear": ("steps", "batch_size", "lr", "weight_decay"), "match": ("within",),
        }  # fmt: skip
        idle = [name for head in own if head != self.head for name in own[head]]
        refuse_idle(self, f"with head={self.head}", *idle, *(["images"] if self.head == "match" else []))
        if odd := set(self.metrics) - {"cosine", "l2"}:
            raise UserError(f"metrics={odd.pop()}: write cosine, l2 or both.")
        self.reading.check()


def last4() -> DenseConfig:
    """The last four layers side by side."""
    return DenseConfig(layers="last4")


def knn() -> DenseConfig:
    """CAPI's patch k-NN; its bank is every training patch (`images=0`)."""
    return DenseConfig("knn", images=1000)


def linear() -> DenseConfig:
    """DINOv3's linear segmentation head."""
    return DenseConfig("linear")


def match() -> DenseConfig:
    """Correspondence by the nearest patch, on views whose transformation is known."""
    return DenseConfig("match")


class Maps(Predictor):
    """A head fitted on `x`, with the settings at the places `only` (None: all)."""

    def __init__(self, config: DenseConfig, x: Features, seed: int, only: int | None = None) -> None:
        super().__init__()
        assert x.masks is not None
        self.config, c = config, config
        where = c.reading.map(x)
        z = torch.cat([c.reading.rows(x, rows) for rows in torch.arange(len(x)).split(ROWS)])
        std, self.mean = torch.std_mean(z.flatten(0, 1), 0, correction=0)
        self.std = torch.where(std < 1e-6, 1.0, std)
        z, fresh = (z - self.mean) / self.std, (where, len(x.mask_classes), x.device)
        self.head: DenseHead
        if c.head == "linear":
            self.head = Linear(*fresh).fit(z, x.masks, c.steps, c.batch_size, c.lr, c.weight_decay, seed)
        elif c.head == "knn":
            settings = [(metric, k) for metric in c.metrics for k in c.ks]
            self.head = Neighbours(*fresh).fit(z, x.masks, settings if only is None else [settings[only]])
        else:
            powers = torch.logspace(-6, 5, c.strengths, dtype=torch.float64).tolist()
            self.head = Logistic(*fresh).fit(z, x.masks, powers if only is None else [powers[only]], c.tol)

    def every(self, x: Features, which: list[int]) -> Tensor:
        """Label maps uint8 [S, N, H, W] of these settings."""
        parts = torch.arange(len(x)).split(ROWS)
        rows = paced("labelling pixels", parts, len(parts))
        read = self.config.reading.rows
        return torch.cat([self.head.maps((read(x, r) - self.mean) / self.std, which) for r in rows], 1)

    def predict(self, x: Features) -> Tensor:
        return self.every(x, [0])[0]


class Matched(Predictor):
    """For each patch of a view of each image, how far from its true place the nearest patch of the image lies."""

    def __init__(self, config: DenseConfig, x: Features) -> None:
        super().__init__()
        self.config, self.where = config, config.reading.map(x)
        self.selected = {"grid": list(self.where.grid)}

    def predict(self, x: Features) -> Tensor:
        """[N, T, 3], see `matches.errors`."""
        return matches.found(x.items, partial(self.config.reading.tokens, x), self.where, mix("dense", "match"))


class Dense(Protocol):
    version = 1
    input: Literal["features", "tokens", "images"] = "tokens"
    headline = "miou"
    scorer: Scorer = map_scorers.Segmentation()
    scores = "masks"
    config: DenseConfig

    def __init__(self, config: DenseConfig) -> None:
        super().__init__(config)
        if config.head == "match":
            self.input, self.headline, self.scorer = "images", "recall", map_scorers.Matches(config.within)
        elif not config.reading.usual:
            self.input = "images"

    def fit(self, train: Features, val: Features, seed: int) -> Predictor:
        if train.masks is None or val.masks is None:
            raise UserError("Protocol 'dense' needs images with masks, and these have none: use --data factors.")
        if self.config.head == "match":
            return Matched(self.config, train)
        both, most = train + val, self.config.images or len(train) + len(val)
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(mix("dense", seed)))[:most]
        if self.config.head == "linear":  # nothing to choose
            final, picked = Maps(self.config, both.take(order), seed), {}
        else:
            tried = Maps(self.config, train.take(order[order < len(train)]), seed)
            names = tried.head.names
            maps, num_classes = tried.every(val, list(range(len(names)))), len(train.mask_classes)
            found = [map_scorers.miou(*map_scorers.overlaps(m, val.masks, num_classes)) for m in maps]
            best = max(range(len(found)), key=found.__getitem__)
            final = Maps(self.config, both.take(order), seed, best)
            picked = {"head": names[best], "val_miou": found[best], "candidates": len(found)}
        where = final.head.where
        final.selected = {**picked, "grid": list(where.grid), "images": len(order), "classes": len(train.mask_classes)}
        return final

    def classes(self, output: Tensor) -> Tensor | None:
        return None  # no image is right or wrong as a whole
