"""Published checkpoint files: read as data only, their family told by their keys.

The layouts of I-JEPA, MAE, DINO, iBOT, MoCo v3, DINOv2, data2vec 2.0 and CAPI; official.py builds their networks.
"""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_bench.errors import UserError, first_line, nearest
from ssl_bench.training.checkpoint import refuse_bombs

State = dict[str, Tensor]
DROPPED = {  # what each family's file holds beside the encoder
    "ijepa": (),
    "mae": ("decoder_", "mask_token", "head."),
    "dino": ("head.", "masked_embed"),  # iBOT too
    "mocov3": ("head.",),
    "dinov2": ("mask_token", "head.", "dino_head.", "ibot_head."),
    "data2vec": ("modality_encoders.IMAGE.decoder.", "_ema", "shared_decoder."),
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


def identify(data: Any, key: str | None, path: str) -> tuple[str, State, str]:
    """Family, weights without wrappers' prefixes, and which network of the file they are."""
    if not isinstance(data, dict):
        raise UserError(f"'{path}' holds a {type(data).__name__}, not a dictionary of weights.")
    nested = [k for k, v in data.items() if isinstance(v, dict) and any(isinstance(t, Tensor) for t in v.values())]
    if key is not None and key not in nested:
        raise UserError(f"'{path}' has no part '{key}'. {nearest(key, nested) if nested else 'It has no parts.'}")
    order = ("target_encoder", "teacher", "model", "state_dict", "encoder", "student")
    chosen = key or next((k for k in order if k in nested), "")
    state = {k: v for k, v in (data[chosen] if chosen else data).items() if isinstance(v, Tensor)}
    if any(v.numel() * v.element_size() > v.untyped_storage().nbytes() for v in state.values()):
        raise UserError(f"'{path}' holds weights that are larger than the file, which no published one does.")
    if any("momentum_encoder." in k for k in state):
        state = {k: v for k, v in state.items() if "base_encoder." in k}
        return "mocov3", _strip(state, "module.", "base_encoder."), "base_encoder"
    capi = any("residual1.fn.q_proj" in k for k in state)
    if capi:
        state = {k: v for k, v in state.items() if k.startswith("backbone.")} or state
    state = _strip(state, "module.", "backbone.")
    if capi:
        family = "capi"
    elif any(k.startswith("modality_encoders.IMAGE.") for k in state):
        family = "data2vec"
    elif chosen in ("target_encoder", "encoder"):
        family = "ijepa"
    elif any(k.endswith("ls1.gamma") for k in state):
        family = "dinov2"
    else:
        family = "mae" if chosen == "model" else "dino"
    return family, state, chosen or "weights"


def _strip(state: State, *prefixes: str) -> State:
    for prefix in prefixes:
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
