"""The view of evaluation: an item as it is, brought to the size and the range that a network was made for.

Shapes: images [B, C, H, W], or clips [B, T, C, H, W], uint8 or float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.config.schema import Size, sides


def plain(
    images: Tensor, size: Size, resize: int, interpolation: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Resized (antialiased) so that `resize` fits in (0: `size` itself), the centre cut to `size`, normalised.

    Of clouds [B, P, 3] the first `size` points: they are in farthest-point order, and normalised as they are. Of
    pairs of texts [B, 2, L] the first: the tokens' numbers [B, 1, L].
    """
    if images.ndim == 3 and not images.is_floating_point():
        return images[:, :1].float()  # of a pair of texts the first alone
    if images.ndim == 3:
        return images[:, : sides(size)[0]]
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    x = resize_crop(x.flatten(0, -4), resize or size, size, interpolation).unflatten(0, x.shape[:-3])
    m, s = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (mean, std))
    return (x - m) / s


def resize_crop(x: Tensor, resize: Size, size: Size, mode: str) -> Tensor:
    """Resized so that `resize` just fits into the image, then the centre of `size`. Does nothing at the right size."""
    height, width = x.shape[-2:]
    fit, (h, w) = sides(resize), sides(size)
    if (scale := max(fit[0] / height, fit[1] / width)) != 1:
        x = F.interpolate(x, size=(round(height * scale), round(width * scale)), mode=mode, antialias=True).clamp(0, 1)
    top, left = (x.shape[-2] - h) // 2, (x.shape[-1] - w) // 2
    return x[..., top : top + h, left : left + w]


def cells(x: Tensor, count: int = 4) -> Tensor:
    """[B, C, H, W] -> `count` x `count` cells as tokens [B, count^2, C*H*W/count^2]: raw input for probes of tokens."""
    patch = (x.shape[-2] // count, x.shape[-1] // count)
    return F.unfold(x.flatten(1, -3), patch, stride=patch).transpose(1, 2)  # of clips: through all frames
