"""`surprise`: whether the dynamics are more wrong about what cannot happen than about what does.

Events of the world from sealed seeds: the same frame and actions, then the true next frame or an impossible one (in the
two rooms: teleport, a way through the wall, another colour). The surprise is the mean squared distance of the predicted
latent to the seen one. Reported: 100 AUROC of the impossible against the true frames of the same event, and `mean`;
50 is a guess. Whose run has learned no dynamics gets the predictor of `plan`.

Changes: 1 first version. 2 dynamics are fitted by squared errors: by absolute ones they foretold worse than
standing still (evaluation/latents.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.data.world import Event, World, open_seed, sealed_seed
from ssl_bench.evaluation import latents
from ssl_bench.evaluation.latents import FitConfig, Latents
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol
from ssl_bench.evaluation.world_scorers import Surprise as Scorer


@dataclass(frozen=True)
class SurpriseConfig:
    events: int = 500  # of each kind
    fit: FitConfig = FitConfig()  # of encoders without dynamics

    def check(self) -> None:
        refuse_outside("", self, {"events": 10})
        self.fit.check()


def events(world: World, n: int, sealed: bool) -> dict[str, Event]:
    """The same for everybody; those that are not sealed are for choosing settings."""
    seed = (sealed_seed if sealed else open_seed)(world.name, world.version, *world.options, "events")
    return world.events(np.random.default_rng(seed), n)


class Surprised(Predictor):
    def __init__(self, x: Features, config: SurpriseConfig, found: Latents) -> None:
        super().__init__()
        assert x.world is not None
        self.world, self.size, self.config, self.found = x.world, x.kind.height, config, found
        self.selected = found.told

    def seen(self, state: np.ndarray, channels: tuple[int, ...] = (0, 1, 2)) -> Tensor:
        """Latents [n, D]."""
        return self.found.encode(torch.from_numpy(self.world.render(state, self.size)[:, list(channels)]))

    @torch.no_grad()
    def predict(self, x: Features) -> Tensor:
        """Errors [2 K, n]: of each kind of event the true frames, then the impossible ones."""
        out = []
        for event in events(self.world, self.config.events, x.sealed).values():
            first, actions = self.seen(event.before), torch.from_numpy(event.actions).flatten(1)
            told = self.found.dynamics(first[:, None], actions[:, None].to(first.device))[:, 0]
            for frame in (self.seen(event.usual), self.seen(event.odd, event.channels)):
                out.append((told - frame).square().mean(1).cpu())
        return torch.stack(out)


class Surprise(Protocol):
    version = 2
    input = "world"
    headline = "mean"
    scores = "targets"
    scorer = Scorer()  # of the world's events
    config: SurpriseConfig

    def fit(self, train: Features, val: Features, seed: int) -> Surprised:
        assert train.world is not None
        self.scorer = Scorer(tuple(events(train.world, 2, sealed=False)))
        return Surprised(train, self.config, latents.of(train, self.config.fit, seed))

    def classes(self, output: Tensor) -> None:
        return None
