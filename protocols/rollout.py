"""`rollout`: how far the encoder's dynamics foretell what actions do, with no look in between.

From the first frame of each test trajectory, its true actions, up to 40 steps. Latents are read as places by an MLP
fitted on latents of true frames of the training split. `px40`: mean distance in the world's units (64 across) after 40
steps; `latent40`: mean squared error of the latent over its variance in the training split. Beside it: `copy` (the
first latent stays), `still` (the same dynamics with all actions zero: what does not get worse ignores them) and `seen`
(the probe on the true frame: what no prediction can pass). `distance`: Spearman's correlation of latent and state
distance between validation frames of one trajectory, which tells whether a planner has a slope. Whose run has learned
no dynamics gets the predictor of `plan`.

Changes: 1 first version. 2 dynamics are fitted by squared errors: by absolute ones they foretold worse than
standing still (evaluation/latents.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.evaluation import latents
from ssl_bench.evaluation.latents import FitConfig, Latents, mlp
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.world_scorers import Horizons

WAYS = ("", "copy", "still", "seen")


@dataclass(frozen=True)
class RolloutConfig:
    horizons: tuple[int, ...] = (1, 2, 4, 8)  # frames ahead
    trajectories: int = 400  # of the training part, for the probe
    epochs: int = 30  # of the probe
    fit: FitConfig = FitConfig()  # of encoders without dynamics

    def check(self) -> None:
        refuse_outside("", self, {"trajectories": 8, "epochs": 1})
        self.fit.check()
        if not self.horizons or min(self.horizons) < 1:
            raise UserError("horizons needs numbers of frames, 1 or more, as in 1,2,4,8.")


def brief() -> RolloutConfig:
    """With a predictor fitted in 500 steps: the one of `plan:brief`."""
    return RolloutConfig(fit=FitConfig(steps=500))


def of_frames(x: Features, found: Latents, count: int, frames: int) -> Tensor:
    """Latents [N, T, D] of the first `frames` frames of the first `count` trajectories."""
    items = latents.trajectories(x, count)
    return torch.stack([found.encode(x.kind.frames(item[None])[0, :frames]).cpu() for item in items])


class Forecaster(Predictor):
    def __init__(self, train: Features, val: Features, config: RolloutConfig, found: Latents, seed: int) -> None:
        super().__init__()
        assert train.world is not None and train.targets is not None and val.targets is not None
        self.found, self.config, world = found, config, train.world
        count = min(config.trajectories, len(train))
        z, place = of_frames(train, found, count, train.kind.length), list(world.position)
        truth = train.targets[:count].reshape(*z.shape[:2], -1)[..., place]
        self.spread = z.flatten(0, 1).var(0).mean().clamp(min=1e-12)
        self.probe = mlp(z.flatten(0, 1), truth.flatten(0, 1), seed, epochs=config.epochs)
        held = of_frames(val, found, min(100, len(val)), val.kind.length)
        known = val.targets[: len(held)].reshape(*held.shape[:2], -1)[..., place]
        apart = [torch.cat([torch.pdist(one) for one in part]).numpy() for part in (held, known)]
        alike = min(float(a.std()) for a in apart) < 1e-9  # of a latent that is the same everywhere: no slope at all
        self.measured = {"distance": 0.0 if alike else 100 * float(spearmanr(*apart).statistic)}
        self.selected = found.told

    @torch.no_grad()
    def predict(self, x: Features) -> Tensor:
        """Places and latent errors [4, N, H, 3]."""
        wanted, reach = [h - 1 for h in self.config.horizons], max(self.config.horizons)
        z = of_frames(x, self.found, 0, reach + 1)
        actions, first = x.kind.actions(latents.trajectories(x))[:, :reach], z[:, :1]
        device = x.encoder.device
        roll = self.found.dynamics.rollout
        ways = [roll(first.to(device), a.to(device)).cpu() for a in (actions, 0 * actions)]
        ways = [ways[0], first.expand(-1, reach, -1), ways[1], z[:, 1:]]
        out = []
        for way in ways:
            error = (way - z[:, 1:]).square().mean(2, keepdim=True) / self.spread
            out.append(torch.cat([self.probe(way.flatten(0, 1)).unflatten(0, way.shape[:2]), error], 2)[:, wanted])
        return torch.stack(out)


class Rollout(Protocol):
    version = 2
    input = "world"
    headline = "px40"
    higher_is_better = False
    scores = "targets"
    scorer = Horizons()  # of the world and the horizons asked for
    config: RolloutConfig

    def fit(self, train: Features, val: Features, seed: int) -> Forecaster:
        c, world = self.config, train.world
        assert world is not None and train.targets is not None
        if max(c.horizons) >= train.kind.length:
            raise UserError(f"horizons={c.horizons} must be below the {train.kind.length} frames of a trajectory.")
        width = train.targets.shape[1] // train.kind.length
        self.headline = f"px{train.kind.every * max(c.horizons)}"
        self.scorer = Horizons(WAYS, c.horizons, train.kind.every, world.position, width)
        return Forecaster(train, val, c, latents.of(train, c.fit, seed), seed)

    def classes(self, output: Tensor) -> None:
        return None
