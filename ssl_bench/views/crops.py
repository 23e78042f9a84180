"""The views that most methods share: two crops, or two global crops and several local ones. Constants are published.

Shapes: images uint8 [B, C, H, W]; crops come out normalised, view after view: [V * B, C, S, S].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.clouds import CloudConfig
from ssl_bench.views.sound import SoundConfig

COLOUR = AugmentConfig(
    flip=0.5, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, jitter_p=0.8, gray_p=0.2, interpolation="bicubic"
)  # BYOL's, as in DINO (main_dino.py, DataAugmentationDINO), MoCo v3, VICReg and Barlow Twins
SMALL = replace(COLOUR, crop_scale=(0.2, 1.0), interpolation="bilinear")  # 28-64 px: larger crops, no blur (own choice)

SOUND = AugmentConfig(
    crop_scale=(0.6, 1.0), flip=0.0, sound=SoundConfig(shift=0.1, gain=1.4, mixup=0.2)
)  # 64 x 64 spectrograms (own choice, after BYOL-A's mixup and random resized crops)
CLOUD = AugmentConfig(
    cloud=CloudConfig((0.67, 1.5), mirror=True, unit=True, rotate="upright", jitter=0.01)
)  # own choice
TURNED = AugmentConfig(
    cloud=CloudConfig((0.8, 1.2), mirror=True, unit=True, rotate="upright")
)  # Point2Vec's and Point-JEPA's, there one draw for a batch
WHOLE = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)  # the item as it is


@dataclass(frozen=True)
class TwoCrops:
    """Two full-size crops. Defaults are BYOL's, also those of MoCo v3, VICReg and Barlow Twins."""

    view_1: AugmentConfig = replace(COLOUR, crop_scale=(0.08, 1.0), blur_p=1.0)  # first view: always blurred
    view_2: AugmentConfig = replace(COLOUR, crop_scale=(0.08, 1.0), blur_p=0.1, solarize_p=0.2)  # second view
    crop_size: int = 224  # pixels per side of both
    freeze_patch: bool = True  # the patch projection stays random: steadier training of ViTs (MoCo v3, section 4)

    def check(self) -> None:
        self.view_1.check()
        self.view_2.check()


@dataclass(frozen=True)
class MultiCrop:
    """Two global crops and several local ones (SwAV's multi-crop). Defaults are DINO's."""

    global_1: AugmentConfig = replace(COLOUR, crop_scale=(0.4, 1.0), blur_p=1.0)  # first global crop: always blurred
    global_2: AugmentConfig = replace(COLOUR, crop_scale=(0.4, 1.0), blur_p=0.1, solarize_p=0.2)  # second global crop
    local: AugmentConfig = replace(COLOUR, crop_scale=(0.05, 0.4), blur_p=0.5)  # local crops
    local_crops: int = 8  # number of local crops
    local_size: int = 96  # their pixels per side; a multiple of the patch size
    global_size: int = 224  # pixels per side of the global crops

    def check(self) -> None:
        for part in (self.global_1, self.global_2, self.local):
            part.check()
        if not self.local_crops and (self.local, self.local_size) != (type(self)().local, type(self)().local_size):
            raise UserError("objective.local and local_size have no effect with objective.local_crops=0.")


Two = TypeVar("Two", bound=TwoCrops)
Multi = TypeVar("Multi", bound=MultiCrop)


def cut(images: Tensor, rng: Rng, size: int, configs: list[AugmentConfig], mean: Tensor, std: Tensor) -> Tensor:
    """One crop of every image per config: [V * B, C, size, size], view after view."""
    return torch.cat([augment(images, rng, size, config, mean, std) for config in configs])


def multi_crop(images: Tensor, rng: Rng, crops: MultiCrop, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """ "global" [2 * B, C, S, S] and, if there are any, "local" [L * B, C, s, s]."""
    views = {"global": cut(images, rng, crops.global_size, [crops.global_1, crops.global_2], mean, std)}
    if crops.local_crops:
        views["local"] = cut(images, rng, crops.local_size, [crops.local] * crops.local_crops, mean, std)
    return views


def small_two_crops(objective: Two) -> Two:
    """Two crops of 28-64 px images, the same for all methods; the patch projection is trained."""
    return replace(objective, view_1=SMALL, view_2=replace(SMALL, solarize_p=0.2), crop_size=48, freeze_patch=False)


def small_multi_crop(objective: Multi) -> Multi:
    """Two global crops of 28-64 px images, the same for all methods; local crops of 24 px or less show no shape."""
    colour = replace(SMALL, crop_scale=(0.5, 1.0))
    return replace(
        objective,
        global_1=colour,
        global_2=replace(colour, solarize_p=0.2),
        local_crops=0,
        global_size=36,
    )


def as_sound(objective: Any, look: AugmentConfig = SOUND) -> Any:
    """The same settings with one `look` for all views of spectrograms of 64 x 64, and no local crops."""
    views = {k: look for k, v in vars(objective).items() if isinstance(v, AugmentConfig) and k != "local"}
    sizes = {"crop_size": 64, "global_size": 64, "local_crops": 0, "freeze_patch": False}
    return replace(objective, **views, **{k: v for k, v in sizes.items() if hasattr(objective, k)})


def cloud_two_crops(objective: Two) -> Two:
    """Two regions of three quarters of a cloud of 256 points, the same for all methods."""
    return replace(objective, view_1=CLOUD, view_2=CLOUD, crop_size=192, freeze_patch=False)


def cloud_multi_crop(objective: Multi) -> Multi:
    """Two such regions and no smaller ones."""
    return replace(objective, global_1=CLOUD, global_2=CLOUD, local_crops=0, global_size=192)


def views_of(objective: Any) -> dict[str, AugmentConfig]:
    """The views that an objective draws, by the names of their settings."""
    idle = {"local"} if getattr(objective, "local_crops", 1) == 0 else set()
    settings = getattr(objective, "__dict__", {})
    return {k: v for k, v in settings.items() if isinstance(v, AugmentConfig) and k not in idle}


def mirrored(objective: Any) -> dict[str, AugmentConfig]:
    """Those that may be mirrored."""
    return {name: view for name, view in views_of(objective).items() if view.flip}


def set_by_hand(objective: Any, *settings: str) -> list[str]:
    """Which of these settings of its views are not as usual, as they are typed: `view_1.sound`."""
    views, usual = views_of(objective).items(), AugmentConfig()
    return [f"{name}.{s}" for name, view in views for s in settings if getattr(view, s) != getattr(usual, s)]


def unmirrored(objective: Any) -> Any:
    """The same settings with no view mirrored, for sets whose labels say left and right."""
    return replace(objective, **{k: replace(v, flip=0.0) for k, v in mirrored(objective).items()})


def as_clips(objective: Two) -> Two:
    """Two crops of 32 px clips, all frames of a view alike (own choice).

    Half of the views are grey and crops keep half of the frame: what two views share is to be motion, not colours.
    """
    one, two = (replace(view, crop_scale=(0.5, 1.0), gray_p=0.5) for view in (objective.view_1, objective.view_2))
    found: Two = unmirrored(replace(objective, view_1=one, view_2=two, crop_size=32))
    return found


def check_crops(config: Config, *names: str) -> None:
    """Raise where the sizes `names` of the objective do not fit the patches, or where there is no CLS token."""
    if not config.backbone.class_token:
        raise UserError(f"{config.method} needs backbone.class_token=true: its head sits on CLS.")
    small = getattr(config.objective, "local_crops", 0) or getattr(config.objective, "local_views", 0)
    for name in names:
        if name == "local_size" and not small:
            continue
        size, patch = getattr(config.objective, name), config.backbone.patch_size
        if not size or size % patch:
            raise UserError(f"objective.{name}={size} must be a multiple of backbone.patch_size={patch}.")


def enlarged(config: Config, kind: str) -> list[str]:
    """What a run should know whose views have more pixels than its images: they cost more and show no more."""
    side = min(config.data.size)
    larger = {n: v for n in ("crop_size", "global_size") if (v := getattr(config.objective, n, 0)) > side}
    return [
        f"views of {size} pixels a side are enlarged from images of {side}: with objective.{name}={side} and the same "
        f"FLOPs a run sees about {(size / side) ** 2:.1f} times as many images."
        for name, size in (larger.items() if kind in ("image", "clip") else ())
    ]


def crop_flops(vit: ViT, size: int) -> float:
    """Forward FLOPs of one crop of `size` pixels per side, of all frames."""
    return vit.flops(vit.patch_embed.tokens(size, vit.grid))
