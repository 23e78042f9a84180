"""Encoders that were not trained here: `timm:NAME`, `hf:NAME`, `hub:REPO:NAME`, and checkpoint files as published.

`timm:local-dir:PATH` is what `ssl-bench export` wrote, `timm:hf-hub:REPO` a repository.

`file:PATH` knows the layouts of I-JEPA, MAE, DINO, iBOT, MoCo v3, DINOv2, data2vec 2.0 and CAPI, and those of clips:
V-JEPA, V-JEPA 2, V-JEPA 2.1 and VideoMAE (16 frames of 224 or 256 px; `frames=8`, `size=112` ask for others). Weights
are renamed, never guessed: what is missing or left over is an error that names it, and what belongs to no encoder
(projection heads, decoders, mask tokens) is dropped by a list per family and said in the record. Files are read as data
only, and weights that are not finite are refused.

A training checkpoint may hold several networks, in dictionaries or under prefixes of one; `module.` (DDP) and
`_orig_mod.` (torch.compile) are no part of a name. `key=` chooses by name. Else the only one is taken; of MoCo v3's two
the base encoder, of data2vec's the trained one; else the one that is a target encoder, a teacher or an EMA (I-JEPA,
DINO and its kin, timm: as they evaluate). What was taken, and which others there are, is printed and stands in the
record. Where that decides nothing (MoCo's encoder_q and encoder_k, a backbone and its momentum_backbone) a sentence
names them.

Settings follow a comma, of all kinds `size=224` (pixels, where positions are interpolated) and `pooling=mean` (the
token; default: CLS where there is one, CAPI's being its predictor pooling); of files also `key=encoder` (I-JEPA:
`encoder`, or `target_encoder`, the default; `teacher` and so on), `heads=12` and `patch=16` (checked against the file).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench import screen
from ssl_bench.config.schema import HEADS, ViTConfig
from ssl_bench.data.images import square
from ssl_bench.encoders import film_layouts
from ssl_bench.encoders.encoder import IMAGENET, Encoder, fitted, sha256
from ssl_bench.encoders.layouts import DROPPED, State, identify, read, some
from ssl_bench.encoders.networks import CapiViT, HubBackbone, TimmBackbone, TransformersBackbone, data2vec_vit
from ssl_bench.errors import UserError, first_line, nearest
from ssl_bench.models.vit import ViT

COMMON = ("size", "pooling")


@dataclass(frozen=True)
class Look:
    """How images enter a network: pixels per side, and before the centre crop (0: 256 / 224 of them); ImageNet's."""

    size: int
    resize: int = 0
    mean: Sequence[float] = IMAGENET[0]
    std: Sequence[float] = IMAGENET[1]
    interpolation: str = "bicubic"


def resolve(kind: str, name: str) -> Encoder:
    """An encoder from a library or a file; see the module's docstring."""
    makers: dict[str, Callable[[str], Encoder]] = {"timm": from_timm, "hf": from_hf, "hub": from_hub, "file": from_file}
    return makers[kind](name)


def from_timm(name: str, pretrained: bool = True) -> Encoder:
    """timm's weights, input size, mean, std and interpolation, as its default config has them."""
    import timm

    base, settings = _settings(name)
    plain, place = base.split(".")[0], base.startswith(("hf-hub:", "local-dir:"))
    if not place and plain not in timm.list_models():
        raise UserError(f"timm has no model '{base}'. {nearest(plain, timm.list_models())}")
    size: dict[str, Any] = {"img_size": int(settings["size"])} if "size" in settings else {}
    try:
        model: Any = timm.create_model(base, pretrained=pretrained, num_classes=0, **size)
    except (OSError, RuntimeError) as error:
        raise UserError(f"timm cannot load '{base}': {first_line(error)} Without a network, use file:PATH.") from error
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"timm's '{base}' gives no token maps (forward_intermediates), which the protocols need.")
    data = timm.data.resolve_model_data_config(model)
    backbone, pixels = TimmBackbone(model), int(size.get("img_size", data["input_size"][-1]))
    has_cls = bool(getattr(model, "has_class_token", backbone.num_prefix))
    look = Look(pixels, round(pixels / data["crop_pct"]), data["mean"], data["std"], data["interpolation"])
    return _encoder(f"timm:{base}", backbone, look, len(model.blocks), has_cls, settings.get("pooling", ""))


def from_hf(name: str) -> Encoder:
    """A ViT of Hugging Face transformers, which must be installed. MAE's random masking is switched off."""
    try:
        from transformers import AutoConfig, AutoModel  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("hf: needs a package: pip install transformers. Or use timm:hf-hub:NAME.") from None
    base, settings = _settings(name)
    try:
        config = AutoConfig.from_pretrained(base)
        config.mask_ratio = 0.0
        model = AutoModel.from_pretrained(base, config=config)
    except (OSError, ValueError) as error:
        raise UserError(f"transformers cannot load '{base}': {first_line(error)}") from error
    backbone = TransformersBackbone(model)
    look = Look(int(settings.get("size", getattr(config, "image_size", 224))))
    has_cls = "ijepa" not in config.model_type
    return _encoder(f"hf:{base}", backbone, look, config.num_hidden_layers, has_cls, settings.get("pooling", ""))


def from_hub(name: str) -> Encoder:
    """`REPO:NAME` of torch.hub, or a local folder with a hubconf.py. This runs the repository's code."""
    base, settings = _settings(name)
    repo, _, entry = base.rpartition(":")
    if not repo:
        raise UserError(f"'hub:{name}': write hub:REPO:NAME, for example hub:facebookresearch/dinov2:dinov2_vits14.")
    local = (Path(repo) / "hubconf.py").exists()
    try:
        model = torch.hub.load(repo, entry, source="local" if local else "github", trust_repo=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"torch.hub cannot load '{base}': {first_line(error)}") from error
    if not hasattr(model, "get_intermediate_layers"):
        raise UserError(f"'{base}' has no get_intermediate_layers, which DINO's models have. Use timm: or file:.")
    depth = len(model.blocks)
    look = Look(int(settings.get("size", 224)))
    return _encoder(f"hub:{base}", HubBackbone(model, depth), look, depth, True, settings.get("pooling", ""))


def from_file(name: str) -> Encoder:
    """A published checkpoint, its family told by its keys."""
    base, settings = _settings(name, "key", "heads", "patch", "frames")
    path = Path(base)
    family, network, others = identify(read(path), settings.get("key"), str(path))
    kept = {k: v for k, v in network.state.items() if not k.startswith(DROPPED[family])}
    broken = next((k for k, v in kept.items() if not v.isfinite().all()), "")
    if broken:
        raise UserError(f"'{path}' cannot be evaluated: its weights are not finite (NaN or infinity in '{broken}').")
    usual = {name for name in network.beside if f"{name}.".startswith(DROPPED[family])}
    dropped = sorted({k.split(".")[0] for k in network.state.keys() - kept.keys()} | usual)
    frames = 0
    if family in film_layouts.FAMILIES:
        model, size, depth, frames = film_layouts.build(kept, family, settings, str(path))
        has_cls, extra = False, [f"clips of {frames} frames of {size} px"]
    elif "frames" in settings:
        raise UserError(f"frames= has no effect: '{path}' (read as {family}) is a network of images. Leave it out.")
    else:
        build = {"capi": _capi, "data2vec": _data2vec}.get(family, _plain)
        model, size, depth, has_cls = build(kept, family, settings, str(path))
        extra = ["cls: predictor pooling"] if family == "capi" else []
    facts = [family, network.name, *extra]
    said = f"file:{path.name} ({', '.join(facts)}{'; dropped: ' + ', '.join(dropped) if dropped else ''})"
    look, pooling = Look(int(settings.get("size", size))), settings.get("pooling", "")
    heads = f"heads={settings['heads']}" if "heads" in settings else ""  # the weights are the same for any number
    row = f"{family}:{path.name.split('.')[0]}"
    encoder = replace(_encoder(said, model, look, depth, has_cls, pooling, row, network.name, heads), frames=frames)
    rest = [*others, *(name for name in network.beside if name not in usual)]
    if not rest:
        return encoder
    also = f"'{network.name}' was taken; the file also has {some(rest)}"
    screen.say(f"note: {path.name}: {also}{f' (key={others[0]})' if others else ''}.", "yellow")
    source = f"{said[:-1]}; {also})"  # no part of the identity: the weights are the same
    return replace(encoder, source=source, config={**encoder.config, "source": source})


Built = tuple[nn.Module, int, int, bool]  # network, image size, depth, has CLS


def _plain(state: State, family: str, settings: dict[str, str], path: str) -> Built:
    """The families that are the shared ViT under other names."""
    state = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in state.items()}  # DINOv2's block chunks
    if any("mlp.w12" in k for k in state):
        raise UserError(f"'{path}' has SwiGLU blocks (DINOv2 giant), which the shared ViT has not. Use timm: for it.")
    dim, depth, patch = _sizes(state, "patch_embed.proj.weight", settings, path)
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
    cls, registers = "cls_token" in state, state["reg_token"].shape[1] if "reg_token" in state else 0
    places = _get(state, "pos_embed", path)
    if registers:  # they have no position of their own
        state["pos_embed"] = torch.cat([places[:, :1], places.new_zeros(1, registers, dim), places[:, 1:]], 1)
    size = patch * _side(places.shape[1] - cls, path)
    heads = int(settings.get("heads", 12 if family == "mocov3" and dim == 384 else HEADS.get(dim, max(1, dim // 64))))
    hidden = _get(state, "blocks.0.mlp.fc1.weight", path).shape[0]
    config = ViTConfig(
        dim, depth, heads, hidden / dim, patch, cls, registers, "learned", layer_scale=1e-5 * (family == "dinov2")
    )  # fmt: skip
    channels = state["patch_embed.proj.weight"].shape[1]
    model = fitted(lambda: ViT(config, square(size, channels)), state, f"'{path}' (read as {family})")
    return model, size, depth, cls


def _data2vec(state: State, family: str, settings: dict[str, str], path: str) -> Built:
    image = "modality_encoders.IMAGE."
    names = {
        "extra_tokens": "cls_token", "fixed_positional_encoder.positions": "pos_embed",
        "local_encoder.proj.weight": "patch_embed.proj.weight", "local_encoder.proj.bias": "patch_embed.proj.bias",
        "context_encoder.norm.weight": "norm_pre.weight", "context_encoder.norm.bias": "norm_pre.bias",
    }  # fmt: skip
    state = {names.get(k.removeprefix(image), k): v for k, v in state.items()}
    dim, depth, patch = _sizes(state, "patch_embed.proj.weight", settings, path)
    size = patch * _side(_get(state, "pos_embed", path).shape[1], path)
    heads = int(settings.get("heads", HEADS.get(dim, max(1, dim // 64))))
    source = f"'{path}' (read as {family})"
    model = fitted(lambda: data2vec_vit(dim, depth, heads, patch, size).model, state, source)
    return TimmBackbone(model), size, depth, True


def _capi(state: State, family: str, settings: dict[str, str], path: str) -> Built:
    names = {
        "encoder.blocks": "blocks", "decoder.blocks.0": "predictor",
        "residual1.norm": "norm1", "residual2.norm": "norm2", "residual1.fn.rope.freqs": "freqs",
        "residual1.fn.proj": "proj", "residual1.fn.q_proj": "q", "residual1.fn.k_proj": "k", "residual1.fn.v_proj": "v",
        "residual2.fn.": "",
    }  # fmt: skip
    for old, new in names.items():
        state = {k.replace(old, new): v for k, v in state.items()}
    dim, depth, patch = _sizes(state, "patch_embed.weight", settings, path)
    heads = dim // _get(state, "blocks.0.freqs", path).shape[1]
    registers = _get(state, "registers", path).shape[1]
    model = fitted(lambda: CapiViT(dim, depth, heads, patch, registers), state, f"'{path}' (read as {family})")
    return model, int(settings.get("size", 16 * patch)), depth, True


def _get(state: State, name: str, path: str) -> Tensor:
    if name not in state:
        raise UserError(
            f"'{path}' is not an encoder ssl-bench knows: '{name}' is missing. It has {', '.join(list(state)[:4])}."
        )
    return state[name]


def _sizes(state: State, weight: str, settings: dict[str, str], path: str) -> tuple[int, int, int]:
    """Width, depth, patch size."""
    shape = _get(state, weight, path).shape
    if len(shape) != 4:
        raise UserError(f"'{path}' is not an encoder ssl-bench knows: its {weight} is {list(shape)}.")
    dim, _, patch, across = shape
    asked = int(settings.get("patch", patch))
    if patch != across or asked != patch or int(settings.get("size", patch)) % patch:
        wanted = f"patch={asked}" if asked != patch else f"size={settings.get('size', 'square patches')}"
        raise UserError(f"'{path}' has patches of {patch} x {across} pixels, which does not fit {wanted}.")
    return dim, len({m[1] for k in state if (m := re.match(r"blocks\.(\d+)\.", k))}), patch


def _side(count: int, path: str) -> int:
    side = round(max(count, 0) ** 0.5)
    if side**2 != count or not side:
        raise UserError(f"'{path}' has positions for {count} patches, which is not a square grid.")
    return side


def _settings(name: str, *more: str) -> tuple[str, dict[str, str]]:
    """`base,key=value` -> base and the settings. The base of a file may hold commas, as in lr=0.1,wd=0/last.pth."""
    parts = name.split(",")
    there = [i for i in range(len(parts), 0, -1) if os.path.exists(",".join(parts[:i]))]
    base, rest = ",".join(parts[: (there or [1])[0]]), parts[(there or [1])[0] :]
    settings, known = dict(part.partition("=")[::2] for part in rest), (*COMMON, *more)
    for key, value in settings.items():
        right = {"key": value != "", "pooling": value in ("cls", "mean")}.get(key, value.isdigit() and int(value) > 0)
        if key not in known or not right:
            hint = "Write pooling=cls or pooling=mean." if key == "pooling" else nearest(key, known)
            raise UserError(f"'{key}={value}' is not a setting of '{base}'. {hint}")
    return base, settings


def _encoder(
    source: str, model: nn.Module, look: Look, depth: int, has_cls: bool, pooling: str, method: str = "",
    evaluated: str = "encoder", more: str = "",
) -> Encoder:  # fmt: skip
    if pooling == "cls" and not has_cls:
        raise UserError(f"'{source}' has no CLS token: leave pooling=cls out.")
    source += f", {more}" if more else ""
    digest = sha256(model)
    return Encoder(
        method or source, model.eval(), pooling or ("cls" if has_cls else "mean"), has_cls, depth, look.size,
        tuple(look.mean), tuple(look.std), digest, source, evaluated, look.resize or round(look.size * 256 / 224),
        look.interpolation,
        config={"method": method or source, "source": source, "seed": None},
        identity=hashlib.sha256(f"{source} {digest}".encode()).hexdigest()[:12],
        collapse={"flag": False, "reason": "", "rankme": None},
    )  # fmt: skip
