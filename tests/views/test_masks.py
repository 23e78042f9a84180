"""Mask samplers: sizes, counts, coverage, disjointness, and the same masks on any number of processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_bench.rng import Rng
from ssl_bench.views import masks

GRIDS = [(n, n) for n in range(4, 17)] + [(4, 9), (12, 5), (2, 2), (3, 3)]
SAMPLERS: dict[str, Callable[[Rng], object]] = {
    "multiblock": lambda rng: masks.multiblock(rng, (12, 12)),
    "block": lambda rng: masks.block(rng, (12, 12)),
    "raster": lambda rng: masks.raster(rng, (12, 12)),
    "random": lambda rng: masks.random(rng, (12, 12)),
    "random_keep": lambda rng: masks.random_keep(rng, 144, 0.75),
    "beit_blocks": lambda rng: masks.beit_blocks(rng, (12, 12), 0.4, 4),
    "beit_exact": lambda rng: masks.beit_blocks(rng, (12, 12), 0.6, 16, exact=True),
    "inverse_block": lambda rng: masks.inverse_block(rng, (12, 12), 0.8, 3, 0.07),
    "inverse_rectangle": lambda rng: masks.inverse_rectangle(rng, (12, 12), 0.65),
    "simmim": lambda rng: masks.simmim(rng, (12, 12), 0.6, 2),
}


def as_mask(index: Tensor, num_patches: int) -> Tensor:
    """[B, K] patch numbers -> bool [B, N]; fails where a number repeats or is out of range."""
    mask = torch.zeros(index.shape[0], num_patches, dtype=torch.long).scatter_add_(1, index, torch.ones_like(index))
    assert mask.max() <= 1
    return mask.bool()


def tensors(out: object) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]  # type: ignore[list-item]


# I-JEPA


@pytest.mark.parametrize(
    ("side", "low", "high"),
    [(14, 30, 40), (16, 35, 54), (12, 20, 30), (8, 9, 12)],  # methods.md 1.1, by the official code
)
def test_target_sizes_are_ijepas(side: int, low: int, high: int) -> None:
    sizes = set(masks.block_sizes((side, side), (0.15, 0.2), (0.75, 1.5)))
    assert min(h * w for h, w in sizes) == low
    assert max(h * w for h, w in sizes) == high
    if side == 14:
        assert sizes == {(7, 5), (5, 6), (6, 6), (6, 5), (8, 5)}
    assert set(masks.block_sizes((side, side), (0.85, 1.0), (1.0, 1.0))) == {(side - 1, side - 1)}


@pytest.mark.parametrize(("side", "mean"), [(14, 62), (16, 83), (12, 41)])
def test_context_counts_are_ijepas(side: int, mean: float) -> None:
    """The table's means depend on its batch (more images, lower minimum); 16 images reproduce them within 6 %."""
    counts = [masks.multiblock(Rng(seed, 16), (side, side))[0].shape[1] for seed in range(150)]
    assert sum(counts) / len(counts) == pytest.approx(mean, rel=0.06)


def test_multiblock_uses_the_whole_grid_evenly() -> None:
    grid = (12, 12)
    context_hits, target_hits = torch.zeros(144), torch.zeros(144)
    for seed in range(60):
        context, targets = masks.multiblock(Rng(seed, 32), grid)
        context_hits += as_mask(context, 144).sum(0)
        for target in targets.unbind(1):
            target_hits += as_mask(target, 144).sum(0)
    for hits in (context_hits, target_hits):
        assert hits.min() > 0  # the official sampler never touches the last row and column
        image = hits.view(grid)
        for flipped in (image.flip(0), image.flip(1)):
            assert (image - flipped).abs().mean() < 0.1 * image.mean()  # neither end is preferred


def test_the_cut_is_not_a_raster_prefix() -> None:
    rows = [(masks.multiblock(Rng(seed, 64), (14, 14))[0] // 14).float().mean() for seed in range(20)]
    assert torch.stack(rows).mean() == pytest.approx(6.5, abs=0.2)  # the official cut lies near 5.2


@pytest.mark.parametrize("grid", GRIDS)
def test_multiblock_never_hangs_and_is_disjoint(grid: tuple[int, int]) -> None:
    num_patches = grid[0] * grid[1]
    for seed in range(25):
        context, targets = masks.multiblock(Rng(seed, 16), grid)
        assert context.shape[1] >= max(1, min(10, num_patches // 16))
        assert (context.diff(dim=1) > 0).all()
        seen = as_mask(context, num_patches)
        for target in targets.unbind(1):
            assert not (seen & as_mask(target, num_patches)).any()


def test_targets_are_rectangles_of_one_size() -> None:
    _, targets = masks.multiblock(Rng(3, 16), (12, 12))
    rows, columns = targets // 12, targets % 12
    height, width = rows.amax(2) - rows.amin(2) + 1, columns.amax(2) - columns.amin(2) + 1
    assert (height * width == targets.shape[2]).all()
    assert height.unique().numel() == width.unique().numel() == 1


def test_the_guaranteed_placement() -> None:
    """Sixty targets cover everything: every attempt fails, and all targets share the corner opposite the context."""
    context, targets = masks.multiblock(Rng(0, 32), (8, 8), targets=60, min_keep=43)
    assert context.shape[1] >= 43  # in the same corner at most 40 would be left
    assert (targets == targets[:, :1]).all()
    assert targets[:, 0, 0].unique().numel() > 1  # not always the same corner
    seen = as_mask(context, 64)
    assert not (seen & as_mask(targets[:, 0], 64)).any()


def test_impossible_settings_raise_at_once() -> None:
    rng = Rng(0, 4)
    for call in (
        lambda: masks.multiblock(rng, (8, 8), min_keep=60),
        lambda: masks.multiblock(rng, (8, 8), targets=0),
        lambda: masks.multiblock(rng, (1, 8)),
        lambda: masks.multiblock(rng, (8, 8), target_scale=(0.3, 0.2)),
        lambda: masks.block(rng, (8, 8), scale=1.5),
        lambda: masks.raster(rng, (7, 8)),
        lambda: masks.random_keep(rng, 16, 0.99),
        lambda: masks.random_keep(rng, 16, 0.0),
        lambda: masks.beit_blocks(rng, (8, 8), 1.2, 4),
        lambda: masks.beit_blocks(rng, (8, 8), 0.5, 0),
        lambda: masks.inverse_block(rng, (8, 8), 0.99),
        lambda: masks.inverse_block(rng, (8, 8), 0.8, block=9),
        lambda: masks.inverse_rectangle(rng, (8, 8), 1.0),
        lambda: masks.simmim(rng, (8, 8), 0.6, 3),
    ):
        with pytest.raises(ValueError, match=r"\w+ .*\."):
            call()


@pytest.mark.parametrize("name", ["block", "raster", "random"])
def test_ablation_masks_are_complements(name: str) -> None:
    for grid in ((8, 8), (6, 10)):
        context, targets = getattr(masks, name)(Rng(1, 32), grid)
        assert targets.shape[1] == {"block": 1, "raster": 3, "random": 1}[name]
        num_patches = grid[0] * grid[1]
        total = as_mask(context, num_patches).long() + as_mask(targets.flatten(1), num_patches).long()
        assert (total == 1).all()
        if name != "raster" and grid == (8, 8):  # on 6 x 10 the block is cut to 5 rows
            assert targets.shape[2] == pytest.approx(0.6 * num_patches, rel=0.12)


def test_raster_context_is_every_quadrant() -> None:
    context, _ = masks.raster(Rng(0, 64), (4, 4))
    assert {tuple(c) for c in context.tolist()} == {(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)}


# MAE, BEiT and its heirs


@pytest.mark.parametrize(("num_patches", "ratio", "kept"), [(196, 0.75, 49), (64, 0.75, 16), (144, 0.6, 57)])
def test_random_keep(num_patches: int, ratio: float, kept: int) -> None:
    keep, mask = masks.random_keep(Rng(0, 64), num_patches, ratio)
    assert keep.shape == (64, kept)
    assert torch.equal(as_mask(keep, num_patches), ~mask)
    assert (keep.diff(dim=1) > 0).all()
    assert not (mask == mask[:1]).all()


@pytest.mark.parametrize(("grid", "min_patches"), [((14, 14), 16), ((14, 14), 4), ((8, 8), 4), ((6, 6), 4)])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_beit_blocks_never_exceed(grid: tuple[int, int], min_patches: int, ratio: float) -> None:
    count = int(ratio * grid[0] * grid[1] + 1e-3)
    got = masks.beit_blocks(Rng(0, 128), grid, ratio, min_patches).sum(1)
    assert got.max() <= count
    assert got.float().mean() > count - 3  # short by a few patches at most


def test_beit_blocks_are_blocks() -> None:
    """Neighbours share their state far more often than at random (0.58 for independent patches at 30 %)."""
    mask = masks.beit_blocks(Rng(0, 128), (14, 14), 0.3, 16).view(-1, 14, 14)
    assert (mask[:, 1:] == mask[:, :-1]).float().mean() > 0.75
    assert (mask[:, -1].any(1) & mask[:, :, -1].any(1)).any()  # the last row and column take part


def test_beit_ratio_per_image_and_exact() -> None:
    ratio = torch.tensor([0.0, 0.1, 0.5, 120 / 196])
    mask = masks.beit_blocks(Rng(0, 4), (14, 14), ratio, 16, exact=True)
    assert mask.sum(1).tolist() == [0, 19, 98, 120]
    rough = masks.beit_blocks(Rng(0, 4), (14, 14), ratio, 16)
    assert (mask | ~rough).all()  # exact only adds
    every = torch.arange(197)  # ratio = count / 196 must give back the count, whatever its last bit
    assert torch.equal(masks.beit_blocks(Rng(0, 197), (14, 14), every / 196, 4, exact=True).sum(1), every)
    assert masks.beit_blocks(Rng(1, 64), (14, 14), 120 / 196, 16, exact=True).sum(1).unique().tolist() == [120]


@pytest.mark.parametrize(("grid", "kept"), [((14, 14), 39), ((8, 8), 12), ((12, 6), 14)])
def test_inverse_block(grid: tuple[int, int], kept: int) -> None:
    num_patches = grid[0] * grid[1]
    keep, mask = masks.inverse_block(Rng(0, 256), grid, 0.8, 3, 0.07)
    assert keep.shape == (256, kept)
    assert torch.equal(as_mask(keep, num_patches), ~mask)
    image = (~mask).view(-1, *grid)
    together = (image[:, 1:] & image[:, :-1]).float().mean() / image.float().mean()
    assert together > 0.35  # 0.2 for independent patches
    for flipped in (image.flip(1), image.flip(2)):  # blocks lie around their centre, the border clips both ends alike
        assert (image.float() - flipped.float()).mean(0).abs().mean() < 0.05
    plain, _ = masks.inverse_block(Rng(0, 256), grid, 0.8, 3, 0.0)
    assert plain.shape == keep.shape
    assert torch.equal(plain, keep) == (grid == (8, 8))  # one block with and without the adjustment


def test_inverse_rectangle() -> None:
    keep, mask = masks.inverse_rectangle(Rng(0, 256), (16, 16), 0.65, roll=False)
    assert mask.sum(1).unique().tolist() == [166]  # CAPI's published count
    assert torch.equal(as_mask(keep, 256), ~mask)
    rows, columns = keep // 16, keep % 16
    height, width = rows.amax(1) - rows.amin(1) + 1, columns.amax(1) - columns.amin(1) + 1
    assert (height * width - keep.shape[1] < torch.maximum(height, width) + width).all()
    assert (height / width).min() > 0.4
    assert (height / width).max() < 2.5
    assert height.unique().numel() > 3
    rolled, mask = masks.inverse_rectangle(Rng(0, 256), (16, 16), 0.65)
    assert torch.equal(as_mask(rolled, 256), ~mask)
    image = (~mask).view(-1, 16, 16)
    assert (image[:, 0] & image[:, -1]).any()  # some wrap around
    assert image.float().mean(0).std() < 0.05  # every position is kept equally often


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.65, 0.9, 0.97])
def test_inverse_rectangle_fits_any_grid(ratio: float) -> None:
    for grid in GRIDS[:-2]:
        num_patches = grid[0] * grid[1]
        if int(num_patches * ratio) > 0:
            keep, mask = masks.inverse_rectangle(Rng(0, 64), grid, ratio)
            assert torch.equal(as_mask(keep, num_patches), ~mask)
            assert mask.sum(1).unique().tolist() == [int(num_patches * ratio)]


def test_simmim() -> None:
    mask = masks.simmim(Rng(0, 32), (12, 12), 0.6, 2)
    units = mask.view(32, 6, 2, 6, 2)
    assert (units == units[:, :, :1, :, :1]).all()
    assert mask.sum(1).unique().tolist() == [22 * 4]  # ceil(0.6 * 36) squares


# Every sampler


@pytest.mark.parametrize("name", SAMPLERS)
def test_processes_agree(name: str) -> None:
    whole = tensors(SAMPLERS[name](Rng(5, 12)))
    parts = [tensors(SAMPLERS[name](Rng(5, 12, rows))) for rows in (slice(0, 5), slice(5, 12))]
    for one, *split in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.cat(split))


@pytest.mark.parametrize("name", SAMPLERS)
def test_deterministic_and_seeded(name: str) -> None:
    first, again, other = (tensors(SAMPLERS[name](Rng(seed, 16))) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert any(not (a == a[:1]).all() for a in first)  # images of one batch differ


def test_streams_stay_in_step_after_a_sampler() -> None:
    """What follows a sampler is equal too: drawing for the whole batch must not move one process further on."""
    one, two = Rng(5, 8), Rng(5, 8, slice(4, 8))
    masks.multiblock(one, (8, 8))
    masks.multiblock(two, (8, 8))
    assert torch.equal(one.rand(3)[4:], two.rand(3))


def test_indices() -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    assert masks.indices(mask, 3).tolist() == [[0, 2, 3], [1, 2, 3]]
    assert masks.indices(mask, 2).tolist() == [[0, 2], [1, 2]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_on_a_gpu(name: str) -> None:
    out = tensors(SAMPLERS[name](Rng(0, 16, device="cuda")))
    assert all(t.is_cuda and len(t) == 16 for t in out)
