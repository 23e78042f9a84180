"""ACT-JEPA: the loss by a plain loop, goals that lie ahead, a policy that is kept and acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from sines import sines

from methods.actjepa import ACTJEPA, actjepa_loss
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.models.policy import Policy, PolicyConfig
from ssl_bench.rng import Rng
from ssl_bench.training.method import configured
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer, rehearse


def test_the_loss_is_of_the_frames_up_to_the_goal():
    actions, true_actions = sines(1, 3, 4, 5), sines(2, 3, 4, 5)
    latents, true_latents = 2 * sines(3, 3, 4, 6), sines(4, 3, 4, 6)
    ahead = torch.tensor([1, 9, 3])
    out = actjepa_loss(actions, latents, true_actions, true_latents, ahead, 0.5)
    imitation, foresight = [], []
    for b, count in enumerate([1, 4, 3]):
        for k in range(count):
            imitation.append(float((actions[b, k] - true_actions[b, k]).abs().mean()))
            gap = (latents[b, k] - true_latents[b, k]).abs().numpy()
            foresight.append(float(np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()))
    assert len(imitation) == 8
    assert float(out["imitation"]) == pytest.approx(np.mean(imitation), abs=1e-6)
    assert float(out["foresight"]) == pytest.approx(np.mean(foresight), abs=1e-6)
    assert float(out["loss"]) == pytest.approx(np.mean(imitation) + 0.5 * np.mean(foresight), abs=1e-6)


def test_what_it_looks_at_is_a_frame_a_goal_ahead_and_what_was_done():
    config = tiny("actjepa", "").check()
    data = open_data(config.data)
    t = Trainer(config, data, torch.device("cpu"))
    assert isinstance(t.method, ACTJEPA)
    items = t.batch(0)[0]
    views = t.method.views(items, Rng(0, len(items)), 0.5)
    assert set(views) == {"seen", "goal", "future", "actions", "ahead"} and views["ahead"].min() >= 1
    whole, actions = data.item.frames(items).float() / 255, data.item.actions(items)

    def same(view: torch.Tensor, frame: torch.Tensor) -> bool:
        return torch.allclose(view * t.method.std + t.method.mean, frame, atol=1e-5)

    for i, ahead in enumerate(views["ahead"].tolist()):
        starts = [p for p in range(7) if torch.equal(actions[i, p : p + 5], views["actions"][i])]
        assert any(same(views["seen"][i], whole[i, p]) and same(views["goal"][i], whole[i, p + ahead]) for p in starts)
        assert any(same(views["future"][i], whole[i, p + 1 : p + 6]) for p in starts)


def test_the_goal_decides_what_is_done():
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(chunk=3, width=8, heads=2), 4, 6, 10)
    seen, goal = sines(1, 2, 4, 6), sines(2, 2, 4, 6)
    actions, latents = policy(seen, goal)
    assert actions.shape == (2, 3, 10) and latents.shape == (2, 3, 6)
    assert not torch.allclose(actions, policy(seen, goal.flip(0))[0], atol=1e-4)
    assert not torch.allclose(policy(seen, goal)[0], policy(goal, seen)[0], atol=1e-4), "the two are told apart"


def test_the_policy_is_kept_and_the_teacher_follows(tmp_path: Path):
    run = pretrain(tiny("actjepa", "", steps=2), tmp_path)
    encoder = from_run(run)
    assert isinstance(encoder.policy, Policy) and encoder.dynamics is None
    assert len(encoder.entry["policy_sha256"]) == 64
    path = run.folder / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="damaged"):
        from_run(run)


@pytest.mark.parametrize(("settings", "says"), [
    (["objective.reach=30"], "31 frames at once"), (["objective.policy.heads=5"], "divisible"),
    (["objective.reach=0"], "reach"), (["data.name=clothing48"], "takes trajectory items"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(settings: list[str], says: str):
    with pytest.raises(UserError, match=says):
        rehearse(configured("actjepa", "quick", settings))
