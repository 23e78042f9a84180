"""The block whose bf16 pass on a CPU is written out: as near to fp32 as timm's, and timm's own everywhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_bench.models import timm_parts
from ssl_bench.models.block import SAFE, Block
from ssl_bench.models.vit import DropPath, blocks, explicit_attention, init_weights


def pair(dim: int = 32, heads: int = 2, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """timm's block and ours with the same weights, biases and norms among them drawn at random."""
    torch.manual_seed(0)
    made = blocks(dim, 1, heads, kind=timm_parts.Block, **settings)
    init_weights(made)
    explicit_attention(made, True)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
    ours = copy.deepcopy(made[0])
    ours.__class__ = Block
    return made[0], ours


def numbers(block: nn.Module, x: Tensor, bf16: bool, **kwargs: Any) -> list[Tensor]:
    """Output, and the gradients of the input and of every parameter, of a loss that weighs all outputs."""
    x = x.detach().requires_grad_()
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = block(x, **kwargs)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    gradients = [p.grad for p in (x, *block.parameters())]
    assert all(g is not None and g.dtype == torch.float32 for g in gradients) and y.dtype == torch.float32
    return [y.detach(), *(g.clone() for g in gradients if g is not None)]


@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize(("shape", "heads"), [((3, 17, 32), 2), ((5, 26, 32), 4), ((2, 2, 32), 1)])
def test_as_near_to_fp32_as_autocast(shape: tuple[int, ...], heads: int, scale: float) -> None:
    plain, ours = pair(shape[-1], heads)
    with torch.no_grad():  # scale 12: attention of many scores beyond what exp can hold
        for block in (plain, ours):
            block.attn.qkv.weight.mul_(scale)  # type: ignore[union-attr, operator]
    x = torch.randn(shape)
    assert not ours.lean(x)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.lean(x) and not ours.lean(x.bfloat16())  # type: ignore[operator]
        with torch.no_grad():
            assert torch.equal(ours(x), ours(x.clone().requires_grad_()))
    exact, theirs, mine = (numbers(b, x, bf16) for b, bf16 in ((plain, False), (plain, True), (ours, True)))
    for want, other, got in zip(exact, theirs, mine, strict=True):
        error, allowed = (got - want).norm(), 1.6 * (other - want).norm() + 1e-3 * want.norm() + 1e-6
        assert torch.isfinite(got).all() and error <= allowed


def test_scores_beyond_the_safe_range_keep_their_softmax() -> None:
    """Every score far above, or far below, what exp can hold."""
    for sign in (1.0, -1.0):
        plain, ours = pair(16, 1)
        with torch.no_grad():
            for block in (plain, ours):
                bias = block.attn.qkv.bias  # type: ignore[union-attr]
                bias[:16], bias[16:32] = 30.0, sign * 30.0  # type: ignore[index, operator]
        x = torch.randn(2, 9, 16)
        q, k, _ = ours.attn.qkv(ours.norm1(x)).chunk(3, -1)  # type: ignore[union-attr, operator]
        assert (sign * (q @ k.mT) / 4).min() > 10 * SAFE
        want, theirs, got = (numbers(b, x, bf16)[0] for b, bf16 in ((plain, False), (plain, True), (ours, True)))
        assert torch.isfinite(got).all() and (got - want).norm() < 1.5 * (theirs - want).norm()


@pytest.mark.parametrize("case", ["fp32", "mask", "causal", "drop path", "layer scale"])
def test_everything_else_is_timms_to_the_last_bit(case: str) -> None:
    plain, ours = pair(init_values=0.1 if case == "layer scale" else None)
    if case == "drop path":
        for block in (plain, ours):
            block.drop_path1, block.drop_path2 = DropPath(0.0), DropPath(0.0)
    x, kwargs = torch.randn(2, 9, 32), {}
    if case == "mask":
        kwargs = {"attn_mask": torch.zeros(2, 1, 1, 9).masked_fill(torch.arange(9) > 6, -torch.inf)}
    if case == "causal":
        kwargs = {"is_causal": True}
    bf16 = case != "fp32"
    for want, got in zip(numbers(plain, x, bf16, **kwargs), numbers(ours, x, bf16, **kwargs), strict=True):
        assert torch.equal(want, got)
