"""Networks that are not the shared ViT, each with the two things an encoder needs: `num_prefix` and `layers`.

Shapes: B images, P prefix tokens (CLS and registers), N patches, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.errors import UserError
from ssl_bench.models.timm_parts import Block, VisionTransformer


class TimmBackbone(nn.Module):
    """Any timm model with `forward_intermediates` that gives tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.num_prefix = int(getattr(model, "num_prefix_tokens", 0))

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]:
        """[B, P + N, D] after each of the blocks, through the final norm."""
        form: dict[str, Any] = {"norm": norm, "output_fmt": "NLC", "intermediates_only": True}
        if not self.num_prefix:
            return self.model.forward_intermediates(images, list(indices), **form)
        found = self.model.forward_intermediates(images, list(indices), return_prefix_tokens=True, **form)
        return [torch.cat([prefix, patches], 1) for patches, prefix in found]


class HubBackbone(nn.Module):
    """A torch.hub model with DINO's or DINOv2's `get_intermediate_layers`."""

    def __init__(self, model: Any, depth: int) -> None:
        super().__init__()
        self.model, self.depth, self.num_prefix = model, depth, 1
        self.v2 = "return_class_token" in inspect.signature(model.get_intermediate_layers).parameters

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]:
        wanted = list(indices)
        if self.v2:
            found = self.model.get_intermediate_layers(images, n=wanted, return_class_token=True, norm=norm)
            return [torch.cat([cls[:, None], patches], 1) for patches, cls in found]
        last = self.model.get_intermediate_layers(
            images, self.depth - min(wanted)
        )  # DINO: the last n, normed, with CLS
        return [last[i - self.depth] for i in wanted]


class TransformersBackbone(nn.Module):
    """A ViT of Hugging Face transformers with hidden states and a final norm."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.norm: Any = getattr(model, "layernorm", None) or getattr(model, "norm", None)
        if self.norm is None:
            raise UserError(f"{type(model).__name__} has no final norm that ssl-bench knows: use timm: for this model.")
        self.num_prefix = int("ijepa" not in model.config.model_type) + int(
            getattr(model.config, "num_register_tokens", 0)
        )

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]:
        kept_order = {}
        if self.model.config.model_type == "vit_mae":  # it shuffles patches by this noise even where it masks none
            count = images[0, 0].numel() // self.model.config.patch_size**2
            kept_order["noise"] = torch.arange(count, device=images.device).float().expand(len(images), -1)
        states = self.model(images, output_hidden_states=True, **kept_order).hidden_states
        return [self.norm(states[i + 1]) if norm else states[i + 1] for i in indices]


class PostNormBlock(Block):
    """data2vec 2.0: the norm comes after the residual sum."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


def data2vec_vit(dim: int, depth: int, heads: int, patch: int, size: int) -> TimmBackbone:
    """data2vec 2.0's image encoder: a norm before the first block, none after the last, no position for CLS."""
    model = VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=0,
        block_fn=PostNormBlock, no_embed_class=True, pre_norm=True, final_norm=False, dynamic_img_size=True,
    )  # fmt: skip
    old = model.patch_embed.proj  # timm leaves the bias out before a norm; data2vec has one
    model.patch_embed.proj = nn.Conv2d(old.in_channels, dim, patch, stride=patch)
    return TimmBackbone(model)


class CapiBlock(nn.Module):
    """Pre-norm with RMSNorm, rotary positions with learned frequencies, no bias; a predictor's block has a context."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)
        self.freqs = nn.Parameter(torch.zeros(2, dim // heads))

    def forward(self, x: Tensor, places: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x [B, T, D] at places [T, 2]; `context`: what keys and values are of, and its places."""
        b, t, d = x.shape
        y = self.norm1(x)
        seen, where = context or (y, places)
        q, k, v = (
            m(z).view(b, -1, self.heads, d // self.heads).transpose(1, 2)
            for m, z in ((self.q, y), (self.k, seen), (self.v, seen))
        )
        q, k = _turned(q, places @ self.freqs), _turned(k, where @ self.freqs)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Channels i and i + half of x [..., T, d] turned together, by angle [T, d]."""
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat((-second, first), -1) * angle.sin()


class CapiViT(nn.Module):
    """CAPI's encoder (2502.08769): registers on the image's edge, rotary positions, no weights in the last norm.

    Before the registers stands the paper's predictor pooling, the published model's global feature (capi/model.py): the
    predictor's first block asks the encoder's output at every patch, its answers are normed and averaged. It is of the
    last layer whichever layers are asked for, as there.
    """

    def __init__(self, dim: int, depth: int, heads: int, patch: int, registers: int) -> None:
        super().__init__()
        self.num_prefix, self.dim = 1 + registers, dim
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.registers = nn.Parameter(torch.zeros(1, registers, dim))
        self.blocks = nn.ModuleList(CapiBlock(dim, heads) for _ in range(depth))
        self.mask_token, self.predictor = nn.Parameter(torch.zeros(1, dim)), CapiBlock(dim, heads)

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]:
        patches = self.patch_embed(images)
        rows, columns = (torch.linspace(0, 1, n, device=images.device) for n in patches.shape[-2:])
        grid = torch.cartesian_prod(rows, columns)
        places = torch.cat([_edge(self.registers.shape[1], images.device), grid])
        x = torch.cat([self.registers.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        wanted, found = list(indices), {}
        for i, block in enumerate(self.blocks):
            x = block(x, places)
            if i in wanted:
                found[i] = self.norm(x) if norm else x
        asked = self.mask_token.expand(len(images), len(grid), -1)
        pooled = self.norm(self.predictor(asked, grid, (self.norm(x), places))).mean(1, keepdim=True)
        return [torch.cat([pooled, found[i]], 1) for i in wanted]

    def norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), eps=1e-5)


def _edge(count: int, device: torch.device) -> Tensor:
    """Places [count, 2] at equal steps around the unit square."""
    c = torch.arange(count // 4, device=device) / (count // 4)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    sides = [(c, zero), (one, c), (1 - c, one), (zero, 1 - c)]
    return torch.cat([torch.stack(side, 1) for side in sides])
