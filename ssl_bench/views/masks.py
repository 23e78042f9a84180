"""Batched mask samplers: which patches a student sees, loses, or has to predict.

Shapes: B local images, N = H * W patches in raster order, T targets per image. Every sampler runs on `rng.device`
and returns rectangular tensors; in a boolean mask True means removed (masked), in `keep`, `context` and `targets`
stand patch numbers in raster order. Impossible settings raise `ValueError` at once; nothing here can loop forever.

An image's mask depends on the step's seed and on its place in the global batch, not on the number of processes.
Only `multiblock` cuts lists to a minimum over the batch: it draws for the whole global batch (`rng.whole`), takes the
minimum there and cuts this process' rows last, so all processes agree without talking to each other.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ssl_bench.rng import Rng

Grid = tuple[int, ...]  # patches: rows, columns
Range = tuple[float, float]
Sizes = tuple[Grid, ...]
Pair = tuple[Tensor, Tensor]

SIZE_STEPS = 1024  # the one uniform number behind a block's scale and aspect, in this many steps: sizes can be listed
ATTEMPTS = 16  # placements tried per image before the guaranteed one; at the defaults the second is already rare
ROUNDS = 32  # blocks proposed per image in `beit_blocks`; more hardly fills more, most late ones no longer fit


def multiblock(
    rng: Rng,
    grid: Grid,
    targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    min_keep: int | None = None,
) -> Pair:
    """I-JEPA's multi-block masks: context [B, Nc] and targets [B, T, Nt] (Assran et al. 2023, official multiblock.py).

    As in the official code: one target size and one context size per batch, scale and aspect from one uniform number,
    every block smaller than the grid in both directions, positions per image, context = its block minus all targets,
    context lists cut to the shortest of the global batch. Different on purpose: blocks reach the last row and column
    too; context and targets never overlap; the cut keeps a random subset instead of the upper part of the image; an
    image whose context is left with fewer than `min_keep` patches is drawn again at most `ATTEMPTS` times, then its
    targets share one corner and its context takes the opposite one. `min_keep` defaults to min(10, N / 16).
    """
    need = max(1, min(10, grid[0] * grid[1] // 16)) if min_keep is None else min_keep
    target_sizes = block_sizes(grid, target_scale, target_aspect)
    context_sizes = block_sizes(grid, context_scale, (1.0, 1.0))
    _check_multiblock(grid, targets, target_sizes, context_sizes, need)
    target_pick, context_pick = (rng.shared(2) * SIZE_STEPS).long().tolist()
    target_size, context_size = target_sizes[target_pick], context_sizes[context_pick]

    whole = rng.whole
    places = whole.rand(ATTEMPTS + 1, targets + 1, 2)  # (top, left) as shares of the room; the last one is the context
    corner = (places[:, -1, :1] < 0.5).float()  # the guaranteed placement: all targets in one corner, context opposite
    places[:, -1, :targets], places[:, -1, targets:] = corner, 1 - corner
    context = torch.zeros(rng.batch, grid[0] * grid[1], dtype=torch.bool, device=rng.device)
    tops = torch.zeros(rng.batch, targets, 2, dtype=torch.long, device=rng.device)
    todo = torch.arange(rng.batch, device=rng.device)
    for attempt in range(ATTEMPTS + 1):
        place = places[todo, attempt]
        tops[todo] = _corner(place[:, :targets], target_size, grid)
        free = _rectangle(_corner(place[:, targets], context_size, grid), context_size, grid)
        free &= ~_rectangle(tops[todo], target_size, grid).any(1)
        context[todo] = free.flatten(1)
        todo = todo[context[todo].sum(1) < need]
        if len(todo) == 0:
            break
    noise = whole.rand(context.shape[1]).masked_fill(~context, 2.0)
    keep = noise.argsort(1)[:, : int(context.sum(1).min())].sort(1).values
    return keep[rng.rows], _block_indices(tops[rng.rows], target_size, grid)


def block(rng: Rng, grid: Grid, scale: float = 0.6, aspect: Range = (0.75, 1.5)) -> Pair:
    """One large target block, context its complement (I-JEPA Table 6 "block"): [B, N - Nt], [B, 1, Nt].

    One size per batch, positions per image; the whole grid is used.
    """
    sizes = block_sizes(grid, (scale, scale), aspect)
    size = sizes[int(rng.shared(1) * SIZE_STEPS)]
    top = _corner(rng.rand(1, 2), size, grid)
    mask = _rectangle(top, size, grid).flatten(1)
    return indices(~mask, mask.shape[1] - size[0] * size[1]), _block_indices(top, size, grid)


def raster(rng: Rng, grid: Grid) -> Pair:
    """One random quadrant is the context, the other three are the targets (I-JEPA Table 6 "raster").

    Returns [B, N / 4] and [B, 3, N / 4]; the grid's sides must be even, or the quadrants would differ in size.
    """
    if grid[0] % 2 or grid[1] % 2:
        raise ValueError(f"raster masks need an even number of rows and columns; the grid is {grid[0]} x {grid[1]}.")
    half = (grid[0] // 2, grid[1] // 2)
    tops = torch.tensor([(r * half[0], c * half[1]) for r in (0, 1) for c in (0, 1)], device=rng.device)
    quadrants = _block_indices(tops[rng.rand(4).argsort(1)], half, grid)
    return quadrants[:, 0], quadrants[:, 1:]


def random(rng: Rng, grid: Grid, ratio: float = 0.6) -> Pair:
    """Random patches are the target, the rest is the context (I-JEPA Table 6 "random"): [B, N - Nt], [B, 1, Nt]."""
    num_patches = grid[0] * grid[1]
    keep, mask = random_keep(rng, num_patches, ratio)
    return keep, indices(mask, num_patches - keep.shape[1])[:, None]


def random_keep(rng: Rng, num_patches: int, ratio: float) -> Pair:
    """MAE's random masking: keep [B, K] with K = int(N * (1 - ratio)), and mask [B, N] (True = removed).

    As in MAE, the K smallest of N uniform numbers stay. `keep` is sorted, which MAE's is not: attention cannot tell,
    and an order that carries no information makes images and masks comparable.
    """
    keep = int(num_patches * (1 - ratio))
    _check_keep(ratio, keep, num_patches)
    kept = rng.rand(num_patches).argsort(1)[:, :keep].sort(1).values
    return kept, _mask_without(kept, num_patches)


def beit_blocks(
    rng: Rng, grid: Grid, ratio: Tensor | float, min_patches: int, aspect: Range = (0.3, 1 / 0.3), exact: bool = False
) -> Tensor:
    """Blockwise masks of BEiT, iBOT and DINOv2: mask [B, N], at most floor(ratio * N) patches in every image.

    `ratio` is one number or one per local image [B]; 0 masks nothing. Each of `ROUNDS` rounds proposes one block per
    image: area uniform between `min_patches` and what is still missing, log-uniform aspect, smaller than the grid;
    it is taken if it adds something and not too much. Like the originals this may undershoot by a few patches;
    `exact` fills up with random ones (data2vec 1.0 needs 120 of 196 in every image).
    """
    height, width = _check_grid(grid)
    ratio = torch.as_tensor(ratio, dtype=torch.float32, device=rng.device).expand(rng.local)
    _check_range("aspect", aspect, math.inf)
    if min_patches < 1 or bool(((ratio < 0) | (ratio > 1)).any()):
        raise ValueError(f"Blockwise masks need ratios in [0, 1] and min_patches >= 1: {ratio}, {min_patches}.")
    count = (ratio * (height * width) + 1e-3).floor().long()  # 120 / 196 * 196 must give 120 in float32
    low, high = math.log(aspect[0]), math.log(aspect[1])
    mask = torch.zeros(rng.local, height, width, dtype=torch.bool, device=rng.device)
    for area_draw, aspect_draw, top_draw, left_draw in rng.rand(ROUNDS, 4).permute(1, 2, 0):
        missing = count - mask.sum((1, 2))
        area = min_patches + area_draw * (missing - min_patches)  # below min_patches once less is missing, as in iBOT
        shape = torch.exp(low + aspect_draw * (high - low))
        h, w = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
        top, left = (top_draw * (height - h + 1)).long(), (left_draw * (width - w + 1)).long()
        new = _rectangle(torch.stack((top, left), 1), (h, w), grid) & ~mask
        taken = (h < height) & (w < width) & (new.sum((1, 2)) <= missing)
        mask |= new & taken[:, None, None]
    mask = mask.flatten(1)
    if exact:
        order = (rng.rand(height * width) + (~mask).float()).argsort(1).argsort(1)  # masked ones first, then at random
        mask = order < count[:, None]
    return mask


def inverse_block(rng: Rng, grid: Grid, mask_ratio: float, block: int = 3, adjust: float = 0.0) -> Pair:
    """data2vec 2.0's inverse-block masks: keep [B, K] with K = int(N * (1 - mask_ratio)), and mask [B, N].

    int(N * (1 - mask_ratio + adjust) / block**2) blocks of `block` x `block` are kept, clipped at the border; then
    random patches are dropped or added until exactly K are kept. `adjust` (published 0.07) makes up for overlaps by
    placing more blocks and does not change K (fairseq `compute_block_mask_2d`, without its optional branches); on an
    8 x 8 grid the rounding leaves one block either way.
    """
    height, width = _check_grid(grid)
    num_patches = height * width
    keep = int(num_patches * (1 - mask_ratio))
    _check_keep(mask_ratio, keep, num_patches)
    blocks = int(num_patches * (1 - mask_ratio + adjust) / max(1, block) ** 2)
    if not 0 < block <= min(grid) or blocks < 1:
        raise ValueError(f"No block of side {block} fits a {height} x {width} grid of which {keep} patches are kept.")
    centre = (rng.rand(blocks) * num_patches).long()
    top = torch.stack((centre // width, centre % width), -1) - block // 2
    kept = _rectangle(top, (block, block), grid).any(1).flatten(1)
    order = (rng.rand(num_patches) + (~kept).float()).argsort(1)  # those in blocks first, each group at random
    chosen = order[:, :keep].sort(1).values
    return chosen, _mask_without(chosen, num_patches)


def inverse_rectangle(rng: Rng, grid: Grid, mask_ratio: float, aspect: Range = (0.5, 2.0), roll: bool = True) -> Pair:
    """CAPI's inverse block: one kept rectangle, rolled around the torus: keep [B, K], mask [B, N].

    int(N * mask_ratio) patches are masked. The rectangle is the smallest of a log-uniform aspect (limited so that it
    fits) that holds K patches, with its last patches in raster order left out to get exactly K (official data.py).
    """
    height, width = _check_grid(grid)
    num_patches = height * width
    keep = num_patches - int(num_patches * mask_ratio)
    _check_keep(mask_ratio, keep, num_patches)
    _check_range("aspect", aspect, math.inf)
    fits = math.log(keep / width**2), math.log(height**2 / keep)
    low, high = (min(max(math.log(a), fits[0]), fits[1]) for a in aspect)
    draws = rng.rand(5)
    shape = torch.exp(low + draws[:, 0] * (high - low))
    # the tolerance and the bounds: a float's last bit must not push a side that just fits over the edge
    h = ((keep * shape).sqrt() - 1e-4).ceil().long().clamp(max=height)
    w = torch.maximum(((keep / shape).sqrt() - 1e-4).ceil().long(), -(-keep // h)).clamp(max=width)
    top, left = (draws[:, 1] * (height - h + 1)).long(), (draws[:, 2] * (width - w + 1)).long()
    kept = _rectangle(torch.stack((top, left), 1), (h, w), grid).flatten(1)
    chosen = indices(kept, keep)
    if roll:
        down, right = (draws[:, 3:4] * height).long(), (draws[:, 4:5] * width).long()
        chosen = ((chosen // width + down) % height * width + (chosen % width + right) % width).sort(1).values
    return chosen, _mask_without(chosen, num_patches)


def simmim(rng: Rng, grid: Grid, ratio: float, unit: int) -> Tensor:
    """SimMIM's random masking in squares of `unit` x `unit` patches: mask [B, N].

    The number of masked squares is rounded up, as in the official code; there one square is 32 px.
    """
    height, width = _check_grid(grid)
    if unit < 1 or height % unit or width % unit:
        raise ValueError(f"SimMIM's unit of {unit} patches does not divide the {height} x {width} grid.")
    rows, columns = height // unit, width // unit
    count = math.ceil(rows * columns * ratio - 1e-9)
    _check_keep(ratio, rows * columns - count, rows * columns)
    mask = rng.rand(rows * columns).argsort(1).argsort(1) < count
    return mask.view(-1, rows, columns).repeat_interleave(unit, 1).repeat_interleave(unit, 2).flatten(1)


def indices(mask: Tensor, count: int) -> Tensor:
    """Where `mask` [B, N] is True, in raster order: [B, count]. Every row must hold at least `count`; more are cut."""
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]


@lru_cache(maxsize=256)
def block_sizes(grid: Grid, scale: Range, aspect: Range) -> Sizes:
    """The block (rows, columns) for each of `SIZE_STEPS` values of the one uniform number of I-JEPA's sampler.

    area = int(N * scale), rows = round(sqrt(area * aspect)), columns = round(sqrt(area / aspect)), each at least 1
    and smaller than the grid.
    """
    height, width = _check_grid(grid)
    _check_range("scale", scale, 1.0)
    _check_range("aspect", aspect, math.inf)
    sizes = []
    for step in range(SIZE_STEPS):
        share = step / SIZE_STEPS
        area = int(height * width * (scale[0] + share * (scale[1] - scale[0])))
        ratio = aspect[0] + share * (aspect[1] - aspect[0])
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        sizes.append((min(max(h, 1), height - 1), min(max(w, 1), width - 1)))
    return tuple(sizes)


@lru_cache(maxsize=256)
def _check_multiblock(grid: Grid, targets: int, target_sizes: Sizes, context_sizes: Sizes, need: int) -> None:
    """Raise where even the guaranteed placement leaves too little context for some size that can be drawn."""
    if targets < 1 or need < 1:
        raise ValueError(f"multiblock needs at least one target and min_keep >= 1; got {targets} and {need}.")
    for th, tw in set(target_sizes):
        for ch, cw in set(context_sizes):
            left = ch * cw - max(0, ch + th - grid[0]) * max(0, cw + tw - grid[1])
            if left < need:
                raise ValueError(
                    f"{th} x {tw} targets can leave {left} patches of a {ch} x {cw} context on a {grid[0]} x {grid[1]} "
                    f"grid, min_keep is {need}: lower target_scale or min_keep, or raise context_scale."
                )


def _check_grid(grid: Grid) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 2:
        raise ValueError(f"Masks need at least 2 x 2 patches; the grid is {' x '.join(map(str, grid))}.")
    return grid[0], grid[1]


def _check_keep(ratio: float, keep: int, total: int) -> None:
    if not 0 < keep < total:
        raise ValueError(f"A mask ratio of {ratio} keeps {keep} of {total} patches: some must stay, some must go.")


def _check_range(name: str, values: Range, top: float) -> None:
    if not 0 < values[0] <= values[1] <= top:
        raise ValueError(f"A block's {name} must be positive, in order and at most {top}; got {values}.")


def _corner(place: Tensor, size: Grid, grid: Grid) -> Tensor:
    """Top-left patch (row, column) of a block from uniform `place` [..., 2]; 1 means the last position."""
    room = torch.tensor([grid[0] - size[0], grid[1] - size[1]], device=place.device)
    return torch.minimum((place * (room + 1)).long(), room)


def _rectangle(top: Tensor, size: tuple[int | Tensor, ...], grid: Grid) -> Tensor:
    """Boolean [..., H, W]: the blocks with top-left patch `top` [..., 2], clipped at the border."""
    row = torch.arange(grid[0], device=top.device) - top[..., :1]
    column = torch.arange(grid[1], device=top.device) - top[..., 1:]
    height, width = (s[..., None] if isinstance(s, Tensor) else s for s in size)
    return ((row >= 0) & (row < height))[..., :, None] & ((column >= 0) & (column < width))[..., None, :]


def _block_indices(top: Tensor, size: Grid, grid: Grid) -> Tensor:
    """Patch numbers [..., h * w] of the blocks with top-left patch `top` [..., 2]."""
    row, column = torch.arange(size[0], device=top.device), torch.arange(size[1], device=top.device)
    offset = (row[:, None] * grid[1] + column).flatten()
    return (top[..., 0] * grid[1] + top[..., 1])[..., None] + offset


def _mask_without(keep: Tensor, num_patches: int) -> Tensor:
    mask = torch.ones(keep.shape[0], num_patches, dtype=torch.bool, device=keep.device)
    return mask.scatter_(1, keep, False)
