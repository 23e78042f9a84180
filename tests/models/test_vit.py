"""The shared ViT: timm's weights both ways, any subset of positions, other grids."""

from __future__ import annotations

import pytest
import timm
import torch

from ssl_bench.config.schema import ViTConfig, vit
from ssl_bench.data.images import square
from ssl_bench.errors import UserError
from ssl_bench.models.positions import sincos_2d
from ssl_bench.models.tokenizer import patchify
from ssl_bench.models.vit import DropPath, ViT, block_flops, to_timm


def small(**changes: object) -> ViT:
    torch.manual_seed(0)
    return ViT(vit("toy_patch8", **changes), square(32)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("registers", [0, 4])
def test_same_outputs_in_timm(cls: bool, registers: int) -> None:
    model = small(class_token=cls, reg_tokens=registers, pos_embed="learned")
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(images), to_timm(model).eval().forward_features(images), atol=1e-5)


def test_timm_weights_load_into_ours_and_back() -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    ours = ViT(vit("vit_tiny_patch16", pos_embed="learned"), square(64)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(images), theirs.forward_features(images), atol=1e-5)
    again = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.forward_features(images), theirs.forward_features(images))


def test_positions_match_mae_and_ijepa() -> None:
    """reference/methods.md, section 0, fact 14: grid 3, D 16; the first half of the channels is the column."""
    pe = sincos_2d(16, (3, 3))
    values = [pe[1, 0], pe[1, 8], pe[3, 0], pe[3, 8]]
    assert torch.allclose(torch.stack(values), torch.tensor([0.84147, 0.0, 0.0, 0.84147]), atol=1e-5)


def test_a_subset_of_positions_is_what_attention_over_that_subset_gives() -> None:
    """One block: the kept tokens alone. Dropped patches must not reach the result, so changing them changes nothing."""
    model = small()
    images = torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 5, 10], [3, 4, 15]])
    changed = images.clone()
    changed[0, :, 24:, 24:] += 1.0  # patch 15 of image 0, which is dropped there
    assert torch.equal(model(images, keep)[0], model(changed, keep)[0])
    assert not torch.equal(model(images, keep)[1], model(images + 1.0, keep)[1])
    everything = torch.arange(16).expand(2, -1)
    assert torch.allclose(model(images, everything), model(images), atol=1e-6)


def test_masked_patches_carry_no_pixels() -> None:
    model = small()
    images, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 15] = True
    changed = images.clone()
    changed[0, :, 24:, 24:] += 1.0
    token = torch.zeros(1, 1, 64)
    assert torch.equal(model(images, mask=mask, mask_token=token), model(changed, mask=mask, mask_token=token))


def test_smaller_crops_interpolate_positions() -> None:
    model = small()
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5, 64)
    assert model.positions((4, 4)) is model.pos_embed


def test_intermediate_layers() -> None:
    model = small()
    images = torch.randn(2, 3, 32, 32)
    first, last = model.layers(images, [0, -1])
    assert torch.equal(last, model(images)) and not torch.equal(first, last)


def test_patchify_is_the_convolution() -> None:
    model = small()
    images = torch.randn(2, 3, 32, 32)
    conv = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    assert torch.allclose(model.patch_embed(images), conv, atol=1e-5)
    assert patchify(images, 8).shape == (2, 16, 192)


def test_flops_of_known_models() -> None:
    """reference/protocols.md, section 5, forward GMAC at 224: S/16 4.60, B/16 17.56, L/16 61.55, H/14 167.29."""
    for name, macs in (
        ("vit_small_patch16", 4.60),
        ("vit_base_patch16", 17.56),
        ("vit_large_patch16", 61.55),
        ("vit_huge_patch14", 167.29),
    ):
        c = vit(name, class_token=False)
        n = (224 // c.patch_size) ** 2
        flops = 2 * n * c.embed_dim * 3 * c.patch_size**2 + block_flops(n, c.embed_dim, c.depth)
        assert flops / 2e9 == pytest.approx(macs, rel=0.006)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="divisible"):
        ViT(ViTConfig(embed_dim=100, num_heads=3), square(32))
    with pytest.raises(UserError, match="vit_small"):
        vit("vit_smal_patch4")


def test_stochastic_depth_grows_or_is_uniform() -> None:
    def rates(**changes: object) -> list[float]:
        model = ViT(vit("mini_patch8", **changes), square(32))  # type: ignore[arg-type]
        return [m.rate for m in model.modules() if isinstance(m, DropPath)][::2]

    assert rates(drop_path=0.25) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25])  # the first block keeps all
    assert rates(drop_path=0.25, drop_path_uniform=True) == [0.25] * 6
