"""Frames -> latents, and what actions make of them: learned by the run itself, or fitted here on frozen features.

So every encoder can be asked what an action does. Who has not learned it gets the same predictor as everybody else,
trained on its frozen features under one budget, on whole trajectories of the training split. Shapes: N trajectories,
T frames, D numbers of a latent, A of the actions between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig, forecast_loss, read
from ssl_bench.rng import mix
from ssl_bench.training.method import warmup_cosine

FRAMES = 256  # encoded at a time
HELD = 1_000_000_000  # bytes of features that are held in memory; of more, fewer trajectories are fitted on
_fitted: list[Any] = []  # what was asked for last, of which trajectories, and its latents


@dataclass(frozen=True)
class FitConfig:
    """The predictor of an encoder without one, and its budget: two steps ahead, on cells of the frozen tokens.

    Squared error, as DINO-WM: V-JEPA 2-AC's absolute one asks for medians, and where a cell rarely differs from its
    usual look, as with a dot in a room, that is a picture without the dot. On validation trajectories, of an untrained
    encoder after 500 steps: 3.8 units off 5 steps ahead and 4.8 off 40 ahead; with the absolute error (on the test
    ones) 13.8 and 17.8, where standing still is 5.5 and 19.4 off.
    """

    dynamics: DynamicsConfig = DynamicsConfig(reads="cells", cells=4, latent=0)
    steps: int = 1500
    batch_size: int = 64
    lr: float = 2e-3
    rollout: int = 2  # steps that the loss looks ahead
    exponent: float = 2.0  # of the error; 1: V-JEPA 2-AC, 2: DINO-WM

    def check(self) -> None:
        self.dynamics.check()
        refuse_outside("fit.", self, {"steps": 1, "batch_size": 2, "lr": 1e-9, "rollout": 1, "exponent": 0.1})
        if self.dynamics.latent:
            raise UserError("fit.dynamics.latent must be 0: a latent that is projected here would collapse.")


@dataclass(frozen=True)
class Latents:
    """An encoder with its dynamics."""

    encoder: Encoder
    dynamics: Dynamics
    fitted: dict[str, Any]  # how the dynamics were fitted here; {} where the run has learned them

    @property
    def told(self) -> dict[str, Any]:
        """What a record keeps of the dynamics."""
        return {"dynamics": "fitted" if self.fitted else "the run's own", **self.fitted}

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents [n, D] of frames uint8 [n, C, H, W]."""
        read_in = [features(self.encoder, part, self.dynamics.config) for part in frames.split(FRAMES)]
        return torch.cat([self.dynamics.project(part) for part in read_in]).float()


def plan_cost(dynamics: Dynamics, start: Tensor, end: Tensor, how: str) -> Callable[[Tensor], Tensor]:
    """What plans [E, S, K, A] cost from latents to latents [E, D]: the mean squared distance."""

    @torch.no_grad()
    def cost(plans: Tensor) -> Tensor:
        out = []
        for z, goal, plan in zip(start, end, plans.to(start.device), strict=True):  # one by one: in a CPU's cache
            out.append(goal_cost(dynamics.rollout(z.expand(len(plan), 1, -1), plan), goal, how))
        return torch.stack(out).cpu()

    return cost


def goal_cost(latents: Tensor, goal: Tensor, how: str) -> Tensor:
    """Mean squared distance of latents [..., K, D] to a goal's, at the last of K frames or as the sum over them."""
    each = (latents - goal).square().mean(-1)
    return each.sum(-1) if how == "sum" else each[..., -1]


def features(encoder: Encoder, frames: Tensor, config: DynamicsConfig) -> Tensor:
    """What the dynamics read of the last layer, [n, F], of frames uint8 [n, C, H, W]."""
    if config.reads == "cells":
        tokens = encoder.encode(frames, 1, want_tokens=True)["tokens"]
        return read(tokens, 0, encoder.grid, config)
    found = encoder.encode(frames, 1)
    if config.reads not in found:
        raise UserError(f"'{encoder.source}' has no {config.reads} token for its dynamics.")
    return found[config.reads][:, -1]


def of(x: Features, config: FitConfig, seed: int) -> Latents:
    """The latents of an encoder, with the dynamics of its run or fitted on the trajectories of `x`."""
    if (own := x.encoder.dynamics) is not None:
        if own.actions != x.kind.block:
            raise UserError(
                f"'{x.encoder.method}' has learned actions of {own.actions} numbers, and here they have {x.kind.block}."
            )
        return Latents(x.encoder, own, {})
    asked = (x.encoder.entry, config, seed)
    if _fitted and _fitted[0] == asked and _fitted[1] is x.raw:  # plan, rollout and surprise ask for the same
        return _fitted[2]
    found = fit(x, config, seed)
    _fitted[:] = [asked, x.raw, found]
    return found


def trajectories(x: Features, count: int = 0) -> Tensor:
    """The first `count` (0: all) whole items [N, P, H, W] of a part."""
    assert x.raw is not None
    return x.raw.batch(np.arange(min(count, len(x.raw)) if count else len(x.raw)))


@torch.no_grad()
def encoded(x: Features, config: DynamicsConfig) -> Tensor:
    """Features fp32 [N, T, F] of as many trajectories as may be held."""
    assert x.raw is not None
    one = features(x.encoder, x.kind.frames(x.raw.batch(np.arange(1)))[0, :1], config)
    count = max(1, min(len(x.raw), HELD // (4 * one.numel() * x.kind.length)))
    out = torch.empty(count, x.kind.length, one.numel())
    for i in range(count):
        out[i] = features(x.encoder, x.kind.frames(x.raw.batch(np.arange(i, i + 1)))[0], config).float().cpu()
    return out


def fit(x: Features, config: FitConfig, seed: int) -> Latents:
    """A predictor on frozen features; everything random derives from the seed."""
    window = max(config.dynamics.history, config.rollout) + 1
    if window > x.kind.length:
        raise UserError(
            f"fit.rollout={config.rollout} and fit.dynamics.history={config.dynamics.history} need {window} frames, "
            f"and a trajectory has {x.kind.length}: set less."
        )
    found = encoded(x, config.dynamics)
    assert x.raw is not None
    actions = x.kind.actions(x.raw.batch(np.arange(len(found))))
    device, steps, width = x.encoder.device, config.steps, found.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("dynamics", seed))
        dynamics = Dynamics(config.dynamics, width, x.kind.block).to(device)
    rng = torch.Generator().manual_seed(mix("dynamics windows", seed))
    optimizer = torch.optim.AdamW(dynamics.parameters(), lr=config.lr, weight_decay=1e-3)
    dynamics.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine((step + 0.5) / steps, 0.05, 0.0, config.lr, 0.0)
        row = torch.randint(len(found), (config.batch_size, 1), generator=rng)
        place = torch.randint(x.kind.length - window + 1, (config.batch_size, 1), generator=rng) + torch.arange(window)
        z = dynamics.project(found[row, place].to(device))
        loss = forecast_loss(dynamics, z, actions[row, place[:, :-1]].to(device), config.rollout, config.exponent)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()
    return Latents(x.encoder, dynamics.eval(), {"steps": steps, "trajectories": len(found), "loss": loss.item()})


def scales(x: Tensor) -> Tensor:
    """Standard deviations of [N, D], none below a third of their root mean square.

    A pixel that is hardly ever lit is not blown up: divided by its own spread, one that is lit in the test images alone
    would outweigh all others.
    """
    std = x.std(0, unbiased=False)
    return std.clamp(min=float(std.square().mean().sqrt()) / 3 + 1e-12)


def ridge(x: Tensor, y: Tensor, penalties: list[float]) -> list[tuple[Tensor, Tensor]]:
    """(weight [D, K], bias [K]) of min |y - x w - b|^2 / N + penalty |w|^2 for each, x [N, D] scaled inside."""
    x, y = x.double(), y.double()
    mean, std = x.mean(0), scales(x)
    z, middle = (x - mean) / std, y.mean(0)
    gram, right = z.T @ z / len(z), z.T @ (y - middle) / len(z)
    out = []
    for penalty in penalties:
        w = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), right) / std[:, None]
        out.append((w.float(), (middle - mean @ w).float()))
    return out


def mlp(x: Tensor, y: Tensor, seed: int, hidden: int = 512, epochs: int = 30) -> Callable[[Tensor], Tensor]:
    """One hidden layer from x [N, D] to y [N, K], both scaled; AdamW 1e-3 with a cosine, batches of 256."""
    centre, scale, middle, spread = x.mean(0), scales(x), y.mean(0), y.std(0).clamp(min=1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("probe", seed))
        net = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, y.shape[1]))
    rng = torch.Generator().manual_seed(mix("probe order", seed))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    total = epochs * -(-len(x) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=rng).split(256):
            loss = (net((x[rows] - centre) / scale) - (y[rows] - middle) / spread).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    net.requires_grad_(False)
    return lambda new: net((new - centre) / scale) * spread + middle
