"""The action-conditioned predictor against values computed with stable-worldmodel's code (addbab4) and vjepa2's mask.

The inputs and their values: sines of helpers/sines.py, parameters filled in the order they are named in.
"""

from __future__ import annotations

import pytest
import torch
from sines import sines

from ssl_bench.models.dynamics import (
    ActionEmbed,
    CausalPredictor,
    ConditionalBlock,
    Dynamics,
    DynamicsConfig,
    frame_mask,
    read,
)  # fmt: skip


def filled(module: torch.nn.Module, first: int, scale: float = 0.5) -> torch.nn.Module:
    for i, parameter in enumerate(module.parameters()):
        parameter.data = scale * sines(first + i, *parameter.shape)
    return module.eval()


def test_a_block_has_the_known_values_and_changes_nothing_at_first():
    x, condition = sines(1, 2, 3, 8), sines(2, 2, 3, 8)
    fresh = ConditionalBlock(8, 2, 4, 16)
    assert torch.equal(fresh(x, condition, frame_mask(3, 1)), x)
    out = filled(ConditionalBlock(8, 2, 4, 16), 10)(x, condition, frame_mask(3, 1))
    assert float(out.detach().sum()) == pytest.approx(20.332901, abs=1e-4)
    assert float(out.abs().sum()) == pytest.approx(41.055344, abs=1e-4)
    assert float(out[0, 0, 0]) == pytest.approx(-0.057618, abs=1e-5)
    assert float(out[1, 2, 7]) == pytest.approx(1.872110, abs=1e-5)


def test_the_predictor_has_the_known_values_and_sees_no_future():
    predictor = CausalPredictor(3, 2, 2, 4, 16, 8)
    assert len(list(predictor.parameters())) == 29
    filled(predictor, 30)
    x, condition = sines(1, 2, 3, 8), sines(2, 2, 3, 8)
    out = predictor(x, condition)
    assert float(out.detach().sum()) == pytest.approx(-1.721747, abs=1e-4)
    assert float(out.abs().sum()) == pytest.approx(15.758623, abs=1e-4)
    assert float(out[1, 2, 7]) == pytest.approx(0.181323, abs=1e-5)
    x[:, 2] = 0
    assert torch.equal(predictor(x, condition)[:, :2], out[:, :2])


def test_the_embedding_of_actions_has_the_known_values():
    out = filled(ActionEmbed(10, 10, 32, 8), 60)(sines(5, 2, 3, 10))
    assert float(out.detach().sum()) == pytest.approx(-1.495152, abs=1e-4)
    assert float(out.abs().sum()) == pytest.approx(32.564373, abs=1e-4)


def test_the_mask_is_causal_by_frames():
    mask = frame_mask(4, 6)
    assert mask.shape == (24, 24) and int(mask.sum()) == 360


@pytest.mark.parametrize("conditioning", ["adaln", "tokens", "concat"])
def test_actions_matter_and_later_frames_do_not(conditioning):
    torch.manual_seed(0)
    config = DynamicsConfig(latent=6, width=16, heads=2, norm="layer", conditioning=conditioning)
    dynamics = Dynamics(config, 10, 4)
    for block in dynamics.predictor.blocks:
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    z, actions = sines(1, 2, 3, 6), sines(2, 2, 3, 4)
    out = dynamics(z, actions)
    assert out.shape == (2, 3, 6)
    assert not torch.allclose(out, dynamics(z, 0 * actions))
    later = actions.clone()
    later[:, 2] = 9
    assert torch.allclose(dynamics(z, later)[:, :2], out[:, :2], atol=1e-6)


def test_a_rollout_is_the_predictor_again_and_again():
    torch.manual_seed(1)
    dynamics = Dynamics(DynamicsConfig(latent=6, width=16, heads=2, norm="layer", history=2), 10, 4).eval()
    z, actions = sines(1, 2, 1, 6), sines(2, 2, 3, 4)
    first = dynamics(z, actions[:, :1])
    second = dynamics(torch.cat([z, first], 1), actions[:, :2])[:, -1:]
    third = dynamics(torch.cat([first, second], 1), actions[:, 1:3])[:, -1:]
    assert torch.allclose(dynamics.rollout(z, actions), torch.cat([first, second, third], 1), atol=1e-6)


def test_what_is_read_of_the_tokens():
    tokens = sines(1, 2, 17, 8)
    assert torch.equal(read(tokens, 1, (4, 4), DynamicsConfig(reads="cls")), tokens[:, 0])
    cells = read(tokens, 1, (4, 4), DynamicsConfig(reads="cells", cells=2))
    assert torch.allclose(cells.view(2, 8, 2, 2)[0, :, 0, 1], tokens[0, [3, 4, 7, 8]].mean(0), atol=1e-6)
