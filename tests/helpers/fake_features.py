"""Features whose classes are known: Gaussians, or whatever a test makes of them."""

from __future__ import annotations

import numpy as np
import torch

from ssl_bench.data.dataset import Split
from ssl_bench.evaluation.protocol import Features, Rows


def part(n: int, d: int = 16, classes: int = 4, seed: int = 0, cls: bool = True, noise: float = 2.0) -> Features:
    """Gaussian classes with one layer of "mean" and "cls" features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    x = centres[labels] + noise * torch.randn(n, d, generator=generator)
    pooled = {"mean": torch.stack([x * 0.5, x], 1)} | ({"cls": torch.stack([x, x + 1], 1)} if cls else {})
    images = Rows.of(Split(np.zeros((n, 3, 8, 8), np.uint8), np.arange(n), labels[:0]))
    return Features(labels, classes, "mean", pooled, images)
