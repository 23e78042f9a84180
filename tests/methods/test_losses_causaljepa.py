"""Causal-JEPA: which slots are hidden, what is in the loss, and that an object is encoded alone, without states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import tiny
from sines import sines

from methods.causaljepa import CausalJEPAConfig, causaljepa_loss, hide
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.train import Trainer, rehearse


def trainer(data: str = "two_room:block:60", **settings: int) -> Trainer:
    config = tiny("causaljepa", "")
    config = replace(config, data=replace(config.data, name=data), objective=replace(config.objective, **settings))
    return Trainer(config.check(), open_data(config.data), torch.device("cpu"))


def test_each_window_hides_its_own_slots_as_many_and_never_in_the_first_frame():
    hidden = hide(Rng(0, 3000), 3, 2, 4, 2)
    assert hidden.shape == (3000, 5, 4) and not hidden[:, 0].any() and hidden[:, 3:].all()
    assert torch.equal(hidden[:, 1], hidden[:, 2]) and (hidden[:, 1].sum(1) == 2).all()
    assert (hidden[:, 1].float().mean(0) - 0.5).abs().max() < 0.04  # 4 standard errors of 3,000 draws
    pairs = hidden[:, 1].int() @ torch.tensor([1, 2, 4, 8], dtype=torch.int32)
    assert len(pairs.unique()) == 6 and (pairs.bincount()[pairs.unique()] / 3000 - 1 / 6).abs().max() < 0.03
    assert not torch.equal(hidden, hide(Rng(1, 3000), 3, 2, 4, 2)), "the released code hides the same for ever"
    halves = [hide(Rng(0, 3000, slice(a, a + 1500)), 3, 2, 4, 2) for a in (0, 1500)]
    assert torch.equal(torch.cat(halves), hidden)


def test_the_loss_is_of_what_is_hidden_in_the_past_and_of_the_future():
    predicted, target = sines(1, 2, 4, 3, 8), sines(2, 2, 4, 3, 8)
    hidden = torch.zeros(2, 4, 3, dtype=torch.bool)
    hidden[0, 1:, 2] = hidden[1, 1:, 0] = hidden[:, 3] = True
    out = causaljepa_loss(predicted, target, hidden, 3)
    error = (predicted - target) ** 2
    past = float(torch.stack([error[0, 1:3, 2], error[1, 1:3, 0]]).mean())
    future = float(error[:, 3].mean())
    assert [float(out[k]) for k in ("masked", "future", "loss")] == pytest.approx([past, future, past + future])
    predicted[:, 0], predicted[0, 1:3, :2] = 9, 9  # of what is seen
    assert float(causaljepa_loss(predicted, target, hidden, 3)["loss"]) == float(out["loss"])


def test_an_object_is_encoded_alone():
    """The pictures that reach the encoder: each object of each frame once, and nothing else on it."""
    t = trainer()
    method, seen = t.method, []
    items, _, rng = t.batch(0)
    views = method.views(items, rng, 0.5)
    method.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    method(views, 0.5)
    assert views["hidden"].shape == (12, 4, 3)
    frames = views["frames"] * method.std + method.mean
    pictures = (torch.cat(seen) * method.std + method.mean).unflatten(0, views["hidden"].shape)
    for slot in range(3):
        assert torch.allclose(pictures[:, :, slot, slot], frames[:, :, slot], atol=1e-5)
        assert (pictures[:, :, slot, [c for c in range(3) if c != slot]].abs() < 1e-5).all()
    assert torch.allclose(pictures.sum(2), frames, atol=1e-4), "nothing of a frame is lost"


def test_slots_that_do_not_differ_are_seen():
    """An encoder that tells nothing apart costs the whole hinge."""
    t = trainer("two_room:60")
    items, _, rng = t.batch(0)
    views = t.method.views(items, rng, 0.5)
    with torch.no_grad():
        before = t.method(views, 0.5)
        t.method.encoder.norm.weight.zero_()
        after = t.method(views, 0.5)
    assert float(after["variance"]) == pytest.approx(0.99, abs=1e-4)  # 1 - the root of its 1e-4
    assert float(before["variance"]) < 0.98 and float(after["covariance"]) == 0


def test_what_is_hidden_does_not_depend_on_what_is_seen():
    t = trainer()
    items = t.batch(0)[0]
    hidden = [t.method.views(x, Rng(0, len(items)), 0.5)["hidden"] for x in (items, items.flip(0))]
    assert torch.equal(*hidden)


@pytest.mark.parametrize(("data", "settings", "says"), [
    ("two_room:colour:60", {}, "two_room:block or two_room:distractor"),
    ("two_room:distractor,block:60", {}, "a channel of its own"),
    ("two_room:60", {"masked": 2}, "hides them all"),
    ("two_room:60", {"history": 1}, "objective.history=2"),
    ("two_room:60", {"heads": 5}, "must divide"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(data, settings, says):
    config = tiny("causaljepa", "")
    config = replace(config, data=replace(config.data, name=data), objective=CausalJEPAConfig(**settings))
    with pytest.raises(UserError, match=says):
        rehearse(config.check())


def test_the_future_alone_can_be_asked_for():
    t = trainer(masked=0, history=1, variance=0, covariance=0)
    items, _, rng = t.batch(0)
    with torch.no_grad():
        out = t.method(t.method.views(items, rng, 0.5), 0.5)
    assert float(out["masked"]) == 0 and float(out["loss"]) == float(out["future"]) > 0
