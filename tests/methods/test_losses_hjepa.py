"""H-JEPA's second level: what it predicts, what it leaves alone, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny
from sines import sines

from methods.hjepa import HJEPA, HJEPAConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import DynamicsConfig
from ssl_bench.models.hierarchy import Hierarchy, UpperConfig
from ssl_bench.rng import Rng
from ssl_bench.training.method import configured
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer, rehearse

SHAPE = DynamicsConfig(latent=6, projector=8, width=8, heads=2)
ABOVE = UpperConfig(every=2, macro=3, hidden=8, steps=3, dynamics=DynamicsConfig(latent=0, width=8, heads=2))


def levels() -> Hierarchy:
    torch.manual_seed(0)
    return Hierarchy(SHAPE, 5, 4, ABOVE)


def test_a_macro_action_is_of_all_actions_of_its_frames_and_standardised():
    found = levels()
    actions = sines(1, 8, 6, 4)
    macros = found.macros(actions)
    assert macros.shape == (8, 3, 3)
    assert macros.mean((0, 1)).abs().max() < 1e-5 and (macros.std((0, 1), unbiased=False) - 1).abs().max() < 0.05
    found.eval()
    kept, other = found.macros(actions), actions.clone()
    other[:, 3] += 1  # the second frame of the second macro-action
    moved = (found.macros(other) - kept).abs().amax((0, 2))
    assert moved[1] > 1e-3 and moved[0] == moved[2] == 0


def test_the_loss_of_the_second_level_is_of_every_kth_latent():
    found = levels().eval()
    z, macros = sines(2, 8, 4, 6), sines(3, 8, 3, 3)
    forced = sum((found.upper(z[:, : t + 1], macros[:, : t + 1])[:, t] - z[:, t + 1]).square().mean() for t in range(3))
    known = z[:, :1]
    for t in range(3):
        known = torch.cat([known, found.upper(known, macros[:, : t + 1])[:, -1:]], 1)
    alone = (known[:, 2:] - z[:, 2:]).square().mean()
    assert found.upper_loss(z, macros).item() == pytest.approx((forced / 3 + alone).item(), abs=1e-5)


def test_the_second_level_moves_nothing_of_the_first():
    config = tiny("hjepa", "").check()
    t = Trainer(config, open_data(config.data), torch.device("cpu"))
    method = t.method
    assert isinstance(method, HJEPA)
    views = method.views(t.batch(0)[0], Rng(0, 12), 0.5)
    z = method.latents(views["frames"][:, ::5])
    assert z.shape[1] == 4 and z.requires_grad
    loss = method(views, 0.5)
    assert set(loss) >= {"prediction", "sigreg", "similarity", "upper", "upper_over_copy"}
    total = loss["prediction"] + 0.09 * loss["sigreg"] + 2 * loss["similarity"] + loss["upper"]
    assert loss["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    loss["upper"].backward()
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(p.grad is None for part in method.levels.lower for p in part.parameters())
    assert all(p.grad is not None for p in method.levels.upper.parameters())


def test_over_a_finished_run_the_first_level_stays_as_it_is(tmp_path: Path):
    first = pretrain(tiny("lewm", "", steps=2), tmp_path)
    config = tiny("hjepa", "", steps=2)
    given = replace(HJEPAConfig(), level1=str(first.folder), dynamics=config.objective.dynamics)
    second = pretrain(replace(config, objective=given), tmp_path)
    old, new = from_run(first), from_run(second)
    assert isinstance(new.dynamics, Hierarchy) and not isinstance(old.dynamics, Hierarchy)
    assert old.weights_sha256 == new.weights_sha256
    kept = new.dynamics.state_dict()
    assert not [k for k, v in old.dynamics.state_dict().items() if not torch.equal(v, kept[k])]
    assert {k.partition(".")[0] for k in kept.keys() - old.dynamics.state_dict().keys()} == {"macro", "upper"}


@pytest.mark.parametrize("recipe", ["above", "above_quick"])
def test_a_recipe_over_a_run_asks_for_the_run_and_trains_no_other_first_level(recipe: str):
    with pytest.raises(UserError, match=r"set objective\.level1"):
        rehearse(configured("hjepa", recipe, []))


@pytest.mark.parametrize(("settings", "says"), [
    (["objective.level1=runs/nothing"], "not trained"), (["objective.upper.every=9"], "28 frames at once"),
    (["objective.level1=runs/nothing", "objective.similarity=0"], "no folder of a finished run"),
    (["objective.upper.steps=0"], "steps"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(settings: list[str], says: str):
    with pytest.raises(UserError, match=says):
        rehearse(configured("hjepa", "quick", settings))
