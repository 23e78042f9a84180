"""A method on a tiny backbone, and the views of random images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl_bench.config.schema import Config, ViTConfig
from ssl_bench.data.images import square
from ssl_bench.rng import Rng
from ssl_bench.training.method import DataInfo, Method

TINY = ViTConfig(embed_dim=32, depth=3, num_heads=2, patch_size=6)


def build(module: Any, size: int = 36, batch: int = 6, **objective: Any) -> tuple[Method, dict[str, Tensor]]:
    """A tiny method of a file's quick recipe, and the views of random images."""
    config: Config = module.quick(backbone=TINY)
    config = replace(config, objective=replace(config.objective, **objective)).check()
    torch.manual_seed(0)
    cls = next(
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Method) and v.__module__ == module.__name__
    )
    method = cls(config, DataInfo(square(size)))
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        return method, method.views(images, Rng(1, batch), 0.5)
