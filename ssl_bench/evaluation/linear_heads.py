"""Many linear heads in one pass: every (layers, pooling) x learning rate x weight decay trains on the same batches.

Heads on one feature are one tensor [H, D, K], so a step is two matrix products per feature. They share no parameter:
training them together gives what training them one by one gives (DINOv2 sums their losses for the same reason).

Shapes: B images of a batch, H heads of one feature, D its width, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ssl_bench.config.schema import bounded
from ssl_bench.evaluation.protocol import Features, Key, combine
from ssl_bench.rng import Rng, mix
from ssl_bench.screen import paced
from ssl_bench.views.augment import AugmentConfig

Batches = Iterable[tuple[Callable[[Key], Tensor], Tensor]]  # feature by key [B, D], labels [B]


@dataclass(frozen=True)
class HeadsConfig:
    """The optimiser of a sweep. Learning rates are absolute."""

    lrs: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)  # one set of heads per learning rate
    weight_decays: tuple[float, ...] = (0.0, 0.01)  # L2, added to the gradient
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = bounded(0.9, least=0, below=1)
    schedule: Literal["cosine", "step"] = "cosine"  # half a cosine to 0, or / 10 at 30, 60 and 90 %
    warmup: float = bounded(0.0, below=1)  # share of training
    norm: Literal["standardize", "batch", "none"] = "standardize"  # fixed mean and std, BatchNorm without affine, none
    init_std: float = 0.0  # of the weights; 0: zeros


class Group:
    """The heads of one feature, on a device of their own; what they are given may lie elsewhere."""

    def __init__(
        self, key: Key, dim: int, num_classes: int, config: HeadsConfig, generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.key, self.config, self.device = key, config, device
        grid = list(itertools.product(config.lrs, config.weight_decays))
        self.names = [f"{key[0]}/{key[1]}/lr={lr:g}/wd={wd:g}" for lr, wd in grid]
        self.lr = torch.tensor([lr for lr, _ in grid], device=device)
        self.wd = torch.tensor([wd for _, wd in grid], device=device)
        start = (torch.randn(dim, num_classes, generator=generator) * config.init_std).to(device)
        self.weight = start.repeat(len(grid), 1, 1)  # one start for all: a head does not depend on its neighbours
        self.bias = torch.zeros(len(grid), num_classes, device=device)
        self.velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self.mean, self.var = torch.zeros(dim, device=device), torch.ones(dim, device=device)

    def standardize(self, x: Tensor) -> None:
        """Fix mean and variance from all features [N, D]."""
        self.mean, self.var = x.mean(0).to(self.device), x.var(0, unbiased=False).to(self.device)

    def normalized(self, x: Tensor) -> Tensor:
        return x if self.config.norm == "none" else (x - self.mean) / (self.var + 1e-6).sqrt()

    def logits(self, x: Tensor, heads: slice = slice(None)) -> Tensor:
        """[B, D] -> [B, H, K] of all heads or some, in memory."""
        x = self.normalized(x.to(self.device))
        return (torch.einsum("bd,hdk->bhk", x, self.weight[heads]) + self.bias[heads]).cpu()

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, factor: float) -> None:
        """One update at `factor` times each head's learning rate."""
        x, y = x.to(self.device), y.to(self.device)
        if self.config.norm == "batch":
            mean, var = x.mean(0), x.var(0, unbiased=False)
            self.mean.lerp_(mean, 0.1)  # BatchNorm's running statistics
            self.var.lerp_(var * len(x) / max(len(x) - 1, 1), 0.1)
            x = (x - mean) / (var + 1e-6).sqrt()
        else:
            x = self.normalized(x)
        h, d, k = self.weight.shape
        logits = (x @ self.weight.permute(1, 2, 0).reshape(d, k * h)).view(len(x), k, h) + self.bias.T
        error = (logits - logits.amax(1, keepdim=True)).exp_()  # a softmax, many times faster with the heads innermost
        error /= error.sum(1, keepdim=True) * len(x)
        error[torch.arange(len(y)), y] -= 1 / len(x)
        gradient = (x.T @ error.view(len(x), k * h)).view(d, k, h).permute(2, 0, 1)
        self._update(0, self.weight, gradient + self.wd[:, None, None] * self.weight, factor * self.lr)
        decay = self.wd[:, None] * self.bias if self.config.optimizer == "sgd" else 0.0
        self._update(1, self.bias, error.sum(0).T + decay, factor * self.lr)

    def _update(self, slot: int, value: Tensor, gradient: Tensor, lr: Tensor) -> None:
        if self.config.optimizer == "lars" and slot == 0:  # the bias moves at the raw rate (MAE's util/lars.py)
            size, push = value.flatten(1).norm(dim=1), gradient.flatten(1).norm(dim=1)
            trust = torch.where((size > 0) & (push > 0), 0.001 * size / push.clamp(min=1e-30), 1.0)
            gradient = gradient * trust[:, None, None]
        velocity = self.velocity[slot].mul_(self.config.momentum).add_(gradient)
        value -= lr.view(-1, *[1] * (value.ndim - 1)) * velocity


def schedule(config: HeadsConfig, at: float) -> float:
    """The factor of every learning rate at the fraction `at` of training."""
    if at < config.warmup:
        return at / config.warmup
    if config.schedule == "step":
        return float(10.0 ** -sum(at >= edge for edge in (0.3, 0.6, 0.9)))
    return 0.5 * (1 + math.cos(math.pi * (at - config.warmup) / (1 - config.warmup)))


def train(groups: list[Group], batches: Batches, steps: int) -> None:
    """Run every group over the same batches."""
    for i, (feature, y) in enumerate(paced("training the heads", batches, steps)):
        for group in groups:
            group.step(feature(group.key), y, schedule(group.config, i / steps))


def augmented_batches(
    x: Features, size: int, epochs: int, scale: tuple[float, float], generator: torch.Generator, seed: int
) -> tuple[Batches, int]:
    """Batches of random crops and flips through the frozen encoder, one forward pass for all heads."""
    size, encoder = min(size, len(x)), x.encoder
    look = AugmentConfig(crop_scale=scale, interpolation="bicubic")

    @torch.no_grad()
    def features(rows: Tensor, step: int) -> Callable[[Key], Tensor]:
        found: dict[str, list[Tensor]] = {}
        for i, part in enumerate(rows.split(256)):
            rng = Rng(mix("probe", seed, step, i), len(part), device=encoder.device)
            view = encoder.view(x.items.batch(part.numpy()), rng, look)
            for name, value in encoder.forward(view).items():
                found.setdefault(name, []).append(value)
        return partial(combine, {name: torch.cat(parts) for name, parts in found.items()})

    def made() -> Batches:
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for i, rows in enumerate(order[: len(x) // size * size].split(size)):
                yield features(rows, epoch * (len(x) // size) + i), x.labels[rows]

    return made(), epochs * (len(x) // size)


def cached_batches(x: Features, size: int, epochs: int, generator: torch.Generator) -> tuple[Batches, int]:
    """Shuffled batches of cached features, and their number; every epoch draws a new order."""
    size = min(size, len(x))

    def made() -> Batches:
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for rows in order[: len(x) // size * size].split(size):
                yield partial(combine, {name: value[rows] for name, value in x.pooled.items()}), x.labels[rows]

    return made(), epochs * (len(x) // size)


class StackedAdamW:
    """AdamW on parameters [H, ...] of H heads, each with its own learning rate, weight decay and gradient norm."""

    def __init__(
        self, parameters: dict[str, Tensor], grid: Tensor, beta2: float, clip: float, decay_all: bool = False
    ) -> None:
        self.decay_all = decay_all
        self.parameters, self.grid, self.beta2, self.clip = list(parameters.values()), grid, beta2, clip
        self.moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in self.parameters]
        self.count = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], factor: float) -> None:
        """One update at `factor` times the learning rates `grid[:, 0]`; decays are `grid[:, 1]`."""
        self.count += 1
        if self.clip:
            norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
            scale = (self.clip / (norm + 1e-6)).clamp(max=1)
            gradients = [g * scale.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        for value, gradient, (first, second) in zip(self.parameters, gradients, self.moments, strict=True):
            lr, wd = (column.view(-1, *[1] * (value.ndim - 1)) for column in self.grid.T)
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 1 - self.beta2)
            move = first / (1 - 0.9**self.count) / ((second / (1 - self.beta2**self.count)).sqrt() + 1e-8)
            value.mul_(1 - factor * lr * wd * (self.decay_all or value.ndim > 2))  # 2: biases and norms
            value.sub_(factor * lr * move)
