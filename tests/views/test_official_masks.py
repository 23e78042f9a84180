"""I-JEPA's official sampler, bit for bit, and what ours does instead: coverage per patch at batch 128."""

from __future__ import annotations

import pytest
import torch

from ssl_bench.rng import Rng
from ssl_bench.views import masks
from ssl_bench.views.official_masks import official_multiblock


def test_the_official_draws() -> None:
    """reference/methods.md, section 3: two calls of the official collator, 224 / 16, batch 4, torch.manual_seed(0).

    Places come from torch's CPU generator (values of torch 2.13).
    """
    generator = torch.Generator().manual_seed(0)
    context, targets = official_multiblock(0, generator, 4, (14, 14))
    assert tuple(context.shape) == (4, 59) and int(context.sum()) == 17504
    assert tuple(targets.shape) == (4, 4, 36) and targets.sum((0, 2)).tolist() == [14184, 15444, 11772, 13140]
    context, targets = official_multiblock(1, generator, 4, (14, 14))
    assert tuple(context.shape) == (4, 74) and int(context.sum()) == 24710
    assert tuple(targets.shape) == (4, 4, 35) and targets.sum((0, 2)).tolist() == [12915, 11900, 13720, 11830]


def test_the_official_sampler_refuses_where_it_would_hang() -> None:
    with pytest.raises(ValueError, match="never return"):  # 3 x 3 targets
        official_multiblock(1, torch.Generator(), 1, (8, 8), target_scale=(0.14, 0.15), target_aspect=(1.0, 1.0))


def test_coverage_per_patch_at_batch_128() -> None:
    """Share of images in which a patch is context. Theirs: the last row and column never, the lower part seldom."""

    def share(context: torch.Tensor) -> torch.Tensor:
        return torch.zeros(196).scatter_add_(0, context.flatten(), torch.ones(context.numel())) / len(context)

    ours, theirs, generator = torch.zeros(196), torch.zeros(196), torch.Generator().manual_seed(0)
    for step in range(12):
        ours += share(masks.multiblock(Rng(step, 128), (14, 14))[0]) / 12
        theirs += share(official_multiblock(step, generator, 128, (14, 14))[0]) / 12
    ours, theirs = ours.view(14, 14), theirs.view(14, 14)
    assert theirs[-1].max() == theirs[:, -1].max() == 0 < ours.min()
    assert ours[7:].mean() == pytest.approx(float(ours[:7].mean()), rel=0.05)
    assert theirs[7:].mean() < 0.5 * theirs[:7].mean()
