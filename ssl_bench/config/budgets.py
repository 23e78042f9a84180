"""The shared parts of recipes: one place where "the same backbone and budget for all methods" can be seen.

`quick` is what `ssl-bench quickstart` spends, `small` is for real comparisons at 28-64 px, `imagenet` is the shape
of the published runs. Methods add their objective and their optimizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssl_bench.config.schema import BudgetConfig, Config, DataConfig, OptimConfig, ViTConfig, vit
from ssl_bench.config.sound import MelConfig

QUICK_FLOPS = 2.2e12  # a minute or so on one slow core (AMD EPYC without AMX)
FAST_FLOPS = 0.25e12
QUICK_CLIP_FLOPS = 3e12  # three to five minutes on one slow core
DIGITS = MelConfig(rate=8000, window_ms=32, fill="repeat", peak=True)  # of fsdd30, whose speakers differ in level
QUICK_CUE_FLOPS = 3e12  # a minute and a half on one slow core
QUICK_SOUND_FLOPS = 0.5e12  # half a minute on one slow core
QUICK_POINTS_FLOPS = 1e12  # half a minute on one slow core, as sound
QUICK_CAPTION_FLOPS = 2e12  # a minute or so on one slow core
QUICK_TEXT_FLOPS = 2e12  # a minute or so on one slow core


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


def clips(method: str, objective: Any, optim: OptimConfig, class_token: bool = False, **changes: Any) -> Config:
    """What is compared on motion: the same clips and FLOPs, with tubelets of all 8 frames: each token sees a motion."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch4", class_token=class_token, tubelet=8),
        "budget": BudgetConfig(batch_size=64, flops=QUICK_CLIP_FLOPS),
    }
    return quick_clips(method, objective, optim, **(base | changes))


def quick_cues(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at a long past: 40 frames of 24 px with a cue in the first ones, 9 tokens each."""
    base: dict[str, Any] = {
        "backbone": vit("toy_patch8", class_token=False, tubelet=1),
        "data": DataConfig("cues", image_size=24, frames=40),
        "budget": BudgetConfig(batch_size=8, flops=QUICK_CUE_FLOPS),
    }
    return quick_clips(method, objective, optim, **(base | changes))


def small_clips(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """8 frames of 32 px: half a ViT-Tiny on 256 tubelets, 50 epochs."""
    base: dict[str, Any] = {
        "backbone": vit("mini_patch4", class_token=False),
        "data": DataConfig("movingphotos", image_size=32),
        "budget": BudgetConfig(batch_size=128, epochs=50),
    }
    return Config(method=method, objective=objective, recipe="small", optim=optim, **(base | changes))


def quick_sounds(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at sound: 0.66 s of spoken digits as 64 mel bands x 64 frames, the same ViT and FLOPs for all."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch16"),
        "data": DataConfig("fsdd30", image_size=64, mel=DIGITS),
        "budget": BudgetConfig(batch_size=64, flops=QUICK_SOUND_FLOPS),
    }
    return Config(method=method, objective=objective, recipe="sound", optim=optim, **(base | changes))


def small_sounds(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """0.66 s of spoken digits: half a ViT-Tiny on 64 patches, 100 epochs."""
    config = quick_sounds(method, objective, optim)
    base: dict[str, Any] = {"backbone": vit("mini_patch8"), "budget": BudgetConfig(batch_size=128, epochs=100)}
    return replace(config, recipe="small", **(base | changes))


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


QUICK_WORLD_FLOPS = 2e12  # a minute on one slow core
SMALL_WORLD_FLOPS = 6e12  # three minutes on one slow core


def quick_worlds(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at a world: frames of 32 px, the same small ViT and FLOPs for every method; fp32 is as fast."""
    base: dict[str, Any] = {
        "backbone": vit("toy_patch8"), "precision": "fp32", "data": DataConfig("two_room", image_size=32),
        "budget": BudgetConfig(batch_size=64, flops=QUICK_WORLD_FLOPS),
    }  # fmt: skip
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def small_worlds(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """The same, as long as planning needs."""
    budget = BudgetConfig(batch_size=64, flops=SMALL_WORLD_FLOPS)
    return replace(quick_worlds(method, objective, optim, **({"budget": budget} | changes)), recipe="small")


def worlds(method: str, objective: Any, optim: OptimConfig, backbone: str, **changes: Any) -> Config:
    """224 px, 10,000 trajectories, for a GPU."""
    base: dict[str, Any] = {
        "backbone": vit(backbone), "data": DataConfig("two_room:10000", image_size=224),
        "budget": BudgetConfig(batch_size=128, steps=20_000),
    }  # fmt: skip
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))


def quick_points(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at shapes: 32 groups of 16 of 256 points, the same ViT and the same training FLOPs for all."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch16", class_token=False, pos_embed="centres"),
        "data": DataConfig("ldraw16", image_size=256),
        "budget": BudgetConfig(batch_size=32, flops=QUICK_POINTS_FLOPS),
    }
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def quick_points_cls(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """The same with a CLS token, for methods whose head sits on it."""
    return quick_points(method, objective, optim, **({"backbone": vit("micro_patch16", pos_embed="centres")} | changes))


def small_points(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """256 points: half a ViT-Tiny on 32 groups of 16, 100 epochs."""
    base: dict[str, Any] = {
        "backbone": vit("mini_patch16", class_token=False, pos_embed="centres"),
        "data": DataConfig("ldraw16", image_size=256),
        "budget": BudgetConfig(batch_size=128, epochs=100),
    }
    return Config(method=method, objective=objective, recipe="small", optim=optim, **(base | changes))


def shapes(
    method: str, objective: Any, optim: OptimConfig, backbone: ViTConfig, batch_size: int, epochs: float, **changes: Any
) -> Config:
    """ShapeNet's 1,024 points in 64 groups of 32, as in the published runs on GPUs."""
    base: dict[str, Any] = {
        "backbone": backbone,
        "data": DataConfig("folder:shapenet#kind=points", image_size=1024, val_fraction=0.01),
        "budget": BudgetConfig(batch_size=batch_size, epochs=epochs),
        "monitor_points": 100,
    }
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))


def quick_texts(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at text: expressions in words and as code, the same causal network and FLOPs for every objective."""
    base: dict[str, Any] = {
        "backbone": vit("micro_patch1", class_token=False, causal=True), "precision": "fp32",
        "data": DataConfig("expressions", image_size=14), "budget": BudgetConfig(batch_size=64, flops=QUICK_TEXT_FLOPS),
    }  # fmt: skip
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def small_texts(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """The same in half a ViT-Tiny, 50 epochs."""
    base: dict[str, Any] = {
        "backbone": vit("mini_patch1", class_token=False, causal=True),
        "budget": BudgetConfig(batch_size=64, epochs=50),
    }
    return replace(quick_texts(method, objective, optim, **(base | changes)), recipe="small")


def texts(method: str, objective: Any, optim: OptimConfig, backbone: str, **changes: Any) -> Config:
    """Pairs of up to 128 bytes, one's own, for a GPU."""
    base: dict[str, Any] = {
        "backbone": vit(backbone, class_token=False, causal=True),
        "data": DataConfig("folder:synth#kind=text", image_size=128),
        "budget": BudgetConfig(batch_size=128, epochs=4),
        "monitor_points": 100,
    }
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))


def quick_captioned(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """A first look at images with questions: 32 px, the same small ViT and FLOPs for every objective."""
    base: dict[str, Any] = {
        "backbone": vit("toy_patch4", class_token=False), "precision": "fp32",
        "data": DataConfig("captions", image_size=32),
        "budget": BudgetConfig(batch_size=64, flops=QUICK_CAPTION_FLOPS),
    }  # fmt: skip
    return Config(method=method, objective=objective, recipe="quick", optim=optim, **(base | changes))


def small_captioned(method: str, objective: Any, optim: OptimConfig, **changes: Any) -> Config:
    """The same in half a ViT-Tiny, 50 epochs."""
    backbone, budget = vit("mini_patch4", class_token=False), BudgetConfig(batch_size=64, epochs=50)
    base: dict[str, Any] = {"backbone": backbone, "budget": budget}
    return replace(quick_captioned(method, objective, optim, **(base | changes)), recipe="small")


def captioned(method: str, objective: Any, optim: OptimConfig, backbone: str, **changes: Any) -> Config:
    """256 px, 100,000 images, for a GPU."""
    base: dict[str, Any] = {
        "backbone": vit(backbone, class_token=False), "data": DataConfig("captions:100000", image_size=256),
        "budget": BudgetConfig(batch_size=1024, steps=20_000), "monitor_points": 100,
    }  # fmt: skip
    return Config(method=method, objective=objective, recipe="paper", optim=optim, **(base | changes))
