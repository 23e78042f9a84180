"""The one shared ViT: timm's blocks, tokens in, tokens out, any subset of positions.

Parameter names and shapes are those of timm's `VisionTransformer`, so weights of image models load both ways.
Shapes: B images, C channels, N patches (of clips: tubelets), P prefix tokens (CLS and registers), n kept patches, D
width, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.config.schema import ViTConfig
from ssl_bench.data.items import Kind
from ssl_bench.errors import UserError
from ssl_bench.models.block import Block
from ssl_bench.models.groups import PlacedBlock, Places, padded
from ssl_bench.models.positions import resample, sincos
from ssl_bench.models.rotary import FORMS, RotaryBlock, angles
from ssl_bench.models.timm_parts import Attention, VisionTransformer
from ssl_bench.models.tokenizer import gather, tokenizer
from ssl_bench.rng import Rng

LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)  # timm annotates a class where it calls a factory


class DropPath(nn.Module):
    """Stochastic depth: each row of a residual branch is dropped with probability `rate`, the others scaled up.

    The loop sets `rng` before each forward. Rows are views of this process' images, [V * B, ...]; draws are made for
    the whole global batch, so an image loses the same branches on any number of processes.
    """

    rng: Rng | None = None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.rng is None:
            draw = torch.rand(len(x), device=x.device)
        else:
            draw = self.rng.rand(len(x) // self.rng.local).T.flatten()
        keep = (draw >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


def blocks(
    dim: int, depth: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, uniform: bool = False,
    kind: type[nn.Module] = Block, **kwargs: Any,
) -> nn.ModuleList:  # fmt: skip
    """`depth` of timm's pre-norm blocks; stochastic depth grows linearly from 0 to `drop_path`, or is `uniform`."""
    rates = [drop_path if uniform else drop_path * i / max(depth - 1, 1) for i in range(depth)]
    make = partial(kind, dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm, **kwargs)
    made = nn.ModuleList([make() for _ in rates])
    for block, rate in zip(made, rates, strict=True):
        if rate:
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return made


def run(
    layers: Iterable[nn.Module], x: Tensor, attn_mask: Tensor | None = None, angles: Tensor | None = None
) -> Tensor:
    """Tokens [B, T, D] after these blocks; `angles` for rotary ones alone."""
    more = {} if angles is None else {"angles": angles}
    for block in layers:
        x = block(x, attn_mask, **more)
    return x


def block_flops(tokens: int, dim: int, depth: int, mlp_ratio: float = 4.0) -> float:
    """Forward FLOPs of `depth` blocks for one sequence: 2 per multiply-add, attention products included."""
    return 2.0 * depth * ((4 + 2 * mlp_ratio) * tokens * dim**2 + 2 * tokens**2 * dim)


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Xavier-uniform Linear weights, zero biases (MAE, MoCo v3); norms keep 1 and 0.

    One initialisation for all methods. The other common one, trunc-normal 0.02, is too small for narrow ViTs:
    at width 128 it is a quarter of Xavier's standard deviation.
    """
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def explicit_attention(module: nn.Module, explicit: bool) -> None:
    """Matmul-softmax attention instead of SDPA: its bf16 backward on CPU takes half of a small ViT's step."""
    for m in module.modules():
        if isinstance(m, Attention):
            m.fused_attn = not explicit  # type: ignore[misc]


class ViT(nn.Module):
    """The backbone of every method and the encoder of every protocol."""

    def __init__(self, config: ViTConfig, item: Kind) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.grid = item.grid(config.patch_size, config.tubelet)
        self.num_patches = math.prod(self.grid)
        self.num_prefix = int(config.class_token) + config.reg_tokens
        self.patch_embed = tokenizer(item, config)
        dim = config.embed_dim
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02) if config.class_token else None
        self.reg_token = nn.Parameter(torch.randn(1, config.reg_tokens, dim) * 0.02) if config.reg_tokens else None
        self.rotary = config.pos_embed in FORMS
        self.places = Places(dim) if config.pos_embed == "centres" else None
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.num_prefix + self.num_patches, dim)
        )  # 0 where rotary, or of centres
        if config.pos_embed == "learned":
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            self.pos_embed.requires_grad_(False)
        if config.pos_embed.startswith("sincos"):
            self.pos_embed.data[0, self.num_prefix :] = sincos(dim, self.grid, config.pos_embed)
        self.blocks = blocks(
            dim, config.depth, config.num_heads, config.mlp_ratio, config.drop_path, config.drop_path_uniform,
            RotaryBlock if self.rotary else PlacedBlock if self.places else Block,
            init_values=config.layer_scale or None,
        )  # fmt: skip
        self.norm = LayerNorm(dim)
        init_weights(self.blocks)

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """Position embeddings [1, P + N, D] for a grid, interpolated where it is not the training grid."""
        if grid == self.grid:
            return self.pos_embed
        if len(grid) == 1 and not self.places:  # of a text, which begins at the first
            return self.pos_embed[:, : self.num_prefix + grid[0]]
        if self.places:  # they are added in the blocks
            return self.pos_embed[:, :1].expand(-1, self.num_prefix + math.prod(grid), -1)
        return resample(self.pos_embed, self.grid, grid, self.num_prefix)

    def angles(self, grid: tuple[int, ...], keep: Tensor | None = None) -> Tensor | None:
        """Rotary angles of the kept tokens of a grid, as `encode` takes them; None where positions are added."""
        channels = self.config.embed_dim // self.config.num_heads
        return angles(self.config, grid, channels, keep, self.num_prefix, self.pos_embed.device)

    def located(self, images: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """What `encode` needs of where the kept tokens lie: rotary angles, positions of centres, or None."""
        if self.places is None:
            return self.angles(self.patch_embed.grid(images), keep)
        centres = self.patch_embed.centres(images)
        return padded(self.places(centres if keep is None else gather(centres, keep)), self.num_prefix)

    def embed(
        self, images: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> Tensor:
        """Images [B, C, H, W] -> the sequence [B, P + n, D] that enters the first block.

        keep: indices [B, n] of the patches to encode; the others are never computed.
        mask: bool [B, N]; True patches are replaced by `mask_token` before positions are added.
        """
        x = self.patch_embed(images, keep)
        pos = self.positions(self.patch_embed.grid(images))
        if mask is not None:
            assert mask_token is not None
            x = torch.where(mask.unsqueeze(-1), mask_token.to(x.dtype), x)
        patch_pos = pos[:, self.num_prefix :]
        x = x + (patch_pos if keep is None else gather(patch_pos.expand(len(x), -1, -1), keep))
        prefix: list[Tensor] = [t for t in (self.cls_token, self.reg_token) if t is not None]
        if prefix:
            head = torch.cat(prefix, 1) + pos[:, : self.num_prefix]
            x = torch.cat([head.expand(len(x), -1, -1), x], 1)
        return x

    def forward(
        self, images: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> Tensor:
        """Tokens [B, P + n, D] after the final norm: CLS, registers, patches in the order of `keep`."""
        x, seen = self.embed(images, keep, mask, mask_token), self.patch_embed.attention(images)
        return self.encode(x, seen, self.located(images, keep))

    def parts(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens [B * M, P + n, D] of M parts keep [B, M, n] of each item.

        Patches are embedded once for all parts; groups of points, which cost more, where they are kept.
        """
        m, p = keep.shape[1], self.num_prefix
        if self.places:
            return self(images.repeat_interleave(m, 0), keep.flatten(0, 1))
        x = self.embed(images)
        visible = gather(x[:, p:], keep.flatten(1)).reshape(-1, keep.shape[2], x.shape[-1])
        x = torch.cat([x[:, :p].repeat_interleave(m, 0), visible], 1)
        return self.encode(x, angles=self.located(images, keep.flatten(0, 1)))

    def encode(self, x: Tensor, attn_mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:
        """Blocks and final norm on an embedded sequence [B, T, D]; rotary positions need the `angles` of its tokens."""
        return self.norm(run(self.blocks, x, attn_mask, angles))

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]:
        """Outputs [B, P + N, D] of the blocks `indices` (negative from the end), each through the final norm."""
        wanted = [i % len(self.blocks) for i in indices]
        x, found, angles = self.embed(images), {}, self.located(images)
        seen = self.patch_embed.attention(images)
        for i, block in enumerate(self.blocks):
            x = run([block], x, seen, angles)
            if i in wanted:
                found[i] = self.norm(x) if norm else x
        return [found[i] for i in wanted]

    def levels(self, images: Tensor, norms: nn.ModuleList, keep: Tensor | None = None) -> Tensor:
        """Patch tokens [B, n, L, D] of L evenly spaced blocks, each through its own norm, the last through ours."""
        x, depth, found, each = self.embed(images, keep), len(self.blocks), [], [*norms, self.norm]
        angles = self.angles(self.patch_embed.grid(images), keep)
        wanted = [(i + 1) * depth // len(each) - 1 for i in range(len(each))]
        for i, block in enumerate(self.blocks):
            x = run([block], x, None, angles)
            if i in wanted:
                found.append(each[wanted.index(i)](x)[:, self.num_prefix :])
        return torch.stack(found, 2)

    def pool(self, tokens: Tensor, how: str) -> Tensor:
        """[B, P + n, D] -> [B, D]: "cls", or "mean" over the patch tokens."""
        return tokens[:, 0] if how == "cls" else tokens[:, self.num_prefix :].mean(1)

    def flops(self, patches: int | None = None) -> float:
        """Forward FLOPs per image with `patches` kept (all, if None), 2 per multiply-add."""
        c = self.config
        n = self.num_patches if patches is None else patches
        token = self.patch_embed.token_flops + (self.places.flops() if self.places else 0.0)
        return n * token + block_flops(n + self.num_prefix, c.embed_dim, c.depth, c.mlp_ratio)


def timm_args(vit: ViT, pooling: str = "") -> dict[str, Any]:
    """The settings of timm's `VisionTransformer` for this encoder; `pooling` "cls" or "mean" (none: CLS if it has one).

    The final norm comes before the pooling (`fc_norm=False`), as in `ViT.pool`.
    """
    c = vit.config
    if len(vit.grid) != 2 or vit.rotary:
        what = "rotary positions" if vit.rotary else "clips" if len(vit.grid) == 3 else "clouds of points and no texts"
        raise UserError(f"timm's ViT has no {what}: this encoder can be evaluated here, and not written for timm.")
    return {
        "img_size": [s * c.patch_size for s in vit.grid], "patch_size": c.patch_size, "num_classes": 0,
        "in_chans": vit.patch_embed.proj.in_channels, "embed_dim": c.embed_dim, "depth": c.depth,
        "num_heads": c.num_heads, "mlp_ratio": c.mlp_ratio, "class_token": c.class_token, "reg_tokens": c.reg_tokens,
        "global_pool": "token" if (pooling or ("cls" if c.class_token else "mean")) == "cls" else "avg",
        "fc_norm": False, "init_values": c.layer_scale or None,
    }  # fmt: skip


def to_timm(vit: ViT) -> VisionTransformer:
    """The same encoder as a plain timm model (no head), with the same weights."""
    model = VisionTransformer(**timm_args(vit), norm_layer=LayerNorm)
    model.load_state_dict(vit.state_dict())
    return model
