"""Pictures of what a run's patch tokens know, for its page: predicted maps beside masks, and matches between views.

Held-out images are of the validation part of the training split; the test split stays sealed.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from results.page import Picture
from ssl_bench.data.dataset import Dataset, Split
from ssl_bench.data.masks import VOID
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.evaluation import matches
from ssl_bench.evaluation.dense_heads import Logistic
from ssl_bench.evaluation.features import centre_share
from ssl_bench.evaluation.map_scorers import miou, overlaps
from ssl_bench.evaluation.patch_maps import PatchMap
from ssl_bench.experiments.sheets import sheet

FITTED, POWER = 300, 1.0  # training images that the drawn maps are read by, and the C of their regression
SQUARES = 3  # patches drawn along each side of a view


def of_run(encoder: Encoder, data: Dataset, rows: np.ndarray) -> list[Picture]:
    """Of the held-out images `rows`: matches, and maps where the set has masks; [] where tokens are not of patches."""
    images = data.val.batch(rows)
    if len(encoder.grid) != 2 or images.ndim != 4:
        return []
    size = (images.shape[-2], images.shape[-1])
    where = PatchMap(size, (encoder.grid[0], encoder.grid[1]), centre_share(encoder, size))
    if _tokens(encoder, images[:1]).shape[1] != where.grid[0] * where.grid[1]:
        return []
    drawn = [matched(encoder, data, images, where)]
    return drawn if data.val.masks is None else [maps(encoder, data, rows, where), *drawn]


def _tokens(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder.encode(images, 1, want_tokens=True)["tokens"].float().cpu().nan_to_num()


def palette(count: int) -> Tensor:
    """Colours [count, 3] in 0..1, far apart; the first is dark, for the background."""
    hues = [colorsys.hsv_to_rgb(i / max(count - 1, 1), 0.85, 1.0) for i in range(count - 1)]
    return torch.tensor([(0.12, 0.12, 0.12), *hues])


def painted(labels: Tensor, count: int) -> Tensor:
    """Label maps uint8 [N, H, W] as pictures [N, 3, H, W]; void is white."""
    table = torch.cat([palette(count), torch.ones(VOID + 1 - count, 3)])
    return table[labels.long()].permute(0, 3, 1, 2)


def maps(encoder: Encoder, data: Dataset, rows: np.ndarray, where: PatchMap) -> Picture:
    """Images, their masks and what a regression on few training images answers."""
    count = len(data.val.mask_classes)
    bank = np.linspace(0, len(data.train) - 1, min(FITTED, len(data.train))).astype(int)
    z = torch.cat([_tokens(encoder, data.train.batch(part)) for part in np.array_split(bank, -(-len(bank) // 100))])
    std, mean = torch.std_mean(z.flatten(0, 1), 0, correction=0)
    std = torch.where(std < 1e-6, 1.0, std)
    head = Logistic(where, count, torch.device("cpu")).fit((z - mean) / std, _masks(data.train, bank), [POWER], 1e-5)
    images, truth = data.val.batch(rows), _masks(data.val, rows)
    found = head.maps((_tokens(encoder, images) - mean) / std, [0])[0]
    score = miou(*overlaps(found, truth, count))
    text = (
        f"{len(rows)} held-out images, their masks and the classes read from patch tokens by a logistic regression on "
        f"{len(bank)} training images (C = {POWER:g}, not chosen: mIoU {score:.0f} on these); white is void"
    )
    pictures = [data.item.floats(images), painted(truth, count), painted(found, count)]
    return Picture("Maps: image, mask, read from patches", text, sheet(pictures))


def _masks(part: Split, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(part.masks[part.index[rows]]))


def matched(encoder: Encoder, data: Dataset, images: Tensor, where: PatchMap) -> Picture:
    """A view of each image with some patches in colour, the nearest patches of the image, and their true places."""
    views = matches.Views.drawn(len(images), torch.Generator().manual_seed(0))
    shown = views.pictures(images)
    far = matches.errors(_tokens(encoder, shown), _tokens(encoder, images), views, where.grid, where.covered)
    near = nearest(_tokens(encoder, shown), _tokens(encoder, images))
    axes = [((torch.arange(SQUARES) + 0.5) * n / SQUARES).long() for n in where.grid]
    chosen = torch.cartesian_prod(*axes)
    chosen = chosen[:, 0] * where.grid[1] + chosen[:, 1]
    seen = far[:, chosen, 0]
    right = 100 * float((seen[seen >= 0] <= 1).float().mean()) if (seen >= 0).any() else 0.0
    own = ((far[..., 1:] - 0.5) / torch.tensor(where.covered) + 0.5) * torch.tensor(where.grid)
    own = own.floor().long().clamp(torch.tensor(0), torch.tensor(where.grid) - 1)
    places = [chosen.expand(len(images), -1), near[:, chosen], (own[..., 0] * where.grid[1] + own[..., 1])[:, chosen]]
    pictures = [data.item.floats(x) for x in (shown, images, images)]
    text = (
        f"A part of each of {len(images)} held-out images with {len(chosen)} patches in colour; below, where the most "
        f"similar patches of the whole image lie, and where they should; {right:.0f} % lie within a patch"
    )
    rows = [marked(picture, at, where) for picture, at in zip(pictures, places, strict=True)]
    return Picture("Matches: view, nearest patches, true places", text, sheet(rows))


def nearest(ours: Tensor, theirs: Tensor) -> Tensor:
    """The patch [B, T] of `theirs` [B, T, D] nearest by cosine to each of `ours`."""
    return (F.normalize(ours, dim=2) @ F.normalize(theirs, dim=2).transpose(1, 2)).argmax(2)


def marked(images: Tensor, places: Tensor, where: PatchMap) -> Tensor:
    """Images [B, C, H, W] in 0..1, grey, with the patches `places` [B, K] in K colours; later ones lie above."""
    grey = 0.6 * images.mean(1, keepdim=True).repeat(1, 3, 1, 1) + 0.2
    out = grey
    paint = palette(places.shape[1] + 1)[1:]
    for k, column in enumerate(places.T):
        here = (where.patches[None] == column[:, None, None]) & where.inside
        out = torch.where(here[:, None], 0.7 * paint[k].view(1, 3, 1, 1) + 0.3 * grey, out)
    return out
