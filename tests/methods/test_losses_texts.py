"""LLM-JEPA and STP: known values of the official code, and what is most often built wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import tiny
from sines import sines

from methods.llmjepa import LLMJEPAConfig, jepa_loss, llmjepa_loss, next_token_loss, skipped
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.models import texts
from ssl_bench.models.texts import END, PAD, PRED, START
from ssl_bench.rng import Rng
from ssl_bench.training.method import configured
from ssl_bench.training.train import Trainer, rehearse


def trainer(**objective: object) -> Trainer:
    config = tiny("llmjepa", "", precision="fp32")
    config = replace(config, objective=replace(config.objective, **objective)).check()
    return Trainer(config, open_data(config.data), torch.device("cpu"))


def test_the_cosine_and_its_gradient_to_both_sides():
    """Golden case 1, executed there: no side is without a gradient."""
    text, code = (sines(seed, 6, 8).requires_grad_() for seed in (1, 2))
    loss = jepa_loss(text, code)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.099487, abs=1e-5)
    assert float(text.grad.norm()) == pytest.approx(0.212938, abs=1e-5)
    assert float(code.grad.norm()) == pytest.approx(0.199123, abs=1e-5)


def test_the_total_at_the_readouts():
    """Golden cases 2 and 3: rows 4-7 are Text, 8-11 Code; the places are those of the official code."""
    states = sines(1, 12, 7, 8)
    places = torch.tensor([5, 3, 4, 2]), torch.tensor([2, 5, 1, 4])
    text, code = (texts.at(states[4 * i + 4 : 4 * i + 8], place) for i, place in enumerate(places))
    assert float(jepa_loss(text, code)) == pytest.approx(1.449737, abs=1e-5)
    assert float(llmjepa_loss(torch.tensor(1.5), text, code, 0.5, 2.0)) == pytest.approx(3.649473, abs=1e-5)


def test_which_steps_go_without_the_term():
    """Golden case 6: ratio .25, torch.manual_seed(0), 12 draws."""
    generator = torch.Generator().manual_seed(0)
    found = [skipped(torch.rand(1, generator=generator), 0.75) for _ in range(12)]
    assert found == [bool(int(c)) for c in "110011111111"]


@pytest.mark.parametrize(("span", "loss", "rest", "patch"), [
    ((0, 2), 1.290235, 4.381491, 3.107423), ((1, 5), 1.865289, 6.976114, 3.083092),
    ((2, 7), 1.321079, 4.047153, 3.801353), ((5, 8), 1.113011, 1.885489, 4.389285),
])  # fmt: skip
def test_the_span_and_what_lies_around_it(span, loss, rest, patch):
    """Golden cases 7 and 8: Text is tokens 2-5, Code 8-11; differences begin one place before."""
    place = [torch.tensor([i]) for i in (1, 5, 7, 11, *span)]
    around, inside = texts.span_parts(sines(3, 1, 12, 8), (place[0], place[1]), (place[2], place[3]), tuple(place[4:]))
    assert float(jepa_loss(around, inside)) == pytest.approx(loss, abs=1e-5)
    assert (float(around.norm()), float(inside.norm())) == pytest.approx((rest, patch), abs=1e-5)


def test_the_end_is_learned_and_padding_and_text_are_not():
    """Golden case 12 is the official collator, which gives the end no loss where padding is the same token."""
    t = trainer()
    items, _, rng = t.batch(0)
    views = t.method.views(items, rng, 0.5)
    for ids, weight, (text, code) in zip(views["ids"].tolist(), views["weight"].tolist(), items.tolist(), strict=True):
        text, code = [c for c in text if c], [c for c in code if c]
        assert ids[: len(text) + len(code) + 2] == [*text, START, *code, END]
        told = [ids[i + 1] for i, w in enumerate(weight) if w]
        assert told == [*code, END]
    every = replace(t.method.objective, told="all")
    t.method.objective = every
    again = t.method.views(items, rng, 0.5)["weight"]
    assert again.sum(1).tolist() == [(row != PAD).sum() - 1 for row in views["ids"]]


def test_the_next_token_loss_is_the_mean_over_tokens():
    logits, ids = sines(5, 2, 4, 7), torch.tensor([[1, 2, 3, 0], [4, 5, 6, 1]])
    weight = torch.tensor([[0.0, 1, 0, 0], [1, 1, 1, 0]])
    each = [-logits[b, i].log_softmax(0)[ids[b, i + 1]] for b, i in ((0, 1), (1, 0), (1, 1), (1, 2))]
    assert float(next_token_loss(logits, ids, weight)) == pytest.approx(float(sum(each)) / 4, abs=1e-6)


def test_both_embeddings_train_the_network():
    """Gradient of the term alone reaches the tokens of Text, of Code and [PRED]: nothing is detached."""
    t = trainer(token=0.0)
    items, _, rng = t.batch(0)
    t.method(t.method.views(items, rng, 0.5), 0.5)["loss"].backward()
    moved = t.method.encoder.patch_embed.table.grad.abs().sum(1) > 0
    code, text = set(items[:, 1].unique().tolist()) - {0}, set(items[:, 0].unique().tolist()) - {0}
    assert all(moved[sorted(code | text)]) and moved[PRED] and not moved[PRED + 1] and not moved[END]


def test_without_pred_the_embedding_is_at_the_texts_last_token():
    t = trainer(preds=0)
    items, _, _ = t.batch(0)
    given = texts.rows((items[:, 0].long(), 0))
    with torch.no_grad():
        last = texts.states(t.method.encoder, given)[torch.arange(len(items)), (items[:, 0] != 0).sum(1) - 1]
        torch.testing.assert_close(t.method.judged(t.method.encoder, items.float()), last)


def test_the_loss_is_its_parts_on_rows_of_their_own():
    """Against two more passes, Text and Code in a row each, as the official default has it."""
    t = trainer(jepa=2.0, preds=2, span=0.02)
    items, _, rng = t.batch(0)
    views, net = t.method.views(items, rng, 0.5), t.method.encoder
    with torch.no_grad():
        out = t.method(views, 0.5)
        text, code = items.long().unbind(1)
        embedded = []
        for given in (texts.rows(*texts.asking(text, 2)), texts.rows((code, 0))):
            embedded.append(texts.at(texts.states(net, given), given.last(0)))
    assert float(out["jepa"]) == pytest.approx(float(jepa_loss(*embedded)), abs=1e-6)
    others = jepa_loss(embedded[0], embedded[1].roll(1, 0))  # what shows a term that says nothing
    assert float(out["others"]) == pytest.approx(float(others), abs=1e-6)
    whole = float(out["token"] + 2 * out["jepa"] + 0.02 * out["span"])
    assert float(out["loss"]) == pytest.approx(whole, abs=1e-6)


def test_steps_without_the_term_cost_less_and_are_those_that_are_drawn():
    t = trainer(dropout=0.75)
    items, _, _ = t.batch(0)
    seen = ["second" in t.method.views(items, Rng(seed, len(items)), 0.5) for seed in range(200)]
    assert 0.15 < sum(seen) / len(seen) < 0.35
    arms = ({}, {"dropout": 0.75}, {"jepa": 0.0, "preds": 0})
    costs = [trainer(**arm).flops_per_image for arm in arms]
    assert costs[1] == pytest.approx(costs[2] + 0.25 * (costs[0] - costs[2]))


@pytest.mark.parametrize(("text", "why"), [
    ("objective.jepa=0", "have no effect while objective.jepa is 0"), ("objective.preds=11", "below 11"),
    ("objective.dropout=1", "below 1"), ("backbone.causal=false", "backbone.causal=true"),
    ("backbone.patch_size=2", "set it to 1"), ("data.name=clothing48", "takes text items"),
    ("data.image_size=8x16", "a height and a width"),
])  # fmt: skip
def test_settings_that_say_nothing_are_refused(text, why):
    with pytest.raises(UserError, match=why):
        rehearse(configured("llmjepa", "quick", [text]))


def test_no_nothing_to_learn():
    with pytest.raises(UserError, match="nothing is left to learn"):
        LLMJEPAConfig(jepa=0, preds=0, token=0).check()
