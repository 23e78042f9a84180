"""The transformer block: timm's, and for bf16 on a CPU the same one with its gradient written out.

For small models a CPU spends more on what lies between the matrix products than on them: casts of every operand, and a
bf16 softmax that takes two to thirteen times as long as its exponentials. Written out, these are kept as they are, and
the row's sum divides the d numbers that come out instead of the T that go in; what needs fp32 (norms, sums, residuals)
is in fp32, once.

Same operations and same precision as under autocast, other roundings: fp32, GPUs, masks, rotary positions, stochastic
depth and layer scale go through timm's code.
Shapes: B items, T tokens, D width, h heads of d channels; G = B * h.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssl_bench.models import timm_parts

BF16 = torch.bfloat16
SAFE = 60.0  # scores of which exp neither overflows nor vanishes, nor does a row's sum: e^60 = 1e26, fp32 has 1e38
norm_backward = torch.ops.aten.native_layer_norm_backward


class Block(timm_parts.Block):
    """timm's pre-norm block [B, T, D] -> [B, T, D]."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal or not self.lean(x):
            return super().forward(x, attn_mask, is_causal)
        a: Any = self.attn
        m: Any = self.mlp
        norm1, norm2 = ((n.eps, n.weight, n.bias) for n in (self.norm1, self.norm2))
        x = _Attention.apply(x, a.num_heads, *norm1, a.qkv.weight, a.qkv.bias, a.proj.weight, a.proj.bias)
        return _MLP.apply(x, *norm2, m.fc1.weight, m.fc1.bias, m.fc2.weight, m.fc2.bias)

    def lean(self, x: Tensor) -> bool:
        """Whether the written-out form is this block's: bf16 on a CPU, nothing on the residual branches."""
        if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"):
            return False
        between = (self.ls1, self.ls2, self.drop_path1, self.drop_path2)
        return torch.get_autocast_dtype("cpu") == BF16 and all(isinstance(m, nn.Identity) for m in between)


def _normed(x: Tensor, eps: float, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of x [B, T, D] as bf16 rows [B * T, D], with the mean and 1 / std that its gradient needs."""
    y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
    return y.to(BF16).flatten(0, 1), mean, rstd


def _rows(gradient: Tensor, weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a linear map of rows: gradients of the inputs (bf16), of the weight and of the bias (fp32)."""
    return gradient @ weight, (gradient.T @ inputs).float(), gradient.sum(0).float()


class _Attention(torch.autograd.Function):
    """x + proj(attention(norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: int, eps: float, gain: Tensor, shift: Tensor, w_qkv: Tensor, b_qkv: Tensor,
        w_proj: Tensor, b_proj: Tensor,
    ) -> Tensor:  # fmt: skip
        b, t, dim = x.shape
        d = dim // heads
        w_qkv, b_qkv, w_proj, b_proj = (p.to(BF16) for p in (w_qkv, b_qkv, w_proj, b_proj))
        y, mean, rstd = _normed(x, eps, gain, shift)
        qkv = torch.addmm(b_qkv, y, w_qkv.T).view(b, t, 3, heads, d).permute(2, 0, 3, 1, 4)
        qkv = qkv.reshape(3, b * heads, t, d)  # one copy, so that all products have rows in order
        q, k, v = qkv.unbind(0)
        q.mul_(d**-0.5)
        weights = torch.bmm(q, k.mT)
        low, high = torch.aminmax(weights)
        if not (low > -SAFE and high < SAFE):  # rare: the row's maximum cancels in the division
            weights = weights - weights.amax(-1, keepdim=True)
        weights.exp_()
        share = weights.sum(-1, keepdim=True, dtype=torch.float32).reciprocal_()  # [G, T, 1]
        out = torch.empty(b, t, heads, d, dtype=BF16)
        out.transpose(1, 2).copy_((torch.bmm(weights, v) * share).view(b, heads, t, d))
        out = out.view(b * t, dim)
        ctx.save_for_backward(x, gain, shift, mean, rstd, y, w_qkv, w_proj, qkv, weights, share, out)
        return x + torch.addmm(b_proj, out, w_proj.T).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, gain, shift, center, rstd, y, w_qkv, w_proj, qkv, weights, share, out = ctx.saved_tensors
        b, t, dim = x.shape
        (q, k, v), d = qkv.unbind(0), qkv.shape[-1]
        g_out, g_w_proj, g_b_proj = _rows(g.to(BF16).flatten(0, 1), w_proj, out)
        by_head = torch.empty(b, dim // d, t, d).copy_(g_out.view(b, t, -1, d).transpose(1, 2))
        by_head = by_head.view(-1, t, d).mul_(share)
        by_head = by_head.to(BF16)
        scores = torch.bmm(by_head, v.mT).float()
        mean = (scores * weights).sum(-1, keepdim=True).mul_(share)  # of these numbers: what saturates gets exactly 0
        scores = scores.sub_(mean).mul_(weights).to(BF16)
        parts = torch.bmm(scores, k).mul_(d**-0.5), torch.bmm(scores.mT, q), torch.bmm(weights.mT, by_head)
        g_qkv = torch.empty(b, t, 3, dim // d, d, dtype=BF16)
        for i, part in enumerate(parts):
            g_qkv[:, :, i].copy_(part.view(b, -1, t, d).transpose(1, 2))
        g_y, g_w_qkv, g_b_qkv = _rows(g_qkv.view(b * t, 3 * dim), w_qkv, y)
        g_x, g_gain, g_shift = norm_backward(
            g_y.float().view_as(x), x, [dim], center, rstd, gain, shift, [True, True, True]
        )
        return g_x.add_(g), None, None, g_gain, g_shift, g_w_qkv, g_b_qkv, g_w_proj, g_b_proj


class _MLP(torch.autograd.Function):
    """x + fc2(GELU(fc1(norm(x))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, gain: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        w1, b1, w2, b2 = (p.to(BF16) for p in (w1, b1, w2, b2))
        y, mean, rstd = _normed(x, eps, gain, shift)
        hidden = torch.addmm(b1, y, w1.T)
        active = F.gelu(hidden)
        ctx.save_for_backward(x, gain, shift, mean, rstd, y, w1, w2, hidden, active)
        return x + torch.addmm(b2, active, w2.T).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, gain, shift, mean, rstd, y, w1, w2, hidden, active = ctx.saved_tensors
        g_active, g_w2, g_b2 = _rows(g.to(BF16).flatten(0, 1), w2, active)
        g_hidden = torch.ops.aten.gelu_backward(g_active, hidden)
        g_y, g_w1, g_b1 = _rows(g_hidden, w1, y)
        g_x, g_gain, g_shift = norm_backward(
            g_y.float().view_as(x), x, x.shape[-1:], mean, rstd, gain, shift, [True, True, True]
        )
        return g_x.add_(g), None, g_gain, g_shift, g_w1, g_b1, g_w2, g_b2
