"""Pairs of views with a known transformation, and which patch of one is nearest to each patch of the other.

Shapes: B images, T patches of a grid gh x gw. Places are fractions of an image's height and width, (y, x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.evaluation.patch_maps import PatchMap
from ssl_bench.evaluation.protocol import Source
from ssl_bench.screen import paced

BATCH = 256  # images at a time
SCALES = (0.6, 0.9)  # of a view's sides, as shares of the image's


@dataclass(frozen=True)
class Views:
    """One view of each image: a part of it, mirrored or not, brought back to the image's size."""

    corner: Tensor  # [B, 2] (y, x)
    scale: Tensor  # [B]
    mirrored: Tensor  # bool [B]

    @staticmethod
    def drawn(count: int, generator: torch.Generator) -> Views:
        scale = SCALES[0] + (SCALES[1] - SCALES[0]) * torch.rand(count, generator=generator)
        corner = torch.rand(count, 2, generator=generator) * (1 - scale[:, None])
        return Views(corner, scale, torch.rand(count, generator=generator) < 0.5)

    def take(self, rows: Tensor) -> Views:
        return Views(self.corner[rows], self.scale[rows], self.mirrored[rows])

    def places(self, inside: Tensor) -> Tensor:
        """Where places [P, 2] of the views lie in their images, [B, P, 2]."""
        y, x = (inside[None, :, i].expand(len(self.scale), -1) for i in (0, 1))
        x = torch.where(self.mirrored[:, None], 1 - x, x)
        return self.corner[:, None] + self.scale[:, None, None] * torch.stack([y, x], 2)

    def pictures(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] of uint8 images, bilinear."""
        places = self.places(centres(images.shape[-2:])).view(len(images), *images.shape[-2:], 2)
        found = F.grid_sample(images.float(), 2 * places.flip(3) - 1, padding_mode="border", align_corners=False)
        return found.round().to(torch.uint8)


def centres(grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Places [T, 2] of the centres of a grid's patches."""
    axes = [(torch.arange(n) + 0.5) / n for n in grid]
    return torch.cartesian_prod(*axes)


def errors(ours: Tensor, theirs: Tensor, views: Views, grid: tuple[int, int], covered: tuple[float, float]) -> Tensor:
    """[B, T, 3]: how far in patches the nearest patch of the image (tokens `theirs` [B, T, D], by cosine) lies from the
    true place of each patch of the view (`ours`), -1 where the network does not see that; and the true place.
    """
    seen, size = torch.tensor(covered), torch.tensor(grid)
    true = views.places((centres(grid) - 0.5) * seen + 0.5)
    near = (F.normalize(ours, dim=2) @ F.normalize(theirs, dim=2).transpose(1, 2)).argmax(2).cpu()
    chosen = torch.stack([near // grid[1], near % grid[1]], 2) + 0.5
    place = ((true - 0.5) / seen + 0.5) * size
    known = ((place >= 0) & (place < size)).all(2)
    far = torch.where(known, (chosen - place).norm(dim=2), -1.0)
    return torch.cat([far[..., None], true], 2)


def found(items: Source, encode: Callable[[Tensor], Tensor], where: PatchMap, seed: int) -> Tensor:
    """`errors` [N, T, 3] between every image and one view of it; the views depend on the seed and N alone."""
    views, out = Views.drawn(len(items), torch.Generator().manual_seed(seed)), []
    parts = list(torch.arange(len(items)).split(BATCH))
    for rows in paced("matching patches", parts, len(parts)):
        images, here = items.batch(rows.numpy()), views.take(rows)
        out.append(errors(encode(here.pictures(images)), encode(images), here, where.grid, where.covered))
    return torch.cat(out)
