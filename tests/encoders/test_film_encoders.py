"""Networks of clips in their published layouts, built from random weights: the same tokens, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_bench.config.schema import DataConfig, ViTConfig
from ssl_bench.data.clips import Clips
from ssl_bench.encoders import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate
from ssl_bench.models.vit import ViT

DIM, DEPTH, PATCH, FRAMES, SIZE = 48, 4, 8, 4, 16
POSITIONS = {"vjepa": "sincos", "vjepa2": "rope_tiled", "vjepa21": "rope", "videomae": "sincos_1d"}
CLIPS = torch.randint(0, 256, (2, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
State = dict[str, Tensor]


def network(family: str) -> ViT:
    torch.manual_seed(0)
    rotary = family == "vjepa21"
    config = ViTConfig(
        DIM, DEPTH, 2, 4.0, PATCH, False, 0, POSITIONS[family], rope_grid=256 // PATCH * rotary  # type: ignore[arg-type]
    )  # fmt: skip
    vit = ViT(config, Clips(FRAMES, SIZE, SIZE))
    for name, p in vit.named_parameters():
        if name != "pos_embed":
            nn.init.normal_(p, std=0.2)
    if family == "videomae":
        for block in vit.blocks:
            block.attn.qkv.bias.data[DIM : 2 * DIM] = 0  # keys have none
    return vit.eval()


def published(vit: ViT, family: str) -> dict[str, dict[str, Tensor]]:
    """The file's content as the official code writes it."""
    state: State = {k: v.clone() for k, v in vit.state_dict().items()}
    if family != "vjepa":
        del state["pos_embed"]
    if family == "videomae":
        for i in range(DEPTH):
            bias = state.pop(f"blocks.{i}.attn.qkv.bias")
            state |= {f"blocks.{i}.attn.q_bias": bias[:DIM], f"blocks.{i}.attn.v_bias": bias[2 * DIM :]}
        more = {"decoder.blocks.0.norm1.weight": torch.ones(3), "encoder_to_decoder.weight": torch.ones(3, DIM)}
        return {"model": {f"encoder.{k}": v for k, v in state.items()} | more | {"mask_token": torch.zeros(1, 1, 3)}}
    if family == "vjepa21":
        vector = torch.randn(1, 1, DIM)
        state["patch_embed.proj.bias"] -= vector.flatten()
        last = {part: state.pop(f"norm.{part}") for part in ("weight", "bias")}
        state |= {f"norms_block.{i}.{part}": v + 3 - i for i in range(4) for part, v in last.items()}
        state |= {"video_mod_embed": vector, "img_mod_embed": torch.randn(1, 1, DIM)}
        state |= {"patch_embed_img.proj.weight": torch.zeros(DIM, 3, 1, PATCH, PATCH)}
        state |= {"patch_embed_img.proj.bias": torch.zeros(DIM)}
    own = {f"module.backbone.{k}": v for k, v in state.items()}
    other = {k: torch.zeros_like(v) for k, v in own.items()}
    predictor = {"module.backbone.predictor_embed.weight": torch.zeros(3, DIM)}
    return {"encoder": other, "target_encoder": own, "predictor": predictor}


@pytest.mark.parametrize("family", POSITIONS)
def test_published_networks_of_clips_give_their_own_tokens(family: str, tmp_path: Path):
    vit = network(family)
    torch.save(published(vit, family), tmp_path / "net.pth")
    source = f"file:{tmp_path}/net.pth,heads=2,size={SIZE},frames={FRAMES}"
    encoder = resolve.resolve(source, tmp_path)
    with torch.no_grad():
        found = encoder.encode(CLIPS, want_tokens=True)["tokens"]
        assert torch.allclose(found, vit(encoder.prepare(CLIPS)), atol=1e-5)
    assert encoder.method == f"{family}:net" and encoder.frames == encoder.entry["frames"] == FRAMES
    assert f"clips of {FRAMES} frames of {SIZE} px" in encoder.source and encoder.pooling == "mean"
    data = DataConfig("movingphotos:0:120", image_size=24, frames=FRAMES, val_fraction=0.2)
    record = evaluate.evaluate(source, "knn", data, tmp_path)
    assert record.encoder["frames"] == FRAMES and "top1, reversed" in record.metrics


def test_other_frames_and_pixels_move_the_positions(tmp_path: Path):
    """A table of 16 frames of 16 px serves 8 frames of 32 px."""
    torch.manual_seed(0)
    vit = ViT(ViTConfig(DIM, DEPTH, 2, 4.0, PATCH, False, 0), Clips(16, SIZE, SIZE))
    torch.save(published(vit, "vjepa"), tmp_path / "net.pth")
    encoder = resolve.resolve(f"file:{tmp_path}/net.pth,heads=2,size=32,frames=8", tmp_path)
    clips = torch.randint(0, 256, (1, 8, 3, 32, 32), dtype=torch.uint8)
    tokens = encoder.encode(clips, want_tokens=True)["tokens"]
    assert tokens.shape == (1, 4 * 4 * 4, DIM)
    with pytest.raises(UserError, match="takes clips of 8 frames, and these are clips of 4 frames"):
        encoder.encode(CLIPS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.pop("module.backbone.blocks.1.attn.proj.bias"), "missing: blocks.1.attn.proj.bias"),
        (lambda s: s.update({"module.backbone.more": torch.zeros(2)}), "left over: more"),
        (lambda s: s.update({"module.backbone.norm.weight": torch.full((DIM,), torch.nan)}), "not finite"),
        (lambda s: s.update({"module.backbone.pos_embed": torch.zeros(1, 7, DIM)}), "positions for 7 tokens"),
    ],
)
def test_what_does_not_fit_is_named(change, why: str, tmp_path: Path):
    content = published(network("vjepa"), "vjepa")
    change(content["target_encoder"])
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=why):
        resolve.resolve(f"file:{tmp_path}/net.pth,heads=2,size={SIZE},frames={FRAMES}", tmp_path)


def test_frames_that_do_not_fit_are_refused(tmp_path: Path):
    torch.save(published(network("vjepa2"), "vjepa2"), tmp_path / "net.pth")
    with pytest.raises(UserError, match="tubelets of 2 frames and 8 px: size=16,frames=5 do not fit"):
        resolve.resolve(f"file:{tmp_path}/net.pth,size=16,frames=5", tmp_path)
    torch.save({"model": {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}}, tmp_path / "image.pth")
    with pytest.raises(UserError, match="frames= has no effect"):
        resolve.resolve(f"file:{tmp_path}/image.pth,frames=4", tmp_path)
