"""Scorers of the protocols on texts: Code that was written or found, and answers, held against the true ones.

Shapes: N pairs, L tokens of the true Code (0 is padding), M different Codes of the test split in sorted order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data import captions
from ssl_bench.data.texts import LANGUAGES
from ssl_bench.errors import UserError
from ssl_bench.evaluation.scorers import Scorer, ranks
from ssl_bench.models.texts import END, PAD


def different(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [N, L], padded -> the different ones [M, L] in sorted order, and which of them each is [N]."""
    found, which = codes.long().unique(dim=0, return_inverse=True)
    return found, which


def code(tokens: list[int]) -> str:
    """Up to the end or the padding; what is no byte is a character that no language has."""
    ends = [i for i, token in enumerate(tokens) if token in (END, PAD)]
    return "".join(map(chr, tokens[: ends[0]] if ends else tokens))


@dataclass(frozen=True)
class Written(Scorer):
    """Of tokens [N, T >= L + 1] with END where the Code ends: how many are the true Code, begin with it, mean the same.

    `exact`: the true tokens, then END. `prefix`: the true tokens, whatever follows. `semantic`: ended, and the same
    wherever both are run (a language of `LANGUAGES`). `ended`: an END at all.
    """

    language: str = ""

    def right(self, output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Exact and by prefix: bool [N] each."""
        truth = truth.long()
        if output.shape[1] <= truth.shape[1]:
            raise UserError(f"{output.shape[1]} tokens were written where {truth.shape[1]} and an end may be needed.")
        agree = (output[:, : truth.shape[1]] == truth) | (truth == PAD)
        ends = output.gather(1, (truth != PAD).sum(1, keepdim=True))[:, 0] == END
        return agree.all(1) & ends, agree.all(1)

    def bits(self, output: Tensor, classes: Tensor | None = None, truth: Tensor | None = None) -> np.ndarray | None:
        """Whether each is exactly right."""
        return None if truth is None else self.right(output, truth)[0].numpy()

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        exact, prefix = self.right(output, truth)
        ended = (output == END).any(1)
        found = {"exact": exact, "prefix": prefix, "ended": ended}
        if self.language:
            same, pairs = LANGUAGES[self.language].same, zip(output.tolist(), truth.long().tolist(), strict=True)
            means = [END in mine and same(code(mine), code(true)) for mine, true in pairs]
            found["semantic"] = torch.tensor(means)
        return {name: float(100 * value.double().mean()) for name, value in found.items()}


@dataclass(frozen=True)
class Found(Scorer):
    """Of similarities [N, M] to the different Codes in sorted order: R@k, mean reciprocal rank, in percent.

    Equally similar ones share their mean rank. `chance`: R@1 of an order that says nothing.
    """

    ks: tuple[int, ...] = (1, 5, 10)

    def ranked(self, output: Tensor, truth: Tensor) -> Tensor:
        """The true Code's rank [N], from 1."""
        codes, which = different(truth)
        if output.shape != (len(truth), len(codes)):
            raise UserError(f"Similarities of shape {tuple(output.shape)} where {(len(truth), len(codes))} is needed.")
        others = output.clone().scatter_(1, which[:, None], -torch.inf)
        return ranks(-torch.cat([output.gather(1, which[:, None]), others], 1))

    def bits(self, output: Tensor, classes: Tensor | None = None, truth: Tensor | None = None) -> np.ndarray | None:
        """Whether the true Code comes first."""
        return None if truth is None else (self.ranked(output, truth) == 1).numpy()

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        found = self.ranked(output, truth)
        metrics = {f"r@{k}": float(100 * (found <= k).double().mean()) for k in self.ks}
        return {**metrics, "mrr": float(100 * (1 / found).mean()), "chance": 100 / output.shape[1]}


@dataclass(frozen=True)
class Answered(Scorer):
    """Of answers [N, Q] to the questions of the set `captions`, -1 where none is given: the share that is right.

    `mean` is over shape, colour and texture; `_held` is on the combinations that no training image has.
    """

    def __call__(self, output: Tensor, truth: Tensor, num_classes: int) -> dict[str, float]:
        known, names = truth.numpy(), list(captions.ANSWERS)
        right = torch.from_numpy(np.concatenate([known[:, :3], captions.combination(known)[:, None]], 1)) == output
        unseen = torch.from_numpy(captions.held(known))
        found = {name: right[:, i] for i, name in enumerate(names)}
        found |= {"mean": right[:, :3], "mean_held": right[unseen, :3], "caption_held": right[unseen, 3]}
        told = {name: float(100 * value.double().mean()) for name, value in found.items() if value.numel()}
        if (output[:, 3] < 0).all():  # nobody was asked
            told = {name: value for name, value in told.items() if "caption" not in name}
        guess = [1 / len(captions.ANSWERS[name]) for name in names[:3]]
        return {**told, "chance": 100 * sum(guess) / len(guess)}


TEXTS = (Written, Found, Answered)
