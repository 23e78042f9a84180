"""The shared parts of recipes: one place where "the same backbone and budget for all methods" can be seen.

`quick` is what `ssl-bench quickstart` spends, `small` is for real comparisons at 28-64 px, `imagenet` is the shape
of the published runs. Methods add their objective and their optimizer.
"""

from __future__ import annotations

from typing import Any

from ssl_bench.config.schema import BudgetConfig, Config, DataConfig, OptimConfig, vit

QUICK_FLOPS = 2.2e12  # a minute or so on one slow core (AMD EPYC without AMX)
FAST_FLOPS = 0.25e12
QUICK_CLIP_FLOPS = 3e12  # three to five minutes on one slow core


def quick(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at the embedded photographs: the same ViT and the same training FLOPs for every method."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch6"),
        "data": DataConfig("clothing48", image_size=48),
        "budget": BudgetConfig(batch_size=32, flops=QUICK_FLOPS),
    }
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def small(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """28-64 px: half a ViT-Tiny with small patches, 100 epochs."""
    base: dict[str, Any] = {
        "backbone": vit("mini_patch6"),
        "data": DataConfig("clothing48", image_size=48),
        "budget": BudgetConfig(batch_size=128, epochs=100),
    }
    return Config(method=method, objective=objective, recipe="small", optim=optim, **(base | changes))


def imagenet(
    method: str, objective: Any, optim: OptimConfig, backbone: str, batch_size: int, epochs: float, **changes: Any
) -> Config:
    """ImageNet-1k at 224 px, to be run with data.name=folder:PATH on GPUs."""
    base: dict[str, Any] = {
        "backbone": vit(backbone),
        "data": DataConfig("folder:imagenet", image_size=224, val_fraction=0.01),
        "budget": BudgetConfig(batch_size=batch_size, epochs=epochs),
        "monitor_points": 100,
    }
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))


def quick_clips(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at motion: 8 frames of 32 px of the clips made here, the same ViT and FLOPs for every method."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch4", class_token=False),
        "data": DataConfig("movingphotos", image_size=32),
        "budget": BudgetConfig(batch_size=32, flops=QUICK_CLIP_FLOPS),
    }
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def small_clips(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """8 frames of 32 px: half a ViT-Tiny on 256 tubelets, 50 epochs."""
    base: dict[str, Any] = {
        "backbone": vit("mini_patch4", class_token=False),
        "data": DataConfig("movingphotos", image_size=32),
        "budget": BudgetConfig(batch_size=128, epochs=50),
    }
    return Config(method=method, objective=objective, recipe="small", optim=optim, **(base | changes))


def films(
    method: str, objective: Any, optim: OptimConfig, backbone: str, batch_size: int, steps: int, size: int = 224,
    **changes: Any,
) -> Config:  # fmt: skip
    """16 frames, as in the published runs on GPUs: clips made here, or films by data.name=folder:PATH#kind=clip."""
    base: dict[str, Any] = {
        "backbone": vit(backbone, class_token=False),
        "data": DataConfig("movingphotos:2", image_size=size, frames=16, val_fraction=0.01),
        "budget": BudgetConfig(batch_size=batch_size, steps=steps),
        "monitor_points": 100,
    }
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))
