"""Masks of patches on the grids of all kinds: what is hidden in clips stays hidden, groups are drawn evenly."""

from __future__ import annotations

import pytest
import torch

from ssl_bench.rng import Rng
from ssl_bench.views.masks import beit_blocks, inverse_block
from ssl_bench.views.masks_grids import blocks, blockwise, groups, inverse, kept

CLIP, FRAME, CLOUD = (3, 8, 8), (8, 8), (32,)


def shown(keep: torch.Tensor, count: int) -> torch.Tensor:
    """Lists of tokens [..., K] as bool [..., count]."""
    return torch.zeros(*keep.shape[:-1], count, dtype=torch.bool).scatter(-1, keep, True)


@pytest.mark.parametrize(("grid", "block", "adjust"), [(CLIP, 2, 0.07), (FRAME, 2, 0.07), (CLOUD, 0, 0.0)])
def test_kept_and_hidden_are_all_of_the_items(grid, block, adjust):
    count = torch.Size(grid).numel()
    keep, mask = inverse(Rng(0, 6), grid, 0.7, block, adjust, 4)
    assert keep.shape == (6, 4, kept(grid, 0.7)) and mask.shape == (6, 4, count)
    assert torch.equal(shown(keep, count), ~mask) and (keep.diff(dim=-1) > 0).all()
    assert not torch.equal(mask[:, 0], mask[:, 1]), "every mask is a draw of its own"


def test_a_clips_places_are_hidden_at_all_times_and_drawn_as_a_frames():
    """19 of 64 places, int(64 * 0.3), by the sampler of images with the same numbers."""
    keep, mask = inverse(Rng(3, 500), CLIP, 0.7, 2, 0.07, 1)
    frames = mask[:, 0].unflatten(1, (3, 64))
    assert (frames == frames[:, :1]).all() and (frames.sum(2) == 45).all()
    assert torch.equal(frames[:, 0], inverse_block(Rng(3, 500), FRAME, 0.7, 2, 0.07)[1])
    times = [int(((keep >= 64 * t) & (keep < 64 * (t + 1))).sum()) for t in range(3)]
    assert times == [500 * 19] * 3


def test_inverse_blocks_of_spectrograms_have_the_published_share():
    """EAT: 410 of 512 patches hidden, blocks of 5 x 5; here on 4 x 4 patches 13 of 16, which keep 3 of a block of 2."""
    assert (inverse(Rng(0, 50), (8, 64), 0.8, 5, 0.07, 2)[1].sum(-1) == 410).all()
    keep, _ = inverse(Rng(0, 2000), (4, 4), 0.8, 2, 0.07, 1)
    rows, columns = keep[:, 0] // 4, keep[:, 0] % 4
    together = (rows.amax(1) - rows.amin(1) <= 1) & (columns.amax(1) - columns.amin(1) <= 1)
    assert keep.shape[2] == 3
    assert 0.5 < float(together.float().mean()) < 0.8, "9 of 16 corners lie inside; by chance three are together in 6 %"


def test_groups_are_hidden_evenly_and_as_many_as_in_point2vec():
    """int(0.65 * 64) = 41 of 64 groups in its code; every group as often as any other."""
    assert int(groups(Rng(0, 2), 64, 0.65)[1].sum()) == 2 * 41
    mask = groups(Rng(1, 4000), 32, 0.65)[1]
    assert (mask.sum(1) == 20).all()
    assert float((mask.float().mean(0) - 20 / 32).abs().max()) < 0.03  # four standard errors
    pairs = (mask[:, :-1] & mask[:, 1:]).float().mean()
    assert float(pairs) == pytest.approx(20 * 19 / (32 * 31), abs=0.01), (
        "neighbours in the order are not hidden together"
    )


@pytest.mark.parametrize("grid", [CLIP, CLOUD])
def test_blockwise_masks_hide_what_each_item_is_to_have_hidden(grid):
    ratio = torch.linspace(0.1, 0.5, 200)
    ratio[::2] = 0
    mask = blockwise(Rng(0, 200), grid, ratio, 4)
    share = mask.float().mean(1)
    assert not mask[::2].any() and (share <= ratio + 1e-6).all()
    assert float((ratio - share)[1::2].mean()) < 0.04
    if len(grid) == 3:
        assert torch.equal(mask, beit_blocks(Rng(0, 200), FRAME, ratio, 4).repeat(1, 3))


@pytest.mark.parametrize("grid", [CLIP, FRAME, CLOUD])
def test_masks_of_the_first_data2vec_have_the_exact_share(grid):
    mask = blocks(Rng(0, 8), grid, 0.6, 3)
    frame = torch.Size(grid[-2:]).numel()
    assert mask.shape == (8, 3, torch.Size(grid).numel())
    assert (mask.sum(-1) == int(0.6 * frame) * (mask.shape[-1] // frame)).all()


@pytest.mark.parametrize("grid", [CLIP, CLOUD])
def test_a_part_of_the_batch_gets_its_rows(grid):
    size = (0, 0.0) if grid == CLOUD else (2, 0.07)
    for draw in (
        lambda rng: inverse(rng, grid, 0.7, *size, 2)[1], lambda rng: blockwise(rng, grid, 0.4, 2),
        lambda rng: blocks(rng, grid, 0.5, 2),
    ):  # fmt: skip
        assert torch.equal(draw(Rng(5, 8, slice(2, 6))), draw(Rng(5, 8))[2:6])


def test_what_cannot_be_is_a_sentence():
    with pytest.raises(ValueError, match=r"no blocks to keep: set block=3 and adjust=0\.07 to 0"):
        inverse(Rng(0, 2), CLOUD, 0.65, 3, 0.07, 1)
    for ratio, hidden in ((0.01, 0), (1.0, 32)):
        with pytest.raises(ValueError, match=f"hides {hidden} of 32 groups"):
            groups(Rng(0, 2), 32, ratio)
