"""`robust`: how much of the linear probe's accuracy survives common corruptions of the test images.

Definition: the head of `linear`, chosen and fitted on clean training images, is applied unchanged to the test images
under fifteen corruptions at five severities (ssl_bench/views/corrupt.py, after Hendrycks & Dietterich, arXiv
1903.12261; strengths of CIFAR-C at any image size, so numbers of ImageNet-C are no comparison).
The headline is the mean error over the 75 in percent, lower is better. Beside it: the error per corruption, the clean
accuracy, and the relative mean error (corrupted minus clean error), which is not smaller merely because the clean
accuracy is. mCE needs AlexNet's errors on the same data and is not given.

Each image is seen under three of the 75, of different corruptions and severities, and each of the 75 on as many images
(`draws`): the same expected error at 1/25 of the cost, which was more than that of a quick pretraining. Of 999 images a
corruption has 200, so its own error is known to 7 points only. `robust:full` shows every image under all.

Changes: 1 first version. 2 the head is that of `linear` version 2. 3 three corruptions an image; `full` has all.
4 the head is that of `linear` version 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from protocols.linear import Linear, LinearConfig
from ssl_bench.errors import UserError, nearest
from ssl_bench.evaluation.features import changed
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import Errors
from ssl_bench.rng import mix
from ssl_bench.screen import paced
from ssl_bench.views.corrupt import CORRUPTIONS, SEVERITIES, corrupt


@dataclass(frozen=True)
class RobustConfig:
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: int = SEVERITIES  # 1 to this
    draws: int = 3  # pairs of corruption and severity that an image is seen under
    batch_size: int = 256
    linear: LinearConfig = field(default_factory=LinearConfig)

    def check(self) -> None:
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise UserError(f"Unknown corruption '{name}'. {nearest(name, CORRUPTIONS)}")
        if not 1 <= self.severities <= SEVERITIES or not self.corruptions:
            raise UserError("robust needs a corruption and severities from 1 to 5.")
        if not 1 <= self.draws <= (pairs := len(self.corruptions) * self.severities):
            raise UserError(f"robust shows an image under 1 to {pairs} corruptions here, not {self.draws}: set draws.")
        if self.linear.svm:
            raise UserError(f"linear.svm={self.linear.svm:g} reads tokens, which robust has none of: leave it out.")
        self.linear.check()


class Corrupted(Predictor):
    def __init__(self, head: Predictor, config: RobustConfig, seed: int) -> None:
        super().__init__()
        self.head, self.config, self.seed = head, config, seed
        self.selected = head.selected

    def predict(self, x: Features) -> Tensor:
        """Classes [1 + corruptions x severities, N]; the first row is of the clean images, -1 where one is not seen."""
        one = self.config
        seen = drawn(len(x), len(one.corruptions) * one.severities, one.draws)
        found = torch.full((1 + len(seen), len(x)), -1)
        found[0] = self.head.predict(x).argmax(1)
        for c, name in enumerate(paced("corrupting the images", one.corruptions, len(one.corruptions))):
            for s in range(one.severities):
                row = s * len(one.corruptions) + c
                found[1 + c * one.severities + s, seen[row]] = self.classify(x, name, s + 1, seen[row])
        return found

    def classify(self, x: Features, name: str, severity: int, seen: Tensor) -> Tensor:
        """The classes of the images `seen` (bool [N]) under one corruption."""
        found = [torch.empty(0, dtype=torch.int64)]
        for start, rows in enumerate(seen.nonzero()[:, 0].split(self.config.batch_size)):
            if not len(rows):  # of few images none may be seen under this one
                continue
            draw = mix("corrupt", name, severity, start * self.config.batch_size, self.seed)
            pooled = changed(x, rows.numpy(), partial(corrupt, name=name, severity=severity, seed=draw))
            found.append(self.head.predict(replace(x, pooled=pooled)).argmax(1))
        return torch.cat(found)


def drawn(images: int, pairs: int, draws: int) -> Tensor:
    """bool [pairs, images]: which image is seen under which pair, each image under `draws`, each pair equally often."""
    first = torch.arange(images)
    seen = torch.zeros(pairs, images, dtype=torch.bool)
    for i in range(draws):
        seen[(first + i * pairs // draws) % pairs, first] = True
    return seen


def full() -> RobustConfig:
    """Every image under all of them."""
    return RobustConfig(draws=len(CORRUPTIONS) * SEVERITIES)


class Robust(Protocol):
    version = 4
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
