"""What is done to a cloud of points before a network sees it. Clouds [B, P, 3], y up; the order of points stays.

In the order of Point-JEPA's code: scale and mirror, centre, unit sphere, rotate; then Point-MAE's shift, and jitter. A
view of fewer points than the cloud has is a region of it: the nearest ones to one of its points, drawn by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng


@dataclass(frozen=True)
class CloudConfig:
    """One view of a cloud. As it is, by default."""

    scale: tuple[float, float] = (1.0, 1.0)  # factor of each axis
    mirror: bool = False  # x and z are mirrored, each with probability 0.5
    unit: bool = False  # centred and brought to the unit sphere again after scaling
    rotate: Literal["none", "upright", "any"] = "none"  # about y, or any rotation
    shift: float = 0.0  # each axis by up to so much
    jitter: float = 0.0  # standard deviation of what is added to each coordinate
    once: bool = False  # one scale and one rotation for a whole batch, as in Point-JEPA

    def check(self) -> None:
        refuse_outside("cloud.", self, {"shift": 0.0, "jitter": 0.0})
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"cloud.scale={self.scale[0]:g},{self.scale[1]:g} must be positive and in order.")


def change(clouds: Tensor, rng: Rng, size: int, config: CloudConfig) -> Tensor:
    """One random view [B, size, 3] of every cloud [B, P, 3]."""
    c = config

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        if c.once:
            return (low + (high - low) * rng.shared(*shape)).expand(len(clouds), *shape)
        return rng.uniform(low, high, *shape)

    x = region(clouds, rng, size) if size < clouds.shape[1] else clouds
    if c.scale != (1.0, 1.0) or c.mirror:
        factor = uniform(*c.scale, 3)
        if c.mirror:
            sign = 1 - 2 * (uniform(0, 1, 3) < 0.5).float()
            factor = factor * torch.stack([sign[:, 0], torch.ones_like(sign[:, 1]), sign[:, 2]], 1)
        x = x * factor[:, None]
    x = unit_sphere(x) if c.unit else x
    if c.rotate == "upright":
        x = x @ about_y(uniform(-math.pi, math.pi, 1)[:, 0])
    elif c.rotate == "any":
        x = x @ rotation(uniform(0, 1, 3))
    if c.shift:
        x = x + uniform(-c.shift, c.shift, 3)[:, None]
    return x + c.jitter * rng.randn(x.shape[1], 3) if c.jitter else x


def unit_sphere(clouds: Tensor) -> Tensor:
    """Centred on the mean, the largest norm 1."""
    centred = clouds - clouds.mean(1, keepdim=True)
    return centred / centred.norm(dim=-1).amax(1).clamp(min=1e-12)[:, None, None]


def about_y(angle: Tensor) -> Tensor:
    """Matrices [B, 3, 3] for rows x @ M that turn by `angle` [B] radians about y, right-handed."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, zero, -sin, zero, one, zero, sin, zero, cos], 1).unflatten(1, (3, 3))


def rotation(numbers: Tensor) -> Tensor:
    """Rotations [B, 3, 3] from numbers [B, 3] in [0, 1), uniform over all (Shoemake 1992: random unit quaternions)."""
    first, second = numbers[:, 0].sqrt(), (1 - numbers[:, 0]).sqrt()
    a, b = 2 * math.pi * numbers[:, 1], 2 * math.pi * numbers[:, 2]
    x, y, z, w = second * a.sin(), second * a.cos(), first * b.sin(), first * b.cos()
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).unflatten(1, (3, 3))


def region(clouds: Tensor, rng: Rng, size: int) -> Tensor:
    """The `size` points nearest to one of each cloud, in the order they had: still nearly farthest-point order."""
    start = (rng.rand() * clouds.shape[1]).long()
    far = (clouds - clouds[torch.arange(len(clouds)), start][:, None]).square().sum(-1)
    index = far.topk(size, largest=False).indices.sort(1).values
    return clouds.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))


def moments(clouds: Tensor, order: int = 3) -> Tensor:
    """Raw features [B, 19 + 6]: all moments of x, y, z up to `order`, the ends of each axis; no order of points."""
    x, y, z = clouds.unbind(-1)
    powers = [(i, j, k) for i in range(order + 1) for j in range(order + 1) for k in range(order + 1)]
    kept = [p for p in powers if 0 < sum(p) <= order]
    found = [(x**i * y**j * z**k).mean(1) for i, j, k in kept]
    return torch.cat([torch.stack(found, 1), clouds.amax(1), clouds.amin(1)], 1)
