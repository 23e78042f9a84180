"""Masks of clips against indices and statistics of the official samplers (jepa `51c59d5`, VideoMAE, VideoMAE v2)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_bench.rng import Rng
from ssl_bench.views.masks3d import (
    LONG,
    SHORT,
    Blocks,
    block_size,
    covered,
    cut_lists,
    multiblock3d,
    running_cells,
    through_time,
    tubes,
)  # fmt: skip


def official(grid: Any, configs: Any, batch: int, seed: int, calls: int, longest: float = 1.0) -> list[list[Tensor]]:
    """Hidden tokens [B, N] of each config, with torch's own generator drawn from in the order of the official code."""
    torch.manual_seed(seed)
    out = []
    for step in range(calls):
        found = []
        for blocks in configs:
            generator = torch.Generator().manual_seed(step)
            size = block_size(grid, blocks, [float(torch.rand(1, generator=generator)) for _ in range(3)])
            t, h, w = size
            clips: list[Tensor] = []
            while len(clips) < batch:
                corners = []
                for _ in range(blocks.count):
                    top = torch.randint(0, grid[1] - h + 1, (1,))
                    left = torch.randint(0, grid[2] - w + 1, (1,))
                    start = torch.randint(0, grid[0] - t + 1, (1,))
                    corners.append(torch.cat([start, top, left]))
                hidden = covered(grid, size, torch.stack(corners)[None])[0]
                clips += [] if hidden.all() else [hidden]
            found.append(torch.stack(clips))
        out.append(found)
    return out


@pytest.mark.parametrize(("grid", "configs", "batch", "seed", "expected"), [
    ((8, 14, 14), (SHORT, LONG), 4, 0, [
        [(416, 1144344, 976, 2763966), (112, 252924, 1232, 3453757)],
        [(520, 1449125, 920, 2716353), (160, 272104, 1144, 3355086)],
    ]),
    ((4, 8, 8), (SHORT, LONG), 4, 0, [
        [(72, 33137, 164, 78137), (40, 17086, 168, 72474)], [(64, 26041, 120, 44407), (16, 4272, 168, 71004)],
    ]),
    ((4, 8, 8), (SHORT, LONG), 4, 5, [[(84, 35900, 148, 72080), (32, 13817, 196, 91513)]]),
    ((8, 8, 8), (Blocks(3, (0.2, 0.4), (0.25, 0.75)),), 3, 1, [
        [(342, 259877, 144, 95221)], [(298, 210078, 131, 75213)],
    ]),
    ((1, 16, 16), (Blocks(10, (0.15, 0.15)),), 4, 0, [[(50, 16234, 154, 68038)], [(63, 19651, 148, 71730)]]),
])  # fmt: skip
def test_lists_are_the_published_ones(grid, configs, batch, seed, expected):
    for masks, values in zip(official(grid, configs, batch, seed, len(expected)), expected, strict=True):
        for hidden, value in zip(masks, values, strict=True):
            found = cut_lists(hidden, "first")
            c, t = found.context, found.targets
            assert (c.shape[1], int(c.sum()), t.shape[1], int(t.sum())) == value
            assert c.shape[0] == t.shape[0] == batch


@pytest.mark.parametrize(("grid", "sizes"), [
    (14, ["5,6 6,5 6,5 5,5 5,6 6,5 7,4 6,5", "11,13 12,11 13,11 11,12 11,13 14,10 14,10 13,10"]),
    (8, ["3,3 3,3 3,3 3,3 3,3 4,3 4,2 3,3", "6,7 7,6 7,6 7,7 6,7 8,6 8,5 7,6"]),
    (4, ["1,2 1,1 2,1 1,1 1,2 2,1 2,1 2,1", "3,4 3,3 4,3 3,3 3,4 4,3 4,3 4,3"]),
])  # fmt: skip
def test_block_sizes_of_the_first_steps(grid, sizes):
    for blocks, line in zip((SHORT, LONG), sizes, strict=True):
        found = []
        for step in range(8):
            generator = torch.Generator().manual_seed(step)
            draws = [float(torch.rand(1, generator=generator)) for _ in range(3)]
            found.append("{1},{2}".format(*block_size((4, grid, grid), blocks, draws)))
        assert " ".join(found) == line


def test_statistics_of_our_draws_are_those_of_the_official_sampler():
    """8 frames of 64 px in patches of 8: official, batch 8, 40 draws: context 66 and 27, targets 133 and 181 tokens."""
    draws = [multiblock3d(Rng(seed, 8), (4, 8, 8)) for seed in range(200)]
    for i, (context, targets) in enumerate(((66, 133), (27, 181))):
        sizes = torch.tensor([[float(d[i].context.shape[1]), float(d[i].targets.shape[1])] for d in draws]).mean(0)
        assert sizes[0] == pytest.approx(context, abs=5) and sizes[1] == pytest.approx(targets, abs=5)


@pytest.mark.parametrize("cut", ["first", "spread", "pad"])
def test_context_and_targets_are_disjoint_whole_tubes_until_cut(cut):
    for masks in multiblock3d(Rng(3, 6), (4, 8, 8), cut=cut):
        for c, t, real, asked in zip(masks.context, masks.targets, masks.context_real, masks.targets_real, strict=True):
            context, target = set(c[real].tolist()), set(t[asked].tolist())
            assert context and target and not context & target
            if cut == "pad":
                assert context | target == set(range(256))  # nothing is lost
                assert {i % 64 for i in context} == {i for i in context if i < 64}
        if cut != "pad":
            assert masks.context_real.all() and masks.targets_real.all()


def test_the_published_cut_drops_the_end_of_clips_and_the_spread_one_does_not():
    last = {}
    for cut in ("first", "spread"):
        kept = torch.cat([multiblock3d(Rng(s, 24), (8, 14, 14), cut=cut)[0].context.flatten() for s in range(5)])  # type: ignore[arg-type]
        last[cut] = float((kept >= 7 * 196).double().mean())
    assert last["first"] < 0.06 < 0.1 < last["spread"]


def test_a_part_of_the_batch_gets_what_the_whole_batch_gets():
    whole = multiblock3d(Rng(1, 8), (4, 8, 8))
    part = multiblock3d(Rng(1, 8, slice(2, 5)), (4, 8, 8))
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a.context[2:5], b.context) and torch.equal(a.targets[2:5], b.targets)


def test_impossible_blocks_are_refused():
    with pytest.raises(ValueError, match="One block covers the 4 x 2 x 2 grid"):
        multiblock3d(Rng(0, 2), (4, 2, 2), [Blocks(1, (1.0, 1.0))])
    with pytest.raises(ValueError, match="need a grid of time"):
        multiblock3d(Rng(0, 2), (8, 8))


@pytest.mark.parametrize(("side", "ratio", "kept"), [
    (14, 0.9, 20), (14, 0.95, 10), (8, 0.9, 7), (8, 0.75, 16), (7, 0.9, 5), (4, 0.9, 2)
])  # fmt: skip
def test_tubes_hide_the_same_places_at_all_times(side, ratio, kept):
    keep, mask = tubes(Rng(0, 3), (4, side, side), ratio)
    assert keep.shape == (3, 4 * kept) and mask.shape == (3, 4 * side**2)
    assert torch.equal(mask.view(3, 4, -1)[:, :1].expand(-1, 4, -1), mask.view(3, 4, -1))
    assert torch.equal((~mask).nonzero()[:, 1].view(3, -1), keep)


def test_running_cells_turn_with_time():
    cells = running_cells((4, 4, 4), torch.arange(4)).view(4, 4, 4, 4)[:, :, :2, :2].int().flatten(2)
    units = [[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]
    assert cells[:, 0].tolist() == units and cells[0].tolist() == units


def test_an_images_mask_stays_as_it_is():
    places = torch.tensor([[0, 3]])
    assert through_time(places, (2, 2)) is places and through_time(places, (2, 2, 2)).tolist() == [[0, 3, 4, 7]]
