"""The rows that every table has: an untrained network, and the raw input."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from ssl_bench.config.overrides import override, parse
from ssl_bench.config.schema import HEADS, Config, DataConfig, Size, ViTConfig, identity, size_text, to_dict, vit
from ssl_bench.data.dataset import Dataset
from ssl_bench.data.items import RAW, Kind, asked
from ssl_bench.encoders.encoder import IMAGENET, PICTURES, Encoder, sha256
from ssl_bench.errors import UserError
from ssl_bench.models.vit import ViT
from ssl_bench.rng import mix

RAW_ROWS = {  # what each row is, and what it needs
    "pixels": ("raw pixels", ""),
    "difference": ("mean absolute difference of frames", "between the frames of clips, and images have one"),
    "logmel": ("mean log-mel", "of the spectrograms of sounds"),
    "moments": ("moments of coordinates", "of the coordinates of clouds of points"),
    "counts": ("counts of tokens", "of the tokens of texts"),
}


def random_source(backbone: ViTConfig, image_size: Size) -> str:
    """How records name an untrained ViT: `random:96x4_patch8@48`, and after commas what is not usual for its size."""
    usual = _usual(backbone.embed_dim, backbone.depth, backbone.patch_size)
    more = [f"{k}={v}" for k, v in vars(backbone).items() if v != getattr(usual, k)]
    plain = f"random:{backbone.embed_dim}x{backbone.depth}_patch{backbone.patch_size}@{size_text(image_size)}"
    return ",".join([plain, *more])


def of_random_source(name: str, otherwise: Size) -> tuple[ViTConfig, Size]:
    """ViT and image size of what follows `random:`, as records write it or as `vit_tiny_patch8`; size after `@`."""
    shape, *more = name.split(",")
    backbone, _, size = shape.partition("@")
    numbers = re.fullmatch(r"(\d+)x(\d+)_patch(\d+)", backbone)
    config = _usual(*map(int, numbers.groups())) if numbers else vit(backbone)
    try:
        wanted: Size = parse(size, Size, "size") if size else otherwise
    except UserError:
        example = "random:vit_tiny_patch8@48, or @32x96"
        raise UserError(f"'random:{name}': write the image size as digits, for example {example}.") from None
    config = override(config, more)
    config.check()
    return config, wanted


def _usual(dim: int, depth: int, patch: int) -> ViTConfig:
    return ViTConfig(dim, depth, HEADS.get(dim, max(1, dim // 64)), patch_size=patch)


def reference(method: str, seed: int, data: DataConfig, backbone: ViTConfig | None = None) -> Config:
    """The config of the row `random` or `pixels` on a set: its identity is what records know the row by."""
    return Config(method, {}, seed=seed, data=data, backbone=backbone or ViTConfig())


def untrained(backbone: ViTConfig, image_size: Size, seed: int, data: Dataset | None = None) -> Encoder:
    """The row `random`: the shared ViT as it is before the first step, from `seed`."""
    look = DataConfig(image_size=image_size, channels=data.item.channels if data else 3)
    frames = data.item.facts.get("frames", 0) if data else 0
    look = replace(look, frames=frames) if frames else look
    config = reference("random", seed, look, backbone)
    if any(side % backbone.patch_size for side in look.size):
        told = f"Images of {size_text(image_size)} pixels are not divisible by the patch size {backbone.patch_size}."
        raise UserError(told)
    with torch.random.fork_rng():
        torch.manual_seed(mix("random", seed))
        kind = data.pictured().item.name if data else "image"
        model = ViT(backbone, _item(data, image_size) or asked(look, kind))
    mean, std = (data.mean, data.std) if data else IMAGENET
    return _reference(
        Encoder(
            "random", model.eval(), "mean", backbone.class_token, backbone.depth, image_size, mean, std, sha256(model),
            random_source(backbone, image_size), "untrained", seed=seed, frames=frames, item=_item(data, image_size),
        ), config, data,
    )  # fmt: skip


def raw(encoder: Encoder) -> Encoder:
    """What raw pixels are in place of an encoder, on the same items."""
    return replace(
        encoder, method="pixels", source="pixels", model=None, kept=None, weights_sha256="none", pooling="mean",
        has_cls=False, depth=1,
    )  # fmt: skip


def pixels(data: Dataset | None, method: str = "pixels") -> Encoder:
    """The row `pixels`: the normalised item itself as the feature. Nothing here is random but the probe.

    `difference`: the mean over time of the absolute difference of neighbouring frames, of clips alone. `logmel`: the
    mean over time of the log-mel spectrogram, of sounds alone. `moments`: those of the coordinates, up to the third
    order, of clouds of points alone. `counts`: how often each token occurs, of texts alone.
    """
    frames = data.item.facts.get("frames", 0) if data else 0
    told, needs = RAW_ROWS[method]
    if needs and ((data.item.name if data else "") != RAW[method] or frames == 1):
        raise UserError(f"'{method}' is {needs}: use pixels.")
    mean, std = (data.mean, data.std) if data else IMAGENET
    size: Size = data.config.image_size if data else 48
    config = reference(method, 0, DataConfig(image_size=size))
    item = _item(data, size)
    encoder = Encoder(method, None, "mean", False, 1, size, mean, std, "none", method, told, frames=frames, item=item)
    made = _reference(encoder, config, data)
    return replace(made, config={**made.config, "backbone": {}})


def _item(data: Dataset | None, image_size: Size) -> Kind | None:
    """The set's item where an encoder has to know it; `UserError` where it is asked for another size."""
    item = data.pictured().item if data else None
    if data is None or item is None or item.name in PICTURES:
        return None
    if item.facts["image_size"] != image_size:
        own = size_text(item.facts["image_size"])
        raise UserError(f"The {item.noun} of '{data.name}' are seen at {own}, not at {size_text(image_size)}.")
    return item


def _reference(encoder: Encoder, config: Config, data: Dataset | None) -> Encoder:
    """Identity and config of a row without pretraining, in the shape a run has them: tables treat them alike."""
    if data:
        config = replace(config, data=replace(data.config, image_size=encoder.image_size))
    none = {"flag": False, "reason": "", "rankme": None}
    return replace(encoder, config=to_dict(config), identity=identity(config), collapse=none)
