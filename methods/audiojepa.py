"""Audio-JEPA: predict the latent tokens of a random half of a spectrogram from those of the other half.

Tuncay, Labbé, Benetos & Pellegrini, "Audio-JEPA: Joint-Embedding Predictive Architecture for Audio Representation
Learning", ICME 2025, arXiv 2507.02915; facts from the official code (LudovicTuncay/Audio-JEPA, 225b816). Not A-JEPA
(Fei et al., arXiv 2311.15830: ajepa.py).

Context and target are complements: 40 to 60 % of the patches are the target, all of them in one piece, with no blocks.
The target encoder (EMA) sees the whole spectrogram. The loss is 2 - 2 cosine to targets centred token by token: the
code's `norm_pix_loss` also divides by their standard deviation, which a cosine cannot see.
Evaluated: the online encoder, mean of the tokens (the model page; X-ARES).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config import budgets
from ssl_bench.config.bounds import refuse_heads
from ssl_bench.config.schema import Config, DataConfig, OptimConfig
from ssl_bench.config.sound import MelConfig
from ssl_bench.errors import UserError
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.tokenizer import gather
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views, cosine, ema, frozen_copy
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.masks_sound import complement

WHOLE = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)  # nothing is done to a spectrogram


@dataclass(frozen=True)
class AudioJEPAConfig:
    """Defaults are the official configs'."""

    augment: AugmentConfig = WHOLE  # none in pre-training
    target_ratio: tuple[float, float] = (0.4, 0.6)  # share of the patches to predict, one draw for a whole batch
    centre: bool = True  # take the mean off every target token first (`norm_pix_loss` on embeddings)
    momentum: float = 0.996  # EMA at the start, half a cosine towards 1
    stretch: float = 1.0  # length of the EMA's schedule in trainings; theirs ends long after the training does
    predictor_depth: int = 6  # blocks of the predictor
    predictor_dim: int = 384  # its width
    predictor_heads: int = 12  # its heads

    def check(self) -> None:
        self.augment.check(1)
        low, high = self.target_ratio
        if not 0 < low <= high < 1:
            raise UserError(f"objective.target_ratio={low:g},{high:g} must be in order, above 0 and below 1.")
        if self.stretch < 1 or not 0 <= self.momentum <= 1:
            raise UserError("objective.stretch must be at least 1 and objective.momentum lie in [0, 1].")
        refuse_heads("objective.", self)


def audiojepa_loss(predicted: Tensor, target: Tensor, centre: bool = True) -> Tensor:
    """2 - 2 cosine of tokens [..., D], mean over all of them; targets centred over D (official loss.py, `norm_mse`)."""
    target = target - target.mean(-1, keepdim=True) if centre else target
    return (2 - 2 * F.cosine_similarity(predicted, target, dim=-1)).mean()


class AudioJEPA(Method):
    """Online encoder, EMA target encoder, predictor."""

    family, paper = "JEPA", "Audio-JEPA, Tuncay et al. 2025, arXiv 2507.02915"
    sees, evaluated, pooling = "a random half of the patches, and the rest", "encoder", "mean"
    kinds = ("sound",)
    objective: AudioJEPAConfig

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.objective = o = config.objective
        self.encoder = self.make_vit()
        self.predictor = Predictor(self.encoder, o.predictor_dim, o.predictor_depth, o.predictor_heads)
        self.target = frozen_copy(self.make_vit(drop_path=0.0))
        self.target.load_state_dict(self.encoder.state_dict())

    def train(self, mode: bool = True) -> AudioJEPA:
        super().train(mode)
        self.target.eval()
        return self

    def masks(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Context positions [B, n] and target positions [B, 1, N - n]."""
        return complement(rng, self.encoder.grid, self.objective.target_ratio)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        context, targets = self.masks(rng)
        seen = augment(images, rng, self.info.size, self.objective.augment, self.mean, self.std)
        return {"images": seen, "context": context, "targets": targets}

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        images, keep, positions = views["images"], views["context"], views["targets"]
        with torch.no_grad():
            whole = self.target(images)[:, self.target.num_prefix :]
            target = gather(whole, positions.flatten(1))[:, None]
        context = self.encoder(images, keep)[:, self.encoder.num_prefix :]
        predicted = self.predictor(context, keep, positions)
        return {"loss": audiojepa_loss(predicted.float(), target.float(), self.objective.centre)}

    def after_step(self, at: float) -> None:
        ema(self.target, self.encoder, cosine(at / self.objective.stretch, self.objective.momentum, 1.0))

    def flops(self) -> float:
        draws = [self.masks(Rng(seed, 2, device=self.mean.device)) for seed in range(16)]
        n = round(sum(context.shape[1] for context, _ in draws) / len(draws))  # the share varies from batch to batch
        asked = self.encoder.num_patches - n
        return self.target.flops() + 3 * (self.encoder.flops(n) + self.predictor.flops(n, 1, asked))


DEPARTS = {  # what leaves the paper, by recipe
    "paper": "initialisation, 512 whole frames in place of 510 and two of zeros, frequency down and time across",
    "small, quick, sound": "predictor of 2 blocks, EMA from 0.98, weight decay",
}


def paper(backbone: str = "vit_base_patch16", **changes: Any) -> Config:
    """ViT-B/16 on 10 s of AudioSet, 100,000 steps of 256: X-ARES, linear Speech Commands V1 .152.

    ssl-bench pretrain --method audiojepa --recipe paper data.name=folder:/data/audioset#kind=sound
    """
    mel = MelConfig(rate=32_000, hop_ms=10_000 / 512, window_ms=25_000 / 512, peak=True)
    base: dict[str, Any] = {"data": DataConfig("folder:audioset#kind=sound", (96, 512), 0.01, mel=mel)}
    optim = OptimConfig(lr=1e-3, lr_start=1e-6, warmup=0.01, weight_decay=1e-6, beta2=0.95)  # .05, 3e-4: never used
    objective = AudioJEPAConfig(stretch=3.85)  # 50 epochs of two million clips, where training ends after 100,000 steps
    return budgets.imagenet("audiojepa", objective, optim, backbone, 256, 13, **(base | changes))


def small(**changes: Any) -> Config:
    """0.66 s of sound: ssl-bench pretrain --method audiojepa"""
    return budgets.small_sounds("audiojepa", _small(), _optim(), **changes)


def quick(**changes: Any) -> Config:
    """The quickstart's run: ssl-bench pretrain --method audiojepa --recipe quick"""
    return budgets.quick_sounds("audiojepa", _small(), _optim(), **changes)


sound = quick  # its name in the methods of images


def _small() -> AudioJEPAConfig:
    return AudioJEPAConfig(momentum=0.98, predictor_depth=2, predictor_dim=64, predictor_heads=2)


def _optim() -> OptimConfig:
    return OptimConfig(lr=2e-3, lr_end=1e-6, warmup=0.1, weight_decay=0.05, beta2=0.95)
