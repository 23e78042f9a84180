"""VL-JEPA and what it is compared with: known values, equal texts, likelihoods against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from sines import sines

from methods.vljepa import infonce, same_text
from ssl_bench import find
from ssl_bench.data.captioned import LENGTH
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.models.answers import AnswerConfig, Answerer
from ssl_bench.models.texts import END, START, TOLD
from ssl_bench.training.method import configured
from ssl_bench.training.monitor import collapse_reason, feature_std
from ssl_bench.training.train import Trainer, rehearse


def trainer(recipe: str = "quick", steps: int = 6) -> Trainer:
    objective = find.recipe("vljepa", recipe)().objective
    config = replace(tiny("vljepa", "", steps, precision="fp32"), objective=objective).check()
    return Trainer(config, open_data(config.data), torch.device("cpu"))


def unit(seed: int) -> torch.Tensor:
    return F.normalize(sines(seed, 6, 8), dim=1)


@pytest.mark.parametrize(("temperature", "value"), [(0.07, 9.844076), (0.1, 7.025537)])
def test_the_contrastive_loss_is_clips_in_both_directions(temperature, value):
    """Golden case 13, executed there."""
    equal = torch.eye(6, dtype=torch.bool)
    assert float(infonce(unit(1), unit(2), equal, temperature)) == pytest.approx(value, abs=1e-4)
    assert infonce(unit(1), unit(2), equal, temperature) == infonce(unit(2), unit(1), equal, temperature)


def test_equal_texts_are_never_negatives():
    """Against a plain loop, in which an equal text stands in no sum."""
    ids = torch.tensor([[1, 0], [2, 0], [1, 0], [3, 3], [1, 0], [2, 0]])
    equal, a, b = same_text(ids), unit(1), unit(2)
    assert equal.sum() == 9 + 4 + 1
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(6):
            kept = [j for j in range(6) if j == i or ids[j].tolist() != ids[i].tolist()]
            logits = x[i] @ y[kept].T / 0.07
            total += float(torch.logsumexp(logits, 0) - x[i] @ y[i] / 0.07) / 12
    assert float(infonce(a, b, equal, 0.07)) == pytest.approx(total, abs=1e-5)


def test_a_question_is_drawn_with_its_own_answer():
    t = trainer()
    items, _, rng = t.batch(0)
    views, pairs = t.method.views(items, rng, 0.5), t.method.item.texts(items).long()
    asked = [
        row.index(question) for row, question in zip(pairs[:, :, 0].tolist(), views["question"].tolist(), strict=True)
    ]
    assert len(set(asked)) > 1
    assert torch.equal(views["answer"], pairs[torch.arange(len(items)), asked, 1])
    whole = trainer("clip")
    assert torch.equal(whole.method.views(items, rng, 0.5)["answer"], pairs[:, 3, 1])


def answerer(**settings: object) -> tuple[Answerer, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = Answerer(AnswerConfig(**settings), 16, 5).eval()
    question = torch.tensor([[9, 8, 7, 0, 0], [9, 0, 0, 0, 0]])
    return net, sines(4, 2, 3, 16), question, torch.tensor([[5, 6, 0, 0, 0], [5, 6, 7, 8, 9]])


def test_an_answer_depends_on_the_question_and_on_nobody_else_in_the_batch():
    net, tokens, question, answer = answerer()
    with torch.no_grad():
        both, texts = net.answer(tokens, question), net.text(answer)
        for i in range(2):
            torch.testing.assert_close(net.answer(tokens[i : i + 1], question[i : i + 1])[0], both[i])
            short = answer[i : i + 1, : int((answer[i] != 0).sum())]
            torch.testing.assert_close(net.text(short)[0], texts[i])
        assert not torch.allclose(net.answer(tokens, question.flip(0)), both, atol=1e-3)
        clip = answerer(asks=False)[0]
        assert torch.equal(clip.answer(tokens, question), clip.answer(tokens, question.flip(0)))


def test_a_likelihood_is_the_mean_over_the_answer_and_its_end():
    """Golden case 20 is this formula; here against passes over prefixes, which cannot see what comes later."""
    net, tokens, question, answer = answerer(writes=True)
    with torch.no_grad():
        found = net.likelihood(tokens, question, answer)
        for i in range(2):
            said = [*answer[i][answer[i] != 0].tolist(), END]
            each = []
            for n in range(len(said)):
                x, there = net.prompt(tokens[i : i + 1], question[i : i + 1])
                x = torch.cat([x[there][None], net.look_up(torch.tensor([[START, *said[:n]]]))], 1)
                first = int(there.sum())
                mask = torch.zeros(x.shape[1], x.shape[1])
                mask[:first, first:] = -torch.inf  # what the image sees must not depend on the answer's length
                mask[first:, first:] = torch.full((n + 1, n + 1), -torch.inf).triu(1)
                y = x
                for block in net.blocks:
                    y = block(y, mask)
                scores = F.linear(net.norm(y)[0, -1], net.table[:TOLD])
                each.append(float(scores.log_softmax(0)[said[n]]))
            assert float(found[i]) == pytest.approx(sum(each) / len(each), abs=1e-4)


def test_without_negatives_the_answers_collapse_and_the_spread_tells():
    """The effective rank does not: it knows no scale."""
    found = {}
    for recipe in ("quick", "cosine"):
        t = trainer(recipe, steps=150)
        items = t.data.train.batch(range(len(t.data.train)))
        x = (t.data.item.floats(items) - t.method.mean) / t.method.std
        untrained = feature_std(t.method.judged(t.method.encoder, x).detach())
        for _ in range(150):
            t.train_step()
        values = {"std": feature_std(t.method.judged(t.method.encoder, x).detach()), "untrained": untrained}
        found[recipe] = collapse_reason(values), values["std"]
    assert "nearly one vector" in found["cosine"][0], found
    assert not found["quick"][0], found


@pytest.mark.parametrize(("text", "why"), [
    ("objective.temperature=0", "at least 0.001"), ("objective.answer.heads=3", "must divide"),
    ("data.image_size=8", "at least 208 pixels"), ("data.name=clothing48", "takes captioned items"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(text, why):
    with pytest.raises(UserError, match=why):
        rehearse(configured("vljepa", "quick", [text]))


def test_settings_without_effect_are_refused():
    with pytest.raises(UserError, match="temperature"):
        configured("vljepa", "cosine", ["objective.temperature=0.1"])
    assert len("magenta striped rectangle") <= LENGTH
