"""Made-up tensors that anyone can make again: the inputs of known values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sines(seed: int, *shape: int) -> Tensor:
    """sin(0.13 k^2 + 0.7 k) in float64 for k = 1000 seed + 0, 1, 2, ..., as float32."""
    k = 1000 * seed + torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.13 * k * k + 0.7 * k).float().reshape(shape)
