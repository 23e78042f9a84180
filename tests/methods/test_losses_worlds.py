"""LeWM, PLDM, EB-JEPA, V-JEPA 2-AC against values computed with the official code (commits in the methods' files)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from sines import sines

from methods.lejepa import sigreg
from methods.lewm import lewm_loss
from methods.pldm import PLDMConfig, eb_jepa, hinge, off_diagonal, pldm_terms
from methods.vicreg import vicreg_terms
from ssl_bench import find
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig, forecast_loss
from ssl_bench.rng import Rng
from ssl_bench.training.method import configured
from ssl_bench.training.monitor import Monitor, slope
from ssl_bench.training.train import Trainer, rehearse

WORLDS = ("lewm", "pldm", "vjepa2ac", "causaljepa")


def directions() -> torch.Tensor:
    drawn = sines(3, 8, 16)
    return drawn / drawn.norm(dim=0)


def test_sigreg_is_of_each_time_step():
    x = 1.4 * sines(1, 4, 64, 8)
    assert float(sigreg(x, directions())) == pytest.approx(1.989613, abs=2e-6)
    assert float(sigreg(x[:1], directions())) == pytest.approx(2.658725, abs=2e-6)


def test_lewm_has_the_known_loss():
    out = lewm_loss(sines(1, 6, 4, 8), sines(2, 6, 3, 8), directions(), 0.09)
    told = [float(out[k]) for k in ("prediction", "sigreg", "loss")]
    assert told == pytest.approx([1.017380, 0.947537, 1.102659], abs=2e-6)
    assert "similarity" not in out


def test_both_sides_of_lewm_get_a_gradient():
    z = sines(1, 6, 4, 8).requires_grad_()
    lewm_loss(z, sines(2, 6, 3, 8), directions(), 0.0)["loss"].backward()
    assert z.grad is not None and float(z.grad[:, 1:].abs().min()) > 0


def test_pldm_has_the_known_terms_and_weights():
    z, predicted = (sines(seed, 4, 6, 8).transpose(0, 1) for seed in (1, 2))
    terms = pldm_terms(z, predicted[:, 1:])
    known = {"prediction": 1.042109, "variance": 0.285900, "covariance": 0.053607, "time_variance": 0.316857,
             "similarity": 0.898112}  # fmt: skip
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(known, abs=2e-6)
    o = PLDMConfig()
    total = terms["prediction"] + sum(getattr(o, k) * v for k, v in terms.items() if k != "prediction")
    assert float(total) == pytest.approx(3.296903, abs=5e-6)


def test_the_terms_of_eb_jepa_are_of_all_frames():
    z = sines(1, 6, 8, 4).transpose(1, 2)
    terms = pldm_terms(z, z[:, 1:], first_only=False)
    told = [float(terms[k]) for k in ("covariance", "variance", "similarity")]
    assert told == pytest.approx([0.010533, 0.323744, 0.941983], abs=2e-6)
    assert float(hinge(sines(1, 6, 8), 0)) == pytest.approx(0.285900, abs=2e-6)
    assert float(off_diagonal(sines(1, 6, 8))) == pytest.approx(0.053607, abs=2e-6)


def test_the_loss_of_eb_jepa_is_their_sum_by_the_weights_of_its_recipe():
    """Its regulariser without the prediction, where inverse dynamics tells an action as the difference of latents."""
    z, actions = sines(1, 6, 8, 4).transpose(1, 2), sines(2, 6, 2, 4).transpose(1, 2)
    terms, o = pldm_terms(z, z[:, 1:], first_only=False), eb_jepa().objective
    terms["inverse"] = ((z[:, 1:] - z[:, :-1])[..., :2] - actions[:, :-1]).square().mean()
    assert float(terms["inverse"]) == pytest.approx(1.373296, abs=2e-6)
    assert (o.first_only, o.time_variance) == (False, 0)
    weighted = [getattr(o, name) * terms[name] for name in ("variance", "covariance", "similarity", "inverse")]
    assert float(sum(weighted)) == pytest.approx(17.941259, abs=1e-4)


def test_the_terms_of_eb_jepa_on_two_views_are_sums_of_both():
    a, b = sines(1, 6, 8), sines(2, 6, 8)
    told = [(a - b).square().mean(), hinge(a, 0) + hinge(b, 0), off_diagonal(a) + off_diagonal(b)]
    assert [float(x) for x in told] == pytest.approx([1.091578, 0.568954, 0.098931], abs=2e-6)
    invariance, variance, covariance = vicreg_terms(a, b)  # the mean over the views; squares over D and not D (D - 1)
    assert float(invariance + 2 * variance + 80 * covariance / 7) == pytest.approx(9.574993, abs=2e-5)


def test_the_terms_at_each_time_step_are_those_of_stable_worldmodel():
    z, told, actions = sines(1, 6, 4, 8), sines(2, 6, 3, 2), sines(3, 6, 3, 2)
    assert float((told - actions).square().mean()) == pytest.approx(1.204016, abs=2e-6)
    assert float((z[:, 1:] - z[:, :-1]).square().mean()) == pytest.approx(0.826317, abs=2e-6)
    assert float(hinge(z, 0)) == pytest.approx(0.351102, abs=2e-6)
    assert float(hinge(z - z.mean(0), 1)) == pytest.approx(0.467399, abs=2e-6)
    assert sum(float(off_diagonal(z[:, t])) for t in range(4)) / 4 == pytest.approx(0.037719, abs=2e-6)


def test_a_forecast_is_teacher_forced_and_rolled_out_by_itself():
    torch.manual_seed(0)
    dynamics = Dynamics(DynamicsConfig(latent=0, width=8, heads=2), 8, 4).eval()
    z, actions = sines(1, 2, 4, 8), sines(2, 2, 3, 4)
    forced = (dynamics(z[:, :3], actions) - z[:, 1:]).abs().mean()
    second = dynamics(torch.cat([z[:, :1], dynamics(z[:, :1], actions[:, :1])], 1), actions[:, :2])[:, 1]
    total = forced + (second - z[:, 2]).abs().mean()
    assert forecast_loss(dynamics, z, actions).item() == pytest.approx(total.item(), abs=1e-6)


class Told(Dynamics):
    """Foretells what it is given."""

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__(DynamicsConfig(latent=0, width=8, heads=2), 24, 4)
        self.known = known

    def forward(self, z: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.known[:, : z.shape[1]]


def test_teacher_forcing_of_vjepa2ac_has_the_known_error():
    """Of normed tokens, three in a frame."""
    h, z = (
        F.layer_norm(sines(*shape), (8,)).unflatten(1, (-1, 3)).flatten(2) for shape in ((1, 2, 12, 8), (2, 2, 9, 8))
    )
    loss = forecast_loss(Told(z), h, torch.zeros(2, 3, 4), rollout=1, exponent=1.0)
    assert float(loss) == pytest.approx(1.005799, abs=2e-6)


@pytest.mark.parametrize(("recipe", "told"), [("quick", (2, 1.0, "tokens")), ("dinowm_quick", (1, 2.0, "concat"))])
def test_dinowm_is_vjepa2ac_by_settings(recipe, told):
    o = find.recipe("vjepa2ac", recipe)().check().objective
    assert (o.rollout, o.exponent, o.dynamics.conditioning, o.dynamics.latent) == (*told, 0)


@pytest.mark.parametrize("conditioning", ["adaln", "tokens", "concat"])
@pytest.mark.parametrize("method", ["lewm", "vjepa2ac"])
def test_a_method_trains_with_actions_that_enter_in_any_way(method, conditioning):
    """And every part of the predictor gets a gradient."""
    config = tiny(method, "")
    shape = replace(config.objective.dynamics, conditioning=conditioning)
    config = replace(config, objective=replace(config.objective, dynamics=shape)).check()
    t = Trainer(config, open_data(config.data), torch.device("cpu"))
    t.train_step()  # opens gates that begin at zero
    items, _, rng = t.batch(0)
    t.method(t.method.views(items, rng, 0.5), 0.5)["loss"].backward()
    for name, parameter in t.method.dynamics.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f"{name} gets no gradient"


@pytest.mark.parametrize("method", WORLDS)
def test_no_state_reaches_a_method(method):
    """What it looks at is made of frames and actions alone: other states, labels and places change nothing."""
    config = tiny(method, "").check()
    data = open_data(config.data)
    t = Trainer(config, data, torch.device("cpu"))
    items = t.batch(0)[0]
    assert items.dtype == torch.uint8 and items.shape[1:] == data.item.shape
    views = t.method.views(items, Rng(0, len(items)), 0.5)
    assert set(views) <= {"frames", "actions", "directions", "hidden"}
    assert views["actions"].shape[1:] == (views["frames"].shape[1] - 1, 10)
    whole, actions = data.item.frames(items).float() / 255, data.item.actions(items)
    seen = views["frames"] * t.method.std + t.method.mean
    length = views["frames"].shape[1]
    for item in range(len(items)):
        windows = [p for p in range(20 - length) if torch.allclose(whole[item, p : p + length], seen[item], atol=1e-5)]
        assert any(torch.equal(actions[item, p : p + length - 1], views["actions"][item]) for p in windows)


def test_an_image_method_is_given_frames():
    config = tiny("mae", "two_room:60").check()
    t = Trainer(config, open_data(config.data), torch.device("cpu"))
    images = t.batch(0)[0]
    assert images.shape[1:] == (3, 24, 24)
    t.step = 1
    assert t.info.item.name == "image" and not torch.equal(images, t.batch(0)[0])
    t.train_step()


def test_what_cannot_be_trained_is_a_sentence():
    config = find.recipe("lewm", "quick")()
    with pytest.raises(UserError, match="takes trajectory items"):
        rehearse(replace(config, data=DataConfig("clothing48", image_size=32)))
    with pytest.raises(UserError, match="20 frames at once"):
        rehearse(replace(config, objective=replace(config.objective, rollout=19)))
    with pytest.raises(UserError, match="no folder of a finished run"):
        rehearse(configured("vjepa2ac", "quick", ["objective.encoder=runs/nothing"]))


def test_the_monitor_of_a_world_sees_collapse_and_slope_in_the_latents():
    config = tiny("lewm", "").check()
    t = Trainer(config, open_data(config.data), torch.device("cpu"))
    monitor = Monitor(t)
    before = {k: v.clone() for k, v in t.method.state_dict().items()}
    values = monitor(t.method.encoder)
    assert -1 <= values["distance"] <= 1 and values["std"] > 0.05
    assert all(torch.equal(v, before[k]) for k, v in t.method.state_dict().items()), "a look changes nothing"
    assert monitor.places is not None and slope(3 * monitor.places, monitor.places) == pytest.approx(1)
    assert slope(torch.ones(5, 2), torch.rand(5, 2)) == 0
