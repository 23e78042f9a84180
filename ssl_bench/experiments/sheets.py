"""What every picture of a run is made of: a sheet of images, sets of patches that are shown, colours of features."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_bench.models.vit import ViT
from ssl_bench.training.method import Method

SIDE = 96  # largest side of one image on a sheet; the page enlarges them
GAP = 2
Only = Callable[[Tensor, Tensor, ViT], Tensor]  # items and a set of their patches [B, N] -> the others in grey


def kept_sets(value: Tensor, vit: ViT, count: int) -> list[Tensor]:
    """Bool [B, N] sets of patches in a view's entry: True is what is kept (indices) or not hidden (masks)."""
    n = vit.num_patches
    if value.dtype == torch.bool and value.shape[-1] == n and value.numel() % (count * n) == 0:
        masks = value.flatten(0, -2) if value.ndim == 2 else value.transpose(0, 1).flatten(0, -2)
        return [~m for m in masks.split(count)]
    if value.dtype == torch.int64 and value.ndim in (2, 3) and len(value) == count and int(value.max()) < n:
        sets = value.unsqueeze(1) if value.ndim == 2 else value
        return [torch.zeros(count, n, dtype=torch.bool).scatter(1, index, True) for index in sets.unbind(1)]
    return []


def looked_at(
    method: Method, views: Mapping[str, Any], shown_as: Tensor, first: str, only: Only
) -> tuple[list[Tensor], list[str]]:
    """Rows in 0..1 and their names: the items `shown_as` [B, ...], every crop of them, and the sets of patches drawn.

    `only` greys what is not in a set, of the crop that has the items' own shape; without one no set is shown.
    """
    count = len(shown_as)
    crops = {
        k: v for k, v in views.items() if v.is_floating_point() and v.ndim == shown_as.ndim and len(v) % count == 0
    }
    rows, names = [shown_as], [first]
    for name, crop in crops.items():
        for i, part in enumerate(crop.split(count)):
            rows.append(visible(part, method))
            names.append(name if len(crop) == count else f"{name} {i + 1}")
    base = next((v[:count] for v in crops.values() if v.shape[1:] == shown_as.shape[1:]), None)
    drawn: list[Tensor] = []
    for name, value in views.items():
        sets = kept_sets(value, method.encoder, count) if base is not None else []
        for i, shown in enumerate(sets):
            if base is None or any(torch.equal(shown, other) for other in drawn):  # a mask is the rest of what is kept
                continue
            drawn.append(shown)
            rows.append(only(visible(base, method), shown, method.encoder))
            names.append(name if len(sets) == 1 else f"{name} {i + 1}")
    return rows, names


def visible(x: Tensor, method: Method) -> Tensor:
    """A normalised crop back to 0..1."""
    return (x * method.std + method.mean).clamp(0, 1)


def colours(tokens: Tensor) -> Tensor:
    """Tokens [B, N, D] -> [B, N, 3] in 0..1: the first three principal components of all of them together."""
    flat = tokens.flatten(0, 1)
    _, _, axes = torch.linalg.svd(flat, full_matrices=False)
    found = flat @ axes[:3].T
    low, high = found.quantile(0.02, 0), found.quantile(0.98, 0)
    found = ((found - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return found.unflatten(0, tokens.shape[:2])


def sheet(rows: list[Tensor], most: int = SIDE) -> bytes:
    """Rows of images [B, C, H, W] in 0..1 as one WebP, none larger than `most` pixels a side."""
    side = min(most, rows[0].shape[-1])
    rows = [_fit(_three(r.float()), side) for r in rows]
    step = side + GAP
    grid = torch.ones(3, len(rows) * step - GAP, len(rows[0]) * step - GAP)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            grid[:, i * step : i * step + side, j * step : j * step + side] = image
    out = io.BytesIO()
    Image.fromarray((grid.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()).save(out, "WEBP", quality=88)
    return out.getvalue()


def _fit(x: Tensor, side: int) -> Tensor:
    """Maps keep their blocks, photographs are averaged down."""
    if x.shape[-1] > side:
        return F.interpolate(x, size=(side, side), mode="area")
    return F.interpolate(x, size=(side, side), mode="nearest")


def _three(x: Tensor) -> Tensor:
    """Any number of channels as three."""
    if x.shape[1] == 2:
        return torch.cat([x, x[:, :1] * 0], 1)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
