"""Maps and matches on the page: what is drawn is what the tokens say, of held-out images alone."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ssl_bench.config.schema import DataConfig, ViTConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.data.masks import VOID
from ssl_bench.encoders.references import untrained
from ssl_bench.evaluation.patch_maps import PatchMap
from ssl_bench.experiments import dense_pictures
from ssl_bench.experiments.sheets import GAP

TINY = ViTConfig(patch_size=6, embed_dim=32, depth=1, num_heads=2)


def test_masks_are_painted_by_class_and_void_is_white() -> None:
    found = dense_pictures.painted(torch.tensor([[[0, 1], [2, VOID]]], dtype=torch.uint8), 3)
    assert torch.equal(found[0, :, 0, 1], dense_pictures.palette(3)[1]) and found[0, :, 1, 1].tolist() == [1, 1, 1]
    assert len(dense_pictures.palette(21).unique(dim=0)) == 21


def test_places_are_marked_where_the_patches_lie() -> None:
    where = PatchMap((12, 12), (2, 2))
    found = dense_pictures.marked(torch.zeros(1, 3, 12, 12), torch.tensor([[3, 0]]), where)
    first, second = 0.7 * dense_pictures.palette(3)[1:] + 0.06
    assert torch.allclose(found[0, :, 9, 9], first) and torch.allclose(found[0, :, 2, 2], second)
    assert torch.allclose(found[0, :, 2, 9], torch.tensor(0.2))
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(dense_pictures.nearest(3 * tokens[:, order], tokens), order.expand(2, -1))


def test_a_set_with_masks_gives_maps_and_one_without_gives_matches_alone() -> None:
    data = open_data(DataConfig("factors:80", image_size=48))
    encoder, rows = untrained(TINY, 48, 0, data), np.array([0, 3, 5])
    found = dense_pictures.of_run(encoder, data, rows)
    assert [p.title.partition(":")[0] for p in found] == ["Maps", "Matches"]
    size = Image.open(io.BytesIO(found[0].webp)).size
    assert size == (3 * 48 + 2 * GAP, 3 * 48 + 2 * GAP)
    bare = replace(data, val=replace(data.val, masks=None))
    assert [p.title.partition(":")[0] for p in dense_pictures.of_run(encoder, bare, rows)] == ["Matches"]
