"""Positions, rotary attention, encoder and predictor of clips, held against values of the official code.

Values: V-JEPA `51c59d5`, V-JEPA 2 `c2963a4`, V-JEPA 2.1 `be434e4` and VideoMAE `14ef8d8`, run with torch 2.15.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sines import sines
from torch import Tensor

from ssl_bench.config.schema import ViTConfig, vit
from ssl_bench.data.clips import Clips
from ssl_bench.data.images import square
from ssl_bench.errors import UserError
from ssl_bench.models.positions import flat_table, sincos_3d
from ssl_bench.models.predictor import Predictor
from ssl_bench.models.rotary import RotaryAttention, angle_table, turn
from ssl_bench.models.tokenizer import gather, tubelets
from ssl_bench.models.vit import ViT, timm_args


def close(found: Tensor, *values: float) -> None:
    assert torch.allclose(found.double().flatten(), torch.tensor(values, dtype=torch.float64), atol=1e-5), found


def test_3d_sincos_in_both_splits():
    half, even = (sincos_3d(16, (2, 3, 3), uniform) for uniform in (False, True))
    assert float(half.double().sum()) == pytest.approx(147.244111, abs=1e-5)
    close(half[1], 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0.841471, 0.010000, 0.540302, 0.999950)
    close(half[3, 8:12], 0.841471, 0.010000, 0.540302, 0.999950)
    close(half[9, :8], 0.841471, 0.099833, 0.010000, 0.001000, 0.540302, 0.995004, 0.999950, 1.0)
    assert float(even.double().sum()) == pytest.approx(130.076681, abs=1e-5)
    close(even[1, 12:], 0.841471, 0.046399, 0.002154, 0.540302)  # the column's six channels, cut to four
    close(even[9, :6], 0.841471, 0.046399, 0.002154, 0.540302, 0.998923, 0.999998)
    for uniform, total, one in ((False, 24684.281924, 0.213781), (True, 24400.168255, 0.950415)):
        table = sincos_3d(192, (4, 8, 8), uniform)
        assert float(table.double().sum()) == pytest.approx(total, abs=1e-3)
        close(table[77, 100], one)


def test_videomae_numbers_tokens_in_one_row():
    table = flat_table(16, 12)
    assert float(table.double().sum()) == pytest.approx(83.195999, abs=1e-5)
    close(table[1, :6], 0.841471, 0.540302, 0.310984, 0.950415, 0.099833, 0.995004)
    close(table[11, :4], -0.999990, 0.004426, -0.330575, -0.943780)
    close(flat_table(384, 1568)[[1567, 800], [100, 301]], -0.837687, 0.825383)


def line(form: str) -> Tensor:
    """Angles [4, 8] of four places on one axis that fills the head."""
    return angle_table((4, 1, 1), 24, form)[:, :8]


@pytest.mark.parametrize(("form", "total", "size", "token"), [
    ("rope_tiled", -0.410390, 17.525108,
     (0.183687, -0.906108, -0.232749, 0.228938, -0.083480, 0.410020, 0.067442, -0.491292)),
    ("rope", 0.646326, 18.806536,
     (0.183687, -1.226205, -0.252196, 0.205015, 0.417697, 0.373991, 0.063023, -0.491292)),
])  # fmt: skip
def test_turned_queries(form, total, size, token):
    found = turn(sines(1, 1, 1, 4, 8), line(form))
    close(torch.stack([found.sum(), found.abs().sum()]), total, size)
    close(found[0, 0, 1], *token)


def test_only_the_interleaved_form_keeps_norms_and_scores_by_offset():
    q, k = sines(1, 1, 1, 1, 8), sines(2, 1, 1, 1, 8)

    def score(form: str, a: int, b: int) -> float:
        angles = line(form)
        return float((turn(q, angles[a]) * turn(k, angles[b])).sum())

    assert score("rope", 0, 2) == pytest.approx(score("rope", 1, 3), abs=1e-6)
    assert score("rope_tiled", 0, 2) != pytest.approx(score("rope_tiled", 1, 3), abs=1e-2)
    assert torch.allclose(turn(q, line("rope")[3]).norm(), q.norm())
    assert not torch.allclose(turn(q, line("rope_tiled")[3]).norm(), q.norm(), atol=1e-2)


@pytest.mark.parametrize(("form", "like", "full", "kept"), [
    ("rope_tiled", 0, (-10.883579, 235.956436, -0.378432, 0.145756, 0.436682, 0.153660),
     (-5.499814, 144.198853, 0.056213, 0.271454, -0.032533, 0.120074)),
    ("rope", 0, (-9.548626, 252.436508, -0.151975, -0.292226, 0.424953, -0.025437),
     (-12.814346, 144.711655, 0.399500, 0.207409, -0.129660, 0.398023)),
    ("rope", 16, (-11.515441, 254.797882, -0.193837, 0.204743, 0.240882, -0.301457),
     (-11.574473, 149.319565, 0.344594, 0.273660, -0.093440, 0.373178)),
])  # fmt: skip
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_rotary_attention(form, like, full, kept, fused):
    attention = RotaryAttention(32, num_heads=2, qkv_bias=True)
    attention.fused_attn = fused  # type: ignore[misc]
    for value, weight in (
        (attention.qkv.weight, 0.3 * sines(11, 96, 32)), (attention.qkv.bias, 0.1 * sines(12, 96)),
        (attention.proj.weight, 0.3 * sines(13, 32, 32)), (attention.proj.bias, torch.zeros(32)),
    ):  # fmt: skip
        value.copy_(weight)
    angles, keep = angle_table((2, 2, 3), 16, form, like), torch.tensor([[0, 3, 5, 7, 11], [1, 2, 6, 8, 10]])
    for found, expected in (
        (attention(sines(14, 2, 12, 32), angles), full),
        (attention(sines(15, 2, 5, 32), angles[keep][:, None]), kept),
    ):
        close(torch.cat([found.sum()[None], found.abs().sum()[None], found[1, -1, :4]]), *expected)


@pytest.mark.parametrize(
    ("channels", "each"), [(64, 20), (32, 10), (16, 4), (24, 8), (48, 16), (96, 32), (80, 26), (88, 28)]
)
def test_the_three_axes_share_a_head(channels: int, each: int) -> None:
    table = angle_table((2, 2, 2), channels, "rope")
    assert (table[7, : 3 * each] > 0).all() and (table[:, 3 * each :] == 0).all()


def filled(parameters: list[tuple[Tensor, int]], scale: float = 0.2) -> None:
    for parameter, seed in parameters:
        parameter.copy_(scale * sines(seed, *parameter.shape))


def block_seeds(module: object, first: int) -> list[tuple[Tensor, int]]:
    """Weights of two blocks: qkv, projection, both layers of the MLP, with their numbers."""
    found = []
    for i, block in enumerate(module.blocks):  # type: ignore[attr-defined]
        start = first + 12 * i
        weights = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        found += [(m.weight, start + n) for m, n in zip(weights, (0, 2, 6, 8), strict=True)]
    return found


@torch.no_grad()
def test_vjepa2s_encoder_predictor_and_loss():
    shape = ViTConfig(24, 2, 2, patch_size=8, class_token=False, pos_embed="rope_tiled")
    model = ViT(shape, Clips(4, 16, 16)).eval()
    filled([(model.patch_embed.proj.weight, 60), *block_seeds(model, 64)])
    clips = sines(20, 2, 3, 4, 16, 16).transpose(1, 2)  # theirs are [B, C, T, H, W]
    full, keep = model(clips), torch.tensor([[0, 3, 5], [1, 2, 6]])
    context = model(clips, keep)
    assert float(full.abs().sum()) == pytest.approx(309.407196, abs=1e-3)
    close(full[1, 7, :4], 1.639152, 0.069608, -0.457967, 0.194205)
    assert float(context.abs().sum()) == pytest.approx(111.340874, abs=1e-3)
    close(context[1, 2, :4], 0.066460, 1.577037, -0.075812, -0.162120)

    predictor = Predictor(model, 24, 2, 2, mask_tokens=2).eval()
    filled([(predictor.embed.weight, 120), *block_seeds(predictor, 126), (predictor.head.weight, 150)])
    filled([(predictor.mask_token[0], 122), (predictor.mask_token[1], 123)])
    targets = torch.tensor([[1, 2, 4, 6, 7], [0, 3, 4, 5, 7]])
    for which, total, values in (
        (0, 33.716637, (-0.098934, -0.282970, -0.410730, 0.814141)),
        (1, 6.240521, (0.600619, -0.759855, 0.598565, 0.663142)),
    ):
        found = predictor(context, keep, targets[:, None], which=which)[:, 0]
        assert float(found.sum()) == pytest.approx(total, abs=1e-4)
        close(found[1, 4, :4], *values)
    predicted = predictor(context, keep, targets[:, None])[:, 0]
    loss = (predicted - gather(F.layer_norm(full, (24,)), targets)).abs().mean()
    assert float(loss) == pytest.approx(0.869398, abs=1e-5)


@pytest.mark.parametrize("pos_embed", ["sincos", "sincos_half", "sincos_1d", "learned", "rope", "rope_tiled"])
def test_the_order_of_kept_tubelets_changes_nothing(pos_embed: str) -> None:
    torch.manual_seed(0)
    model = ViT(vit("toy_patch8", pos_embed=pos_embed), Clips(4, 16, 16)).eval()
    clips, keep = torch.randn(2, 4, 3, 16, 16), torch.tensor([[0, 3, 5], [1, 2, 6]])
    assert torch.allclose(model(clips, keep)[:, 1:].flip(1), model(clips, keep.flip(1))[:, 1:], atol=1e-5)
    assert torch.allclose(model(clips, torch.arange(8).expand(2, -1)), model(clips), atol=1e-5)
    assert torch.allclose(model.layers(clips, [-1])[0], model(clips))


def test_a_repeated_frame_gives_tokens_that_differ_by_their_time_alone():
    torch.manual_seed(0)
    model = ViT(vit("toy_patch8", class_token=False), Clips(4, 16, 16))
    still = torch.randn(1, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    x = model.embed(still) - model.pos_embed
    assert torch.allclose(x[:, :4], x[:, 4:], atol=1e-6) and not torch.equal(
        model.pos_embed[0, 0], model.pos_embed[0, 4]
    )


def test_tubelets_are_what_a_convolution_sees():
    model = ViT(vit("toy_patch8", tubelet=4, class_token=False), Clips(8, 16, 24))
    clips = torch.randn(2, 8, 3, 16, 24)
    theirs = model.patch_embed.proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
    assert torch.allclose(model.patch_embed(clips), theirs, atol=1e-5)
    assert tubelets(clips, 4, 8).shape == (2, 12, 3 * 4 * 64) and model.grid == (2, 2, 3)


def test_other_lengths_and_sizes_interpolate_or_turn_further():
    clips = torch.randn(1, 8, 3, 32, 32)
    for pos_embed in ("sincos", "rope"):
        model = ViT(vit("toy_patch8", pos_embed=pos_embed), Clips(4, 16, 16))
        assert model(clips).shape == (1, 1 + 4 * 4 * 4, 64)
    table = ViT(vit("toy_patch8"), Clips(4, 16, 16)).positions((4, 4, 4))[0, 1:].unflatten(0, (4, 4, 4))
    assert torch.allclose(table[1:3, 0, 0].mean(0), table[:, 0, 0].mean(0), atol=1e-2)


def test_one_frame_is_an_image():
    model = ViT(vit("toy_patch8", tubelet=1, class_token=False), Clips(1, 16, 16))
    assert model.grid == (1, 2, 2) and model(torch.randn(2, 1, 3, 16, 16)).shape == (2, 4, 64)
    flat, deep = angle_table((2, 2), 24, "rope"), angle_table((1, 2, 2), 24, "rope")
    assert torch.equal(flat, deep)


def test_settings_without_effect_or_sense_are_refused():
    with pytest.raises(UserError, match=r"backbone.tubelet .* no effect on images"):
        ViT(vit("toy_patch8", tubelet=4), square(16))
    with pytest.raises(UserError, match="5 frames cannot be joined in tubelets of 2"):
        ViT(vit("toy_patch8"), Clips(5, 16, 16))
    with pytest.raises(UserError, match="images have none"):
        ViT(vit("toy_patch8", pos_embed="sincos_half"), square(16))
    with pytest.raises(UserError, match="rope_grid has no effect"):
        vit("toy_patch8", rope_grid=16).check()
    with pytest.raises(UserError, match="timm's ViT has no clips"):
        timm_args(ViT(vit("toy_patch8"), Clips(4, 16, 16)))
    model = ViT(vit("toy_patch8", pos_embed="rope"), square(16))
    with pytest.raises(UserError, match="gives them no rotary positions"):
        model.encode(model.embed(torch.randn(1, 3, 16, 16)))
