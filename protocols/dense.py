"""`dense`: semantic segmentation by the frozen patch tokens of the last layer.

Definition: a logistic regression (L2, L-BFGS on standardised tokens) tells each patch's class from its token; a
patch's class is the one that most of its pixels have, void left out. C is chosen by mIoU on the validation part, then
both parts are fitted. The class map has a patch's class in all of its pixels. Headline: mIoU of pixels in percent, over
the classes that the test masks have, void pixels left out; `miou_low` and `miou_high` hold 95 % of a bootstrap over
test images. Of more than `patches` patches, so many drawn evenly are fitted on.

`dense:knn` (CAPI's, Darcet et al. 2025, arXiv 2502.08769, from the paper's words): nothing is trained. The k training
patches most similar to a patch (cosine) are found, and each pixel takes the class that most of their pixels at the same
place have. k is chosen on the validation part.

Tokens lie on the grid of the whole image: an encoder that sees a crop of it is refused. CLS and register tokens are not
read. `pixels` has 4 x 4 cells of raw pixels as tokens, so its map is coarse.

Changes: 1 first version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation.dense import BATCH, Grid, most_frequent, sample
from ssl_bench.evaluation.logistic import COMPARED, TOL, Solution, rotate, solve
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, refuse_idle
from ssl_bench.evaluation.scorers import VOID, Segmentation
from ssl_bench.screen import paced
from ssl_bench.training.neighbours import nearest


@dataclass(frozen=True)
class DenseConfig:
    head: Literal["logistic", "knn"] = "logistic"
    patches: int = 50_000  # fitted on, or searched among, at most
    strengths: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
    ks: tuple[int, ...] = (1, 3, 10, 30)  # neighbours

    def check(self) -> None:
        refuse_idle(self, f"with head={self.head}", "ks" if self.head == "logistic" else "strengths")
        if self.patches < 1 or min(*self.strengths, *self.ks, 1) <= 0:
            raise UserError("dense needs patches, strengths and ks above 0.")


def knn() -> DenseConfig:
    """CAPI's patch k-NN: no training, the pixels of the nearest patches vote."""
    return DenseConfig("knn")


Maps = Callable[[Tensor], Tensor]  # tokens [n, D] -> classes [n, p, q] of their pixels


class Regression:
    """Fitted on tokens [M, D] and the pixels [M, p, q] of their patches, for each C."""

    def __init__(self, tokens: Tensor, pixels: Tensor, count: int, strengths: tuple[float, ...], tol: float) -> None:
        z, self.axes = rotate(lambda rows: tokens[rows], len(tokens), scaled=True)
        y, start, self.weights = most_frequent(pixels, count), None, dict[float, Solution]()
        self.block = pixels.shape[1:]
        for strength in sorted(strengths):
            self.weights[strength] = solve(z, y, count, strength, start=start, tol=tol)
            start = self.weights[strength].weight

    def maps(self, strength: float) -> Maps:
        def answer(tokens: Tensor) -> Tensor:
            found = self.weights[strength].logits(self.axes(tokens)).argmax(1)
            return found[:, None, None].expand(-1, *self.block)

        return answer


class Vote:
    """Of the nearest among tokens [M, D], by the pixels [M, p, q] of their patches."""

    def __init__(self, tokens: Tensor, pixels: Tensor, count: int) -> None:
        self.tokens, self.pixels, self.count = tokens, pixels, count

    def maps(self, k: float) -> Maps:
        return lambda tokens: torch.cat(
            [self.most(near) for near in nearest(self.tokens, tokens, int(k))[1].split(1024)]
        )

    def most(self, near: Tensor) -> Tensor:
        """[n, p, q] of neighbours [n, k]: the class of most of them, of equal ones the lowest. Void is no vote."""
        seen = self.pixels[near]
        return torch.stack([(seen == c).sum(1) for c in range(self.count)], 1).argmax(1)


class Maker(Predictor):
    def __init__(self, maps: Maps, grid: Grid) -> None:
        super().__init__()
        self.maps, self.grid = maps, grid

    def predict(self, x: Features) -> Tensor:
        """Classes uint8 [N, H, W]."""
        assert x.tokens is not None
        out, parts = [], torch.arange(len(x)).split(BATCH)
        for rows in paced("naming the pixels", parts, len(parts)):
            tokens = x.tokens.batch(rows.numpy()).float()
            found = self.maps(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
            out.append(self.grid.join(found).to(torch.uint8))
        return torch.cat(out)


class Dense(Protocol):
    version = 1
    input = "tokens"
    headline = "miou"
    scorer = Segmentation()
    scores = "masks"
    config: DenseConfig

    def classes(self, output: Tensor) -> Tensor | None:
        return None

    def head(self, x: Features, grid: Grid, seed: int, settings: tuple[float, ...], tol: float) -> Regression | Vote:
        assert x.masks is not None
        tokens, pixels = sample(x, grid, self.config.patches, seed)
        count = 1 + int(x.masks[x.masks != VOID].max())
        knn = self.config.head == "knn"
        return Vote(tokens, pixels, count) if knn else Regression(tokens, pixels, count, settings, tol)

    def fit(self, train: Features, val: Features, seed: int) -> Maker:
        """The setting with the highest mIoU on `val`, fitted on both."""
        assert val.masks is not None
        settings: tuple[float, ...] = self.config.strengths if self.config.head == "logistic" else self.config.ks
        grid, tried = Grid.of(train), dict[float, float]()
        head = self.head(train, grid, seed, settings, COMPARED)
        for setting in settings:
            found = Maker(head.maps(setting), grid).predict(val)
            tried[setting] = Segmentation(draws=1)(found, val.masks, 0)["miou"]
        best = max(tried, key=lambda setting: tried[setting])
        final = Maker(self.head(train + val, grid, seed, (best,), TOL).maps(best), grid)
        name = "C" if self.config.head == "logistic" else "k"
        final.selected = {name: best, "val_miou": tried[best], "candidates": len(tried), "patches": self.config.patches}
        return final
