"""`robust`: how much of the linear probe's accuracy survives common corruptions of the test images.

Definition: the head of `linear`, chosen and fitted on clean training images, is applied unchanged to the test images
under fifteen corruptions at five severities (ssl_bench/views/corrupt.py, after Hendrycks & Dietterich, arXiv
1903.12261; strengths of CIFAR-C at any image size, so numbers of ImageNet-C are no comparison).
The headline is the mean error over all 75 in percent, lower is better. Beside it: the error per corruption, the clean
accuracy, and the relative mean error (corrupted minus clean error), which is not smaller merely because the clean
accuracy is. mCE needs AlexNet's errors on the same data and is not given.

Changes: 1 first version. 2 the head is that of `linear` version 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from protocols.linear import Linear, LinearConfig
from ssl_bench.errors import UserError, nearest
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import Errors
from ssl_bench.rng import mix
from ssl_bench.screen import paced
from ssl_bench.views.corrupt import CORRUPTIONS, SEVERITIES, corrupt


@dataclass(frozen=True)
class RobustConfig:
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: int = SEVERITIES  # 1 to this
    batch_size: int = 256
    linear: LinearConfig = field(default_factory=LinearConfig)

    def check(self) -> None:
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UserError(f"Unknown corruption '{name}'. {nearest(name, CORRUPTIONS)}")
        if not 1 <= self.severities <= SEVERITIES or not self.corruptions:
            raise UserError("robust needs a corruption and severities from 1 to 5.")
        self.linear.check()


class Corrupted(Predictor):
    def __init__(self, head: Predictor, config: RobustConfig, seed: int) -> None:
        super().__init__()
        self.head, self.config, self.seed = head, config, seed
        self.selected = head.selected

    def predict(self, x: Features) -> Tensor:
        """Classes [1 + corruptions x severities, N]; the first row is of the clean images."""
        found = [self.head.predict(x).argmax(1)]
        for name in paced("corrupting the images", self.config.corruptions, len(self.config.corruptions)):
            found += [self.classify(x, name, s) for s in range(1, self.config.severities + 1)]
        return torch.stack(found)

    def classify(self, x: Features, name: str, severity: int) -> Tensor:
        found = []
        for start in range(0, len(x), self.config.batch_size):
            images = x.items.batch(np.arange(start, min(start + self.config.batch_size, len(x))))
            images = corrupt(
                images.to(x.encoder.device), name, severity, mix("corrupt", name, severity, start, self.seed)
            )
            pooled = {k: v.float().cpu() for k, v in x.encoder.encode(images).items()}
            found.append(self.head.predict(replace(x, pooled=pooled)).argmax(1))
        return torch.cat(found)


class Robust(Protocol):
    version = 2
    input = "images"
    headline = "error"
    higher_is_better = False
    config: RobustConfig

    def __init__(self, config: RobustConfig) -> None:
        super().__init__(config)
        self.scorer = Errors(config.corruptions, config.severities)

    def fit(self, train: Features, val: Features, seed: int) -> Corrupted:
        return Corrupted(Linear(self.config.linear).fit(train, val, seed), self.config, seed)

    def classes(self, output: Tensor) -> None:
        return None
