"""Published checkpoint files: read as data only, their family told by their keys.

The layouts of I-JEPA, MAE, DINO, iBOT, MoCo v3, DINOv2, data2vec 2.0 and CAPI; published.py builds their networks,
film_layouts.py those of V-JEPA, V-JEPA 2, V-JEPA 2.1 and VideoMAE.
Of a training checkpoint with several networks each is found, and one is chosen.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_bench.encoders import film_layouts
from ssl_bench.errors import UserError, first_line, nearest
from ssl_bench.training.checkpoint import refuse_bombs

State = dict[str, Tensor]
PATCHES = re.compile(r"(?<![^.])(patch_embed\.(proj\.)?weight|modality_encoders\.IMAGE\.local_encoder\.proj\.weight)$")
WRAPPERS = ("module", "_orig_mod")  # DDP, torch.compile
CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "network")  # names that say nothing of a network
AVERAGED = re.compile(r"(?<![^._])(target_encoder|teacher|ema)(?![^._])")  # an average of the weights that were trained
DROPPED = {  # what each family's file holds beside the encoder
    "ijepa": (),
    "mae": ("decoder_", "mask_token", "head."),
    "dino": ("head.", "masked_embed"),  # iBOT too
    "mocov3": ("head.",),
    "dinov2": ("mask_token", "head.", "dino_head.", "ibot_head."),
    "data2vec": ("modality_encoders.IMAGE.decoder.", "_ema", "shared_decoder."),
    "vjepa": (),
    "vjepa2": (),
    "vjepa21": ("patch_embed_img.", "img_mod_embed"),
    "videomae": ("decoder.", "encoder_to_decoder.", "mask_token"),
    "capi": tuple(f"decoder.blocks.{i}." for i in range(1, 100)),  # the predictor's first block pools
}


def read(path: Path) -> Any:
    """A .safetensors file or a torch checkpoint, as data: nothing in it is run."""
    if not path.is_file():
        raise UserError(f"There is no file '{path}'.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        refuse_bombs(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|global ([\w.]+)", str(error))
        what = f" ({found[1] or found[2]})" if found else ""
        raise UserError(
            f"'{path}' holds Python objects{what} that could run code when read, so it is refused. If you trust it, "
            "load it elsewhere and save the tensors alone with safetensors.torch.save_file."
        ) from None
    except Exception as error:  # damaged files make torch and safetensors raise many kinds
        raise UserError(f"'{path}' is not a readable checkpoint: {first_line(error)}") from error


@dataclass(frozen=True)
class Network:
    """One network of a file that looks like a ViT: it has a patch embedding."""

    path: tuple[str, ...]  # where it lies: keys of dictionaries, then the prefix of its weights, without wrappers
    state: State  # its weights without the prefix
    beside: tuple[str, ...]  # first names of what else lies in its dictionary; () where other networks do

    @property
    def name(self) -> str:
        """Short: `teacher` for model.teacher.backbone; `state_dict` for state_dict.backbone, `weights` for backbone."""
        telling = [part for part in self.path if part not in (*CONTAINERS, "backbone")]
        return ".".join(telling) or next((part for part in self.path if part in CONTAINERS), "weights")

    def is_called(self, key: str) -> bool:
        return key == self.name or f".{key}." in f".{'.'.join(self.path)}."


def identify(data: Any, key: str | None, path: str) -> tuple[str, Network, list[str]]:
    """Family, the network that is evaluated, and what the file's other networks are called (for `key=`)."""
    if not isinstance(data, dict):
        raise UserError(f"'{path}' holds a {type(data).__name__}, not a dictionary of weights.")
    found = networks(data)
    if not found:
        raise UserError(_unknown(data, path))
    chosen = _chosen(found, key, path)
    if any(v.numel() * v.element_size() > v.untyped_storage().nbytes() for v in chosen.state.values()):
        raise UserError(f"'{path}' holds weights that are larger than the file, which no published one does.")
    return _family(chosen), chosen, [_full(n) for n in found if n is not chosen]


def networks(data: dict[Any, Any]) -> list[Network]:
    """The networks of a file: in its dictionaries of tensors, two levels deep, one for each patch embedding in them."""
    found = []
    for where, tensors in _parts(data):
        prefixes = [k[: m.start()] for k in tensors if (m := PATCHES.search(k))]
        whose = {k: max((p for p in prefixes if k.startswith(p)), key=len, default=None) for k in tensors}
        beside = (
            ()
            if len(prefixes) > 1
            else tuple(sorted({(_plain(k) or [k])[0] for k, prefix in whose.items() if prefix is None}))
        )
        for prefix in prefixes:
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if whose[k] == prefix}
            found.append(Network((*where, *_plain(prefix)), state, beside))
    return found


def _parts(data: dict[Any, Any], where: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], State]]:
    """(keys, the tensors there) of a dictionary and of those in it, but an optimizer's."""
    tensors = {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}
    out = [(where, tensors)] if tensors else []
    for key, value in data.items():
        if isinstance(key, str) and isinstance(value, dict) and len(where) < 2 and not key.startswith("opt"):
            out += _parts(value, (*where, key))
    return out


def _plain(name: str) -> list[str]:
    """The parts of a weight's name or prefix, without those of DDP and torch.compile."""
    return [part for part in name.split(".") if part and part not in WRAPPERS]


def _chosen(found: list[Network], key: str | None, path: str) -> Network:
    """By `key`; else the only one; else the one that is evaluated by custom (see published.py); else a sentence."""
    names = [_full(n) for n in found]
    several = f"'{path}' holds {len(found)} networks: {some(names)}. Say which with key=, such as key={names[0]}."
    if key is not None:
        called = [n for n in found if key == _full(n)] or [n for n in found if n.is_called(key)]
        if not called:
            raise UserError(f"'{path}' has no network '{key}'. {nearest(key, [*names, *(n.name for n in found)])}")
        if len(called) > 1:
            raise UserError(f"'{path}' has {len(called)} networks called '{key}'. {several}")
        return called[0]
    if len(found) == 1:
        return found[0]
    if {n.name for n in found} == {"base_encoder", "momentum_encoder"}:  # MoCo v3
        return next(n for n in found if n.name == "base_encoder")
    if (
        len(trained := [n for n in found if "_ema" not in n.path]) == 1
    ):  # fairseq's data2vec 2.0 keeps its teacher there
        return trained[0]
    averaged = [n for n in found if AVERAGED.search(".".join(n.path))]
    if len(averaged) != 1:
        raise UserError(several)
    return averaged[0]


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of the names: a file may hold any number."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _full(network: Network) -> str:
    return ".".join(network.path) or "weights"


def _family(network: Network) -> str:
    keys = network.state
    if of_clips := film_layouts.family(keys):
        return of_clips
    if any("residual1.fn.q_proj" in k for k in keys):
        return "capi"
    if any(k.startswith("modality_encoders.IMAGE.") for k in keys):
        return "data2vec"
    if network.name == "base_encoder":
        return "mocov3"
    if network.name in ("target_encoder", "encoder"):
        return "ijepa"
    if any(k.endswith("ls1.gamma") for k in keys):
        return "dinov2"
    return "mae" if network.name in ("model", "model_ema") else "dino"


def _unknown(data: dict[Any, Any], path: str) -> str:
    """What a file has instead of a ViT."""
    found: dict[str, list[str]] = {}
    for where, tensors in _parts(data):
        for name in tensors:
            first = ".".join([*where, (_plain(name) or [name])[0]])
            found.setdefault(first, []).append(name)
    if not found:
        return f"'{path}' holds no weights: there is no tensor in its dictionaries, two levels deep."
    resnets = [first for first, names in found.items() if any("layer1.0.conv1." in name for name in names)]
    what = f" ({some(resnets)}: ResNets, which are no ViT)" if resnets else ""
    return (
        f"'{path}' is not an encoder ssl-bench knows: no part of it has a ViT's patch_embed.proj.weight. "
        f"It has {some(list(found))}{what}."
    )
