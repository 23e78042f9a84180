"""MC-JEPA's motion terms on cases with known values."""

from __future__ import annotations

import pytest
import torch

from methods import mcjepa
from ssl_bench.errors import UserError
from ssl_bench.models.flow import warp


def picture(seed: int, n: int = 2, side: int = 12) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_ssim_of_one_window_is_its_formula() -> None:
    a, b = picture(0, 1, 3), picture(1, 1, 3)
    x, y = a[0, 0].double().flatten(), b[0, 0].double().flatten()
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cov + 9e-4)
    bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (x.var(correction=0) + y.var(correction=0) + 9e-4)
    assert mcjepa.ssim_distance(a, b)[0, 0, 0, 0] == pytest.approx(float((1 - top / bottom) / 2), abs=1e-5)
    assert mcjepa.ssim_distance(a, a).max() < 1e-5


def test_the_true_flow_costs_nothing_and_another_does() -> None:
    first = picture(0)
    flow = torch.zeros(2, 2, 12, 12)
    flow[:, 0] = 2.0
    second = warp(first, -flow)  # everything goes 2 to the right
    seen = torch.zeros(2, 1, 12, 12)
    seen[..., 2:-2] = 1  # what stays in the frame
    assert mcjepa.photometric_loss(first, second, flow, seen) < 1e-5
    assert mcjepa.photometric_loss(first, second, 0 * flow, seen) > 0.3


def test_what_is_hidden_is_where_the_way_back_does_not_lead_back() -> None:
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0] = 1.0
    assert mcjepa.visible(flow, -flow).all()
    back = -flow.clone()
    back[0, 0, 0] = 1.0  # |1 + 1|^2 = 4 > 0.01 (1 + 1) + 0.5
    seen = mcjepa.visible(flow, back)
    assert not seen[0, 0, 0].any() and seen[0, 0, 1:].all()


def test_smoothness_of_a_step_by_hand_and_less_along_an_edge() -> None:
    flow = torch.zeros(1, 2, 4, 4)
    flow[0, 0, :, 2:] = 8.0  # a step of 8 / 4 in one of 3 differences along x, in one of 2 channels
    even, edge = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    assert mcjepa.smoothness(flow, even) == pytest.approx((2 / 3 / 2 + 0) / 2)
    edge[..., 2:] = 0.3
    assert mcjepa.smoothness(flow, edge) == pytest.approx(float(torch.exp(torch.tensor(-3.0))) / 6)


def test_settings_that_cannot_be() -> None:
    for change in ({"flow_start": 1.0}, {"width": 0}, {"reach": 0}):
        with pytest.raises(UserError, match="mcjepa needs"):
            mcjepa.MCJEPAConfig(**change).check()
