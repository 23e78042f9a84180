"""Correlation, warping and the small estimator of flows, against plain loops and cases that a hand can check."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ssl_bench.models.flow import FlowHead, correlate, displacements, enlarged, warp


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_correlations_equal_a_plain_loop_and_name_their_displacement() -> None:
    a, b, steps = noise(2, 3, 4, 5), noise(2, 3, 4, 5, seed=1), displacements(1)
    found = correlate(a, b, 1)
    for r, (dx, dy) in enumerate(steps.int().tolist()):
        for y in range(4):
            for x in range(5):
                inside = 0 <= y + dy < 4 and 0 <= x + dx < 5
                expected = (a[:, :, y, x] * b[:, :, y + dy, x + dx]).mean(1) if inside else torch.zeros(2)
                assert torch.allclose(found[:, r, y, x], expected, atol=1e-6)
    moved = F.normalize(noise(1, 16, 8, 8), dim=1)
    best = correlate(moved, moved.roll((1, 2), (2, 3)), 2)[0, :, 2:5, 2:5].argmax(0)  # 1 down, 2 to the right
    assert (displacements(2)[best] == torch.tensor([2.0, 1.0])).all()


def test_warping_looks_where_the_flow_leads() -> None:
    maps = torch.arange(20.0).view(1, 1, 4, 5)  # 5 a row, 1 a column
    flow = torch.zeros(1, 2, 4, 5)
    assert torch.allclose(warp(maps, flow), maps, atol=1e-5)
    flow[:, 0], flow[:, 1] = 1.5, 1.0
    found = warp(maps, flow)
    assert torch.allclose(found[0, 0, :3, :3], maps[0, 0, :3, :3] + 6.5, atol=1e-4)
    assert found[0, 0, 3, 4] == maps[0, 0, 3, 4]  # the border stands for what lies outside
    assert torch.equal(enlarged(torch.full((1, 2, 2, 2), 1.5), 4), torch.full((1, 2, 8, 8), 6.0))


def test_the_estimator_starts_near_no_motion_and_learns_one() -> None:
    torch.manual_seed(0)
    head = FlowHead(8, width=8)
    tokens = noise(4, 64, 8)
    moved = tokens.unflatten(1, (8, 8)).roll(1, 2).flatten(1, 2)  # to the right by one cell
    truth = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)  # of the finer level
    adam = torch.optim.Adam(head.parameters(), 3e-3)
    errors = []
    for _ in range(60):
        flows = head(head.pyramid(tokens, (8, 8)), head.pyramid(moved, (8, 8)))
        errors.append((flows[-1] - truth).norm(dim=1).mean())
        adam.zero_grad()
        errors[-1].backward()
        adam.step()
    assert [f.shape[-1] for f in flows] == [8, 16] and abs(float(errors[0].detach()) - 2) < 0.1
    assert float(errors[-1].detach()) < 0.5


def test_a_flow_that_is_no_number_ends_no_process() -> None:
    flow = torch.full((2, 2, 8, 8), torch.nan, requires_grad=True)
    warp(noise(2, 3, 8, 8).requires_grad_(), flow).sum().backward()
    assert flow.grad is not None and flow.grad.shape == flow.shape
