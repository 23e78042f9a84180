"""Published networks of clips as the shared ViT: V-JEPA, V-JEPA 2, V-JEPA 2.1, VideoMAE.

Names and shapes are those of facebookresearch/jepa and vjepa2 (src/models/vision_transformer.py, app/vjepa_2_1/models)
and of MCG-NJU/VideoMAE (modeling_pretrain.py). Their patch embedding is a convolution over time too: [D, C, t, p, p].

    vjepa      fixed positions in the file, for 16 frames; other frames or pixels interpolate them (there, fewer frames
               of the same size take the first ones)
    vjepa2     rotary positions as released (`rope_tiled`): no position in the file
    vjepa21    rotary positions (`rope`), spread as on 256 px; its last level's norm is the final one, its vector for
               films is added to the patch embedding's bias; what it has for images and lower levels is left out
    videomae   no bias of keys (0 here); the table of positions is no weight: it is made for the frames and pixels asked
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from ssl_bench.config.schema import HEADS, ViTConfig
from ssl_bench.data.clips import Clips
from ssl_bench.encoders.encoder import fitted
from ssl_bench.errors import UserError
from ssl_bench.models.positions import sincos
from ssl_bench.models.vit import ViT

State = dict[str, Tensor]
FAMILIES = ("vjepa", "vjepa2", "vjepa21", "videomae")
PIXELS = {"vjepa": 224, "vjepa2": 256, "vjepa21": 256, "videomae": 224}  # of the released networks, and 16 frames
POSITIONS = {"vjepa": "sincos", "vjepa2": "rope_tiled", "vjepa21": "rope", "videomae": "sincos_1d"}
WIDE = {1408: 22, 1664: 26}  # heads of the released rotary giants
TRAINED = 256  # pixels whose grid 2.1's rotary positions are spread as on (`interpolate_rope`)


def family(state: State) -> str:
    """Which of `FAMILIES` these weights are; "" where their patches have no time."""
    if state["patch_embed.proj.weight"].ndim != 5 if "patch_embed.proj.weight" in state else True:
        return ""
    if any(name.startswith("norms_block.") for name in state):
        return "vjepa21"
    if any(name.endswith(".attn.q_bias") for name in state):
        return "videomae"
    return "vjepa" if "pos_embed" in state else "vjepa2"


def build(state: State, which: str, settings: dict[str, str], path: str) -> tuple[nn.Module, int, int, int]:
    """The network, its pixels per side, its number of blocks and the frames of its clips."""
    dim, channels, tubelet, patch, across = state["patch_embed.proj.weight"].shape
    if patch != across or int(settings.get("patch", patch)) != patch:
        raise UserError(f"'{path}' has patches of {patch} x {across} pixels, which does not fit what was asked for.")
    size, frames = int(settings.get("size", PIXELS[which])), int(settings.get("frames", 16))
    if size % patch or frames % tubelet:
        raise UserError(
            f"'{path}' has tubelets of {tubelet} frames and {patch} px: size={size},frames={frames} do not fit."
        )
    depth = len({m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))})
    usual = WIDE.get(dim, 0) if which in ("vjepa2", "vjepa21") else 0
    heads = int(settings.get("heads", usual or HEADS.get(dim, max(1, dim // 64))))
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in state else 4 * dim
    config = ViTConfig(
        dim, depth, heads, hidden / dim, patch, False, 0, POSITIONS[which], tubelet=tubelet,  # type: ignore[arg-type]
        rope_grid=TRAINED // patch if which == "vjepa21" else 0,
    )  # fmt: skip
    native = Clips(frames, size, size, channels)
    if which == "vjepa":
        native = _trained(state["pos_embed"].shape[1], native, patch, tubelet, path)
    else:
        grid = native.grid(patch, tubelet)
        table = sincos(dim, grid, "sincos_1d") if which == "videomae" else torch.zeros(math.prod(grid), dim)
        state = {**state, "pos_embed": table[None]}
    state = {"videomae": _videomae, "vjepa21": _vjepa21}.get(which, dict)(state)
    model = fitted(lambda: ViT(config, native), state, f"'{path}' (read as {which})")
    return model, size, depth, frames


def _trained(tokens: int, asked: Clips, patch: int, tubelet: int, path: str) -> Clips:
    """The clips that a table of positions was made for: those asked for if their number fits, else 16 square frames."""
    if math.prod(asked.grid(patch, tubelet)) == tokens:
        return asked
    side = math.isqrt(tokens * tubelet // 16)
    if side * side * 16 != tokens * tubelet or not side:
        raise UserError(
            f"'{path}' has positions for {tokens} tokens, which is no clip of 16 square frames, nor one of "
            f"size={asked.height},frames={asked.frames}: say with size= and frames= what it was trained on."
        )
    return Clips(16, side * patch, side * patch, asked.bands)


def _videomae(state: State) -> State:
    """Queries and values have a bias, keys none."""
    out = {name: value for name, value in state.items() if not name.endswith(("q_bias", "v_bias"))}
    for name in [n for n in state if n.endswith("attn.q_bias")]:
        first, last = state[name], state.get(name.replace("q_bias", "v_bias"))
        if last is not None:
            out[name.replace("q_bias", "qkv.bias")] = torch.cat([first, torch.zeros_like(first), last])
    return out


def _vjepa21(state: State) -> State:
    """The final norm is that of the last level; the vector for films goes into the patch embedding's bias."""
    norms = sorted({int(m[1]) for name in state if (m := re.match(r"norms_block\.(\d+)\.", name))})
    out = {name: value for name, value in state.items() if not name.startswith(("norms_block.", "video_mod_embed"))}
    out |= {f"norm.{part}": state[f"norms_block.{norms[-1]}.{part}"] for part in ("weight", "bias")}
    if "video_mod_embed" in state:
        out["patch_embed.proj.bias"] = state["patch_embed.proj.bias"] + state["video_mod_embed"].flatten()
    return out
