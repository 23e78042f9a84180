"""The predictor of hidden slots against values computed with galilai-group/cjepa's code (1415830)."""

from __future__ import annotations

import pytest
import torch
from sines import sines

from ssl_bench.models.slots import SlotPredictor


def known() -> tuple[SlotPredictor, torch.Tensor, torch.Tensor]:
    """4 slots of 8 numbers in 3 + 1 frames, of which two are hidden in the history."""
    predictor = SlotPredictor(4, 8, depth=1, heads=2, hidden=16)
    for i, parameter in enumerate(predictor.parameters()):
        parameter.data = 0.3 * sines(10 + i, *parameter.shape)
    slots = torch.cat([sines(1, 2, 3, 4, 8), torch.zeros(2, 1, 4, 8)], 1)
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[:, 1:, [1, 3]] = hidden[:, 3] = True
    return predictor.eval(), slots, hidden


def test_it_has_the_known_values():
    predictor, slots, hidden = known()
    out = predictor(slots, hidden)
    assert float(predictor.entered(slots, hidden).detach().sum()) == pytest.approx(-12.905138, abs=1e-4)
    assert float(out.detach().sum()) == pytest.approx(-22.709677, abs=1e-4)
    assert float(out.abs().sum()) == pytest.approx(37.545521, abs=1e-4)


def test_what_is_hidden_is_not_looked_at_and_what_is_seen_is():
    predictor, slots, hidden = known()
    out = predictor(slots, hidden)
    other = torch.where(hidden[..., None], 9.0, slots)
    assert torch.equal(predictor(other, hidden), out)
    for frame, slot in ((0, 1), (2, 0)):  # the anchor of a hidden one, and a slot of the others
        other = slots.clone()
        other[:, frame, slot] += 1
        assert not torch.allclose(predictor(other, hidden)[:, 1, 3], out[:, 1, 3], atol=1e-4)


def test_every_action_is_seen_by_every_slot():
    torch.manual_seed(0)
    predictor = SlotPredictor(4, 8, depth=1, heads=2, hidden=16, actions=6).eval()
    _, slots, hidden = known()
    actions = sines(2, 2, 3, 6)
    out = predictor(slots, hidden, actions)
    assert out.shape == slots.shape
    for k in range(3):
        other = actions.clone()
        other[:, k] += 1
        assert (predictor(slots, hidden, other) - out).abs().amax((0, 3)).min() > 1e-6
