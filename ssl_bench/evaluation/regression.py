"""Logistic regression at the C that held-out images prefer, from coarse to fine. The solver is `logistic`.

The loss may have two valleys: where little is told by the leading axes and more by weak ones, which need large weights,
it first grows, as the leading axes overfit, and then falls below what it was (seen: 2.300, 2.316, 2.285 of MAE on
clips). So the way up ends only where the loss is far above the best. Shapes: N images, R axes, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from ssl_bench.evaluation.logistic import COMPARED, Axes, Solution, rotate, solve
from ssl_bench.evaluation.protocol import Features, Key, Predictor
from ssl_bench.screen import paced

HOPELESS = 0.5  # of log K, the loss of knowing nothing: so far above the best no stronger C is tried


def judged(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross-entropy and accuracy in percent."""
    loss = float(F.cross_entropy(logits, labels))
    accuracy = 100 * float((logits.argmax(1) == labels).double().mean())
    return loss if loss == loss else float("inf"), accuracy  # a diverged head never wins


class Regression(Predictor):
    """Logistic regression at every C that could win, fitted on `train`; the winner on both parts."""

    def __init__(self, train: Features, val: Features, keys: list[Key], strengths: list[float], tol: float) -> None:
        super().__init__()
        both, self.num_classes = train + val, train.num_classes
        self.strengths = strengths
        self.axes: dict[Key, Axes] = {}
        self.tried: dict[tuple[Key, int], Solution] = {}  # by the feature and the place of C
        self.losses: dict[tuple[Key, int], tuple[float, float]] = {}  # on the validation part, with accuracies
        for key in keys:
            z, self.axes[key] = rotate(partial(both.block, key), len(both), scaled=True, device=train.device)
            self.search(key, z, train.labels, val.labels)
            best = min(self.losses, key=lambda at: self.losses[at][0])
            if best[0] == key:
                start = self.tried[best].weight
                self.final = solve(z, both.labels, both.num_classes, self.strengths[best[1]], start=start, tol=tol)
                self.chosen = best
        loss, accuracy = self.losses[self.chosen]
        self.selected = {
            "head": self.name(self.chosen), "val_top1": accuracy, "val_loss": loss, "candidates": len(self.tried),
        }  # fmt: skip

    def search(self, key: Key, z: Tensor, y: Tensor, truth: Tensor) -> None:
        """From the weakest C up until validation is hopeless, then finer around the best; z [both], y of its first."""

        def loss(place: int) -> float:
            if (key, place) not in self.losses:
                below = max((i for k, i in self.tried if k == key and i < place), default=None)
                start = None if below is None else self.tried[key, below].weight
                count, classes = len(y), self.num_classes
                found = solve(z[:count], y, classes, self.strengths[place], start=start, tol=COMPARED)
                self.tried[key, place] = found
                self.losses[key, place] = judged(found.logits(z[count:]).cpu(), truth)
            return self.losses[key, place][0]

        best = 0
        coarse = range(0, len(self.strengths), 4)
        for place in paced(f"trying strengths on {'/'.join(key)}", coarse, len(coarse)):
            best = place if loss(place) <= loss(best) else best
            if loss(place) > loss(best) + HOPELESS * math.log(self.num_classes):
                break
        for step in (2, 1):
            around = [i for i in (best - step, best, best + step) if 0 <= i < len(self.strengths)]
            best = min(around, key=loss)

    def name(self, at: tuple[Key, int]) -> str:
        return f"{'/'.join(at[0])}/C={self.strengths[at[1]]:.3g}"

    def predict(self, x: Features) -> Tensor:
        return self.final.logits(self.axes[self.chosen[0]](x[self.chosen[0]])).cpu()

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        z = {key: axes(x[key]) for key, axes in self.axes.items()}
        yield from ((self.name(at), found.logits(z[at[0]]).argmax(1).cpu()) for at, found in self.tried.items())
