"""Which pixels of an item a patch token stands for, and back: labels of patches, maps of pixels.

Shapes: N images of H x W pixels, a grid of gh x gw = T patches, P = p * p places inside a patch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_bench.data.masks import VOID


@dataclass(frozen=True)
class PatchMap:
    """The grid of patches over the centre of an item; `covered` is the share of its height and width that they see."""

    size: tuple[int, int]  # H, W
    grid: tuple[int, int]  # gh, gw
    covered: tuple[float, float] = (1.0, 1.0)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where the centres of the pixel rows [H] and columns [W] lie in the grid, in patches from its edge."""
        found = []
        for size, count, seen in zip(self.size, self.grid, self.covered, strict=True):
            centre = (torch.arange(size, dtype=torch.float64) + 0.5) / size
            found.append(((centre - 0.5) / seen + 0.5) * count)
        return found[0], found[1]

    @cached_property
    def patches(self) -> Tensor:
        """The patch int64 [H, W] of each pixel: the one it lies in, or the nearest to one that no patch sees."""
        rows, columns = (p.floor().long().clamp(0, n - 1) for p, n in zip(self.places, self.grid, strict=True))
        return rows[:, None] * self.grid[1] + columns

    @cached_property
    def inside(self) -> Tensor:
        """bool [H, W]: whether a patch sees the pixel."""
        rows, columns = ((p >= 0) & (p < n) for p, n in zip(self.places, self.grid, strict=True))
        return rows[:, None] & columns

    @property
    def fine(self) -> int:
        """Places p along each side of a patch: as many as there are pixels."""
        pairs = zip(self.size, self.grid, self.covered, strict=True)
        return max(1, *(round(size * seen / count) for size, count, seen in pairs))

    @cached_property
    def offsets(self) -> Tensor:
        """The place int64 [H, W] in 0..P - 1 of each pixel inside its patch."""
        p = self.fine
        rows, columns = (
            ((x.clamp(0, n - 1e-9) % 1) * p).floor().long() for x, n in zip(self.places, self.grid, strict=True)
        )
        return rows[:, None] * p + columns

    def at_places(self, masks: Tensor) -> Tensor:
        """The pixel of masks [N, H, W] at every place of every patch, [N, T, P]."""
        p, index = self.fine, []
        for size, count, seen in zip(self.size, self.grid, self.covered, strict=True):
            place = (torch.arange(count * p, dtype=torch.float64) + 0.5) / (count * p)
            index.append((((place - 0.5) * seen + 0.5) * size).floor().long().clamp(0, size - 1))
        found = masks[:, index[0][:, None], index[1]]
        gh, gw = self.grid
        return found.view(-1, gh, p, gw, p).transpose(2, 3).reshape(len(masks), gh * gw, p * p)

    def labels(self, masks: Tensor, num_classes: int) -> Tensor:
        """The most frequent class int64 [N, T] of a patch's pixels, the lower of equal ones; -1 where all is void."""
        tokens, inside = self.grid[0] * self.grid[1], self.inside
        out = torch.full((len(masks), tokens), -1)
        for i, mask in enumerate(masks):
            seen = inside & (mask != VOID)
            pairs = self.patches[seen] * num_classes + mask[seen].long()
            counts = pairs.bincount(minlength=tokens * num_classes).view(tokens, num_classes)
            most, label = counts.max(1)
            out[i] = torch.where(most > 0, label, -1)
        return out

    def spread(self, labels: Tensor) -> Tensor:
        """A label of each patch [N, T] as maps uint8 [N, H, W]."""
        return labels.to(torch.uint8)[:, self.patches]

    def upsampled(self, logits: Tensor) -> Tensor:
        """Bilinear [N, C, H, W] of one value per patch [N, T, C]."""
        maps = logits.transpose(1, 2).unflatten(2, self.grid)
        rows, columns = (2 * x / n - 1 for x, n in zip(self.places, self.grid, strict=True))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        where = torch.stack([x, y], 2).to(maps)[None].expand(len(maps), -1, -1, -1)
        return F.grid_sample(maps, where, mode="bilinear", padding_mode="border", align_corners=False)


def raw_patches(images: Tensor, side: int) -> Tensor:
    """Squares of uint8 images [N, C, H, W] as tokens [N, T, C * side^2] in 0..1: what no network has seen."""
    return F.unfold(images.float() / 255, side, stride=side).transpose(1, 2)


def voted(labels: Tensor, num_classes: int) -> Tensor:
    """The class uint8 [Q, P] that most of the neighbours' labels uint8 [Q, k, P], best first, vote for.

    Of equally many votes those decide that hold the nearest neighbour. Void is no vote; without any it is class 0.
    """
    k = labels.shape[1]
    weight = 1 + 0.5 ** torch.arange(1, k + 1, dtype=torch.float64)  # the halves sum to less than one vote
    index = labels.long().clamp(max=num_classes).transpose(1, 2)  # void is above all classes
    votes = torch.zeros(*index.shape[:2], num_classes + 1, dtype=torch.float64)
    votes.scatter_add_(2, index, weight.expand_as(index))
    return votes[..., :num_classes].argmax(2).to(torch.uint8)
