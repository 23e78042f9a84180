"""Contact strips of a finished run on clips: one column per frame, so that a mask is seen over time.

Rows are, for each of a few held-out clips: the clip, the crop that the method looks at, and every set of tubelets that
it keeps; or the clip and its tubelets' features. Clips come from the validation part; the test split stays sealed.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from results.page import Picture
from ssl_bench.data.dataset import Dataset
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.experiments.sheets import colours, looked_at, sheet
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.training.method import Method

SHOWN = 3  # clips on a sheet
CENTRE = 100  # training clips whose mean token is taken off PCA maps


def of_run(method: Method | None, encoder: Encoder, clips: Tensor, data: Dataset) -> list[Picture]:
    """All pictures of a run on clips; without its method (a scratch one, whose code is not run here) features alone."""
    return [*(of_views(method, clips) if method else []), pca_maps(encoder, clips, data)]


def of_views(method: Method, clips: Tensor) -> list[Picture]:
    """The crops and masks that the method draws for these clips, frame by frame."""
    clips, floats = clips[:SHOWN], clips[:SHOWN].float() / 255
    rows, names = looked_at(method, method.views(clips, Rng(0, len(clips)), 0.5), floats, "clip", only)
    alt = f"What the method looks at, for {len(clips)} clips, from left to right in time; rows: {', '.join(names)}"
    return [Picture(f"Views and masks over time: {', '.join(names)}", alt, strips(rows))] if len(rows) > 1 else []


def pca_maps(encoder: Encoder, clips: Tensor, data: Dataset) -> Picture:
    """The first three principal components of the tubelets' features as colours, without what their place gives."""
    bank = np.linspace(0, len(data.train) - 1, min(CENTRE, len(data.train))).astype(int)

    def tokens_of(x: Tensor) -> Tensor:
        return encoder.encode(x, layers=1, want_tokens=True)["tokens"].float().cpu().nan_to_num()

    clips = clips[:SHOWN]
    maps = colours(tokens_of(clips) - tokens_of(data.train.batch(bank)).mean(0)).unflatten(1, encoder.grid)
    maps = through_frames(maps.permute(0, 1, 4, 2, 3), clips.shape)
    text = f"Tubelet features of {len(clips)} held-out clips, three principal components as colours, position removed"
    return Picture("PCA of tubelet features over time", text, strips([clips.float() / 255, maps]))


def strips(rows: list[Tensor]) -> bytes:
    """Rows of clips [B, T, C, H, W] in 0..1: those of the first clip under one another, then those of the next."""
    return sheet([row[i] for i in range(len(rows[0])) for row in rows])


def only(clips: Tensor, shown: Tensor, vit: ViT) -> Tensor:
    """Grey where a tubelet is not among those shown [B, N]."""
    mask = through_frames(shown.float().unflatten(1, vit.grid).unsqueeze(2), clips.shape)
    return clips * mask + 0.5 * (1 - mask)


def through_frames(maps: Tensor, shape: torch.Size) -> Tensor:
    """A map per tubelet [B, T', C, H', W'] in every frame it covers and at the frames' size [B, T, C, H, W]."""
    whole = maps.repeat_interleave(shape[1] // maps.shape[1], 1)
    return F.interpolate(whole.flatten(0, 1), size=tuple(shape[-2:]), mode="nearest").unflatten(0, whole.shape[:2])
