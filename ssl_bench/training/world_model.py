"""The base of the methods that learn what actions do: windows of trajectories, frame by frame through one encoder.

Shapes: B windows, T frames, D numbers of a latent, A of the actions between two frames.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ssl_bench.config.schema import Config
from ssl_bench.data.trajectories import Trajectories
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig, read, width_of
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method, Views


class Windows(Method):
    """Base of what learns from windows of trajectories. A subclass says how many frames it sees."""

    family = "world model"
    kinds: ClassVar[tuple[str, ...]] = ("trajectory",)

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        assert isinstance(info.item, Trajectories)
        self.item = info.item
        if self.window > self.item.length:
            raise UserError(
                f"'{config.method}' looks at {self.window} frames at once, and a trajectory has {self.item.length}."
            )

    @property
    def window(self) -> int:
        """Frames that the objective looks at."""
        raise NotImplementedError

    def views(self, items: Tensor, rng: Rng, at: float) -> Views:
        """Frames [B, T, C, H, W] from a place drawn at random, and the actions [B, T - 1, A] between them."""
        first = (rng.rand() * (self.item.length - self.window + 1)).long()
        places = first[:, None] + torch.arange(self.window, device=items.device)
        row = torch.arange(len(items), device=items.device)[:, None]
        frames = self.item.frames(items)[row, places].float() / 255
        return {"frames": (frames - self.mean) / self.std, "actions": self.item.actions(items)[row, places[:, :-1]]}


class WorldModel(Windows):
    """Encoder and dynamics. A subclass has the settings `objective.dynamics`."""

    pooling = "cls"
    frozen: ClassVar[bool] = False  # whether the encoder is left as it is

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__(config, info)
        self.encoder = self.make_vit()
        shape: DynamicsConfig = config.objective.dynamics
        self.pooling = "cls" if shape.reads == "cls" else "mean"  # type: ignore[misc]
        width = width_of(shape, config.backbone.embed_dim, self.encoder.grid)
        self.dynamics = self.made(shape, width)

    def made(self, shape: DynamicsConfig, features: int) -> Dynamics:
        """The dynamics of so many features of a frame."""
        return Dynamics(shape, features, self.item.block)

    def latents(self, frames: Tensor) -> Tensor:
        """[B, T, D] of frames [B, T, C, H, W]."""
        tokens = self.encoder(frames.flatten(0, 1))
        features = read(tokens, self.encoder.num_prefix, self.encoder.grid, self.dynamics.config)
        z: Tensor = self.dynamics.project(features.unflatten(0, frames.shape[:2]))
        return z.float()

    def judged(self, encoder: ViT, x: Tensor) -> Tensor:
        """The latents: frames of a world differ by little, and so do the tokens that the projector begins with."""
        features = read(encoder(x), encoder.num_prefix, encoder.grid, self.dynamics.config)
        training = self.training
        self.eval()
        z: Tensor = self.dynamics.project(features)
        self.train(training)  # of the whole method: a subclass may keep parts as they are
        return z

    def kept(self) -> Dynamics:
        return self.dynamics

    def flops(self) -> float:
        """The encoder and the projector on every frame of the window, the predictor as `predictor_flops` says."""
        project, _ = self.dynamics.flops(1)
        frames = self.window * (self.encoder.flops() + project)
        return (1 if self.frozen else 3) * frames + 3 * self.predictor_flops()

    def predictor_flops(self) -> float:
        """Forward FLOPs of the predictor in one step, per window: teacher forcing over the whole history."""
        return self.dynamics.flops(min(self.dynamics.config.history, self.window - 1))[1]

    def rollout_flops(self, steps: int) -> float:
        """Forward FLOPs of so many steps from one frame."""
        return sum(self.dynamics.flops(min(self.dynamics.config.history, k + 1))[1] for k in range(steps))


def watched(z: Tensor, predicted: Tensor, target: Tensor) -> dict[str, Any]:
    """What shows a collapse: the error of copying the last latent, beside the prediction's; the spread of latents."""
    with torch.no_grad():
        copy = (z[:, 1:] - z[:, :-1]).square().mean()
        error = (predicted - target).square().mean()
        spread = z.flatten(0, 1).std(0).mean()
        return {"copy": copy, "error_over_copy": error / copy.clamp(min=1e-12), "latent_std": spread}
