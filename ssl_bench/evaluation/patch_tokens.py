"""How patch tokens are read of an encoder: of which layers, with what beside them, of an input of which size.

Shapes: B images, T patches, L layers, R registers, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.schema import sides, size_text
from ssl_bench.encoders.encoder import LAYERS
from ssl_bench.errors import UserError
from ssl_bench.evaluation.features import centre_share
from ssl_bench.evaluation.patch_maps import PatchMap, raw_patches
from ssl_bench.evaluation.protocol import Features
from ssl_bench.models.vit import ViT


@dataclass(frozen=True)
class Reading:
    """Settings of a protocol on patch tokens; at the defaults they are those that `Features.tokens` holds."""

    layers: Literal["last", "last4"] = "last"  # last4: of the last four, side by side, each after the final norm
    concat: Literal["none", "cls", "registers"] = "none"  # tokens beside every patch token, of the same layers
    image_size: int = 0  # pixels of the input's shorter side; positions are interpolated. 0: the encoder's own
    raw_patch: int = 6  # pixels per side of a patch of raw input

    def check(self) -> None:
        if self.image_size < 0:
            raise UserError(f"image_size={self.image_size}: write pixels, or 0 for what the encoder was made for.")

    @property
    def usual(self) -> bool:
        return not self.image_size and (self.layers, self.concat) == ("last", "none")

    def tokens(self, x: Features, images: Tensor) -> Tensor:
        """fp32 [B, T, L * D (1 or 2, or 1 + R)] of stored images of `x`, in memory."""
        return self._read(self._of(x.encoder), images) if x.grid else raw_patches(images, self.raw_patch)

    def rows(self, x: Features, rows: Tensor) -> Tensor:
        """The same of some rows of `x`; those that are kept, where they are the usual ones."""
        if x.grid and x.tokens is not None:
            return x.tokens.batch(rows.numpy()).float().cpu()
        return self.tokens(x, x.items.batch(rows.numpy()))

    def map(self, x: Features) -> PatchMap:
        """Where these tokens lie in the images."""
        (height, width), side = x.items.batch(np.arange(1)).shape[-2:], self.raw_patch
        grid, covered = x.grid, x.covered
        if not grid:
            if height % side or width % side:
                raise UserError(f"Images of {height} x {width} pixels have no raw patches of {side}: set raw_patch.")
            grid, covered = (height // side, width // side), (1.0, 1.0)
        elif self.image_size:
            encoder = self._of(x.encoder)
            grid = tuple(s // encoder.model.config.patch_size for s in encoder.image_size)
            covered = centre_share(encoder, (height, width))
        if len(grid) != 2 or self.rows(x, torch.arange(1)).shape[1] != np.prod(grid):
            raise UserError("dense needs an encoder with one token per patch of an image, and this one's are others.")
        return PatchMap((height, width), (grid[0], grid[1]), covered)

    def _of(self, encoder: Any) -> Any:
        """The encoder at this size; `UserError` where it has not what is to be read of it."""
        name = f"'{encoder.method}'"
        if self.layers == "last4" and encoder.depth < LAYERS:
            raise UserError(f"{name} has {encoder.depth} layers: there are no last {LAYERS}. Set layers=last.")
        if self.concat == "cls" and not encoder.has_cls:
            raise UserError(f"{name} has no CLS token to put beside its patch tokens: set concat=none.")
        if self.concat == "registers" and encoder.model.num_prefix <= encoder.has_cls:
            raise UserError(f"{name} has no registers (backbone.reg_tokens): set concat=none or cls.")
        return encoder if not self.image_size else self._resized(encoder, name)

    def _resized(self, encoder: Any, name: str) -> Any:
        if not isinstance(encoder.model, ViT):
            raise UserError(
                f"image_size reads encoders trained here at another size, and {name} is another network: name it with "
                "its size, as in timm:NAME,size=448."
            )
        patch, own = encoder.model.config.patch_size, sides(encoder.image_size)
        size = tuple(self.image_size * side // min(own) for side in own)
        if any(s % patch for s in size) or any(self.image_size * side % min(own) for side in own):
            step = patch * min(own) // math.gcd(*own)
            near = max(1, round(self.image_size / step)) * step
            raise UserError(
                f"image_size={self.image_size}: {name} takes {size_text(encoder.image_size)} pixels in patches of "
                f"{patch}; write a multiple of {step}, for example {near}."
            )
        return replace(encoder, image_size=size, resize=round(encoder.resize * self.image_size / min(own)))

    @torch.no_grad()
    def _read(self, encoder: Any, images: Tensor) -> Tensor:
        count = LAYERS if self.layers == "last4" else 1
        maps = encoder.model.layers(encoder.prepare(images), range(encoder.depth - count, encoder.depth))
        prefix, cls = encoder.model.num_prefix, int(encoder.has_cls)
        beside = {"none": slice(0, 0), "cls": slice(0, cls), "registers": slice(cls, prefix)}[self.concat]
        parts = []
        for m in maps:
            patches = m[:, prefix:]
            parts.append(patches)
            parts.append(m[:, beside].flatten(1)[:, None].expand(-1, patches.shape[1], -1))
        return torch.cat(parts, 2).float().cpu()
