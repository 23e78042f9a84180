"""From items to tokens, one tokenizer for each kind of item: images in patches, and the linear map of each.

Shapes: B images, C channels, N patches, n kept patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.data.items import Kind


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, C*p*p], channels first inside a patch (the order of a conv weight)."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


class PatchEmbed(nn.Module):
    """A linear map of each patch. The weight has conv shape [D, C, p, p], as in timm."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    @property
    def token_flops(self) -> float:
        """Forward FLOPs for one token, 2 per multiply-add."""
        return 2.0 * self.proj.weight.numel()

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Patches down and across images [B, C, H, W] of any size."""
        return (images.shape[-2] // self.patch, images.shape[-1] // self.patch)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, n, D]; patches that are not kept are dropped before the projection."""
        patches = patchify(images, self.patch)
        if keep is not None:
            patches = gather(patches, keep)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, n] of tokens [B, N, D] -> [B, n, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


TOKENIZERS: dict[str, Callable[[Kind, int, int], PatchEmbed]] = {  # kind of item -> (item, width, patch) -> module
    "image": lambda item, dim, patch: PatchEmbed(item.channels, dim, patch),
}


def tokenizer(item: Kind, dim: int, patch: int) -> PatchEmbed:
    """The first layer for items of this kind."""
    return TOKENIZERS[item.name](item, dim, patch)
