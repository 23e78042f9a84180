"""From items to tokens: images in patches, and the linear map of each.

Shapes: B images, C channels, N patches, n kept patches, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, n, D]; patches that are not kept are dropped before the projection."""
        patches = patchify(images, self.patch)
        if keep is not None:
            patches = gather(patches, keep)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, n] of tokens [B, N, D] -> [B, n, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
