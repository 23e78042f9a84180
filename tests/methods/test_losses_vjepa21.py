"""V-JEPA 2.1 on images: known values of the official code, a plain loop, and what its parts may see."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from built import build
from sines import sines

from methods import vjepa21


def test_vjepa21_golden():
    """reference/video.md, 28 to 30 and 43: values of the official code."""
    keep, masked = ([[0, 3, 15, 12], [0, 5, 10, 31]], [[5, 6, 9, 10, 21, 22], [15, 14, 30, 29, 16, 3]])
    weights = vjepa21.distance_weights(torch.tensor(keep), torch.tensor(masked), (2, 4, 4))
    assert torch.allclose(weights, torch.tensor([[1.189207] * 4, [1, 1.316074, 1, 1]]).reciprocal(), atol=1e-5)
    steps = {14999: 0.0, 15001: 3.3333e-5, 20000: 0.166667, 22500: 0.25, 30000: 0.5, 200000: 0.5}
    for step, weight in steps.items():
        assert vjepa21.visible_weight(step / 300_000, 0.5, 0.05, 0.1) == pytest.approx(weight, abs=1e-6)
    target = F.layer_norm(sines(34, 2, 6, 8), (8,))
    hidden, _ = vjepa21.dense_loss(sines(33, 2, 6, 8), target, torch.ones(2, 0))
    assert float(hidden) == pytest.approx(1.095466, abs=1e-5)
    _, visible = vjepa21.dense_loss(sines(31, 2, 4, 8), F.layer_norm(sines(32, 2, 4, 8), (8,)), weights)
    assert float(visible) == pytest.approx(0.924232, abs=1e-5)


def test_vjepa21_dense_loss():
    keep, masked = torch.tensor([[0, 1, 5], [3, 7, 8]]), torch.tensor([[2, 4], [0, 1]])
    predicted, target, total = sines(1, 2, 5, 4), sines(2, 2, 5, 4), 0.0
    for b, i in itertools.product(range(2), range(3)):
        here = divmod(int(keep[b, i]), 3)
        nearest = min(math.dist(here, divmod(int(j), 3)) for j in masked[b])
        total += float((predicted - target)[b, i].abs().mean()) / math.sqrt(nearest) / 6
    hidden, visible = vjepa21.dense_loss(predicted, target, vjepa21.distance_weights(keep, masked, (3, 3)))
    assert float(visible) == pytest.approx(total, rel=1e-5)
    assert float(hidden) == pytest.approx(float((predicted - target)[:, 3:].abs().mean()), rel=1e-5)


def test_vjepa21_views_and_targets():
    method, views = build(vjepa21)
    both = torch.cat([views["keep"], views["masked"]], 1).sort(1).values
    assert torch.equal(both, torch.arange(36).expand(6, -1))
    target = method.targets(views["images"]).unflatten(-1, (2, 32))
    assert torch.allclose(target.mean(-1), torch.zeros(6, 36, 2), atol=1e-5)
    last = method.encoder(views["images"])[:, 1:]
    assert torch.allclose(
        target[:, :, 1], F.layer_norm(last, (32,)), atol=1e-4
    )  # the last level is the encoder's output
    early = method(views, 0.05)
    assert torch.equal(early["loss"], early["masked_loss"]), "the visible part warms up"
    with torch.no_grad():  # every level has a norm of its own, every kind of token a head
        method.norms[0].weight.mul_(2)
        method.visible_head.weight.zero_()
    predicted = method.predict(views["images"], views["keep"], views["masked"])
    assert predicted[:, : views["keep"].shape[1]].abs().max() == 0 < predicted[:, -1].abs().max()
    assert torch.equal(method.targets(views["images"]).unflatten(-1, (2, 32)), target), "the teacher has its own norms"
    method.after_step(0.5)
    assert not torch.equal(method.target_norms[0].weight, torch.ones(32))
