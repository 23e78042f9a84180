"""`factors`: which factors of an image can be read from frozen features, on a set where all of them are known.

Definition: for `data.name=factors` (ssl_bench/data/factors.py; its factors are named below), and for the clips of
`movingphotos` (ssl_bench/data/movingphotos.py), whose factors put motion and speed beside what is shown. Features of
the last layer in the encoder's own pooling, standardised. Choices (shape, colour, texture) by L2 logistic regression,
in percent correct; numbers (position, scale, rotation, noise) by ridge regression, as percent of variance explained on
the test images (100 R2, position is the mean of x and y; below 0 is worse than the mean). Each factor's strength is
chosen by its loss on the validation part, then both parts are fitted again. The headline `mean` is over factors, each
from 0 (chance, or R2 <= 0) to 100. At most 2,000 training images, and of features wider than 1,024 (raw pixels) their
first 512 principal axes: enough for these probes, and affordable.

Changes: 1 first version. 2 L-BFGS ends by what is left to gain, each strength from the weights of the one before. (Sets
with other factors came later; no number of `factors` changed by that.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.evaluation import scorers
from ssl_bench.evaluation.logistic import COMPARED, Solution, rotate, solve
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.scorers import explained
from ssl_bench.rng import mix

WIDE, KEPT = 1024, 512


@dataclass(frozen=True)
class FactorsConfig:
    images: int = 2000  # training images at most, drawn by the seed
    strengths: int = 9  # values of C between 10^-5 and 10^3, and of the ridge's penalty between 10^3 and 10^-5
    tol: float = COMPARED  # share of the objective left to gain at which L-BFGS stops


def ridge(x: Tensor, y: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [P, D, K] and biases [P, K] of min |y - x w - b|^2 / N + penalty |w|^2, for x [N, D], y [N, K]."""
    centre, middle = x.mean(0), y.mean(0)
    z, away = rotate((x - centre).__getitem__, len(x), intercept=False)
    # on principal axes every penalty is a division
    z, matrix = z.double(), away.matrix.double()
    shrunk = z.T @ (y - middle).double() / (z.square().sum(0) + len(x) * penalties[:, None])[..., None]
    weight = (matrix @ shrunk).to(x)
    return weight, middle - centre @ weight


class Readouts(Predictor):
    """One linear map for every factor, fitted on `x` at the chosen strengths."""

    def __init__(self, config: FactorsConfig, x: Features) -> None:
        super().__init__()
        assert x.targets is not None
        self.config, self.mean, self.factors = config, x.own.mean(0), x.factors
        self.std = x.own.std(0, unbiased=False).clamp(min=1e-6)
        self.axes: Tensor | None = None
        if x.own.shape[1] > WIDE:
            self.axes = rotate(self.scaled(x).__getitem__, len(x))[1].matrix[:, -KEPT:]  # ascending in variance
        powers = torch.logspace(-5, 3, config.strengths)
        z = self.scaled(x)
        scores, self.rotation = rotate(z.__getitem__, len(z))
        self.choices: dict[str, list[Solution]] = {f.name: [] for f in self.factors if f.levels}
        for f in self.factors:
            start = None
            for c in powers.tolist() if f.levels else ():
                found = solve(scores, x.targets[:, f.columns[0]].long(), f.levels, c, start=start, tol=config.tol)
                self.choices[f.name].append(found)
                start = found.weight
        numbers = [c for f in self.factors if not f.levels for c in f.columns]
        self.numbers = ridge(z, x.targets[:, numbers], 1 / powers)
        self.chosen: dict[str, int] = {}

    def scaled(self, x: Features) -> Tensor:
        z = (x.own - self.mean) / self.std
        return z if self.axes is None else z @ self.axes

    def outputs(self, x: Features) -> dict[str, Tensor]:
        """Per factor, logits [P, N, K] or numbers [P, N, columns]."""
        z = self.scaled(x)
        found = torch.einsum("nd,pdk->pnk", z, self.numbers[0]) + self.numbers[1][:, None]
        widths = [len(f.columns) for f in self.factors if not f.levels]
        parts = iter(found.split(widths, 2))
        scores = self.rotation(z)
        chosen = {name: torch.stack([s.logits(scores) for s in found]) for name, found in self.choices.items()}
        return {f.name: chosen[f.name] if f.levels else next(parts) for f in self.factors}

    def choose(self, val: Features) -> None:
        """The strength of every factor with the lowest loss on `val`."""
        assert val.targets is not None
        for f, found in zip(self.factors, self.outputs(val).values(), strict=True):
            truth = val.targets[:, f.columns]
            if f.levels:
                losses = torch.stack([F.cross_entropy(z, truth[:, 0].long()) for z in found])
            else:
                losses = -explained(found, truth).mean(1)
            self.chosen[f.name] = int(losses.nan_to_num(torch.inf).argmin())

    def predict(self, x: Features) -> Tensor:
        """[N, targets]: the chosen class of a choice, or the number."""
        found = {name: z[self.chosen[name]] for name, z in self.outputs(x).items()}
        columns = [found[f.name].argmax(1, keepdim=True).float() if f.levels else found[f.name] for f in self.factors]
        return torch.cat(columns, 1)


class Factors(Protocol):
    version = 2
    headline = "mean"
    scorer = scorers.Factors()  # of the set it is fitted on
    scores = "targets"
    config: FactorsConfig

    def fit(self, train: Features, val: Features, seed: int) -> Readouts:
        if train.targets is None or val.targets is None:
            raise UserError("Protocol 'factors' probes known factors, which these images lack: use --data factors.")
        self.scorer = scorers.Factors(train.factors)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(mix("factors", seed)))
        train = train.take(order[: self.config.images])
        probe = Readouts(self.config, train)
        probe.choose(val)
        final = Readouts(self.config, train + val)
        final.chosen = probe.chosen
        final.selected = {"strengths": dict(probe.chosen), "images": len(train) + len(val)}
        return final

    def classes(self, output: Tensor) -> None:
        return None
