"""Images with questions: the set, what its sealed file tells, and answers without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from protocols.zeroshot import scores
from ssl_bench.config.schema import DataConfig, RunConfig
from ssl_bench.data import captions, items, registry
from ssl_bench.data.captioned import Captioned
from ssl_bench.data.dataset import open_data, open_test, open_truth
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.evaluation.text_scorers import Answered
from ssl_bench.models.answers import AnswerConfig, Answerer
from ssl_bench.models.texts import as_bytes
from ssl_bench.training.pretrain import pretrain

SET = DataConfig("captions:120", image_size=24, val_fraction=0.2)


def said(texts: torch.Tensor) -> list[list[str]]:
    return [[bytes(t[t > 0].tolist()).decode() for t in pair] for pair in texts]


@pytest.mark.parametrize("kind", ["decoded", "encoded"])
def test_answers_are_the_factors_and_the_sealed_file_has_none(kind):
    data = open_data(SET, RunConfig(store=kind))
    texts = data.item.texts(data.train.batch(slice(0, 20)))
    for pairs, target in zip(texts, data.train.targets[:20].int().tolist(), strict=True):
        shape, hue, look = captions.SHAPES[target[0]], captions.HUES[target[1]], captions.LOOKS[target[2]]
        assert said(pairs) == [
            ["shape", shape], ["colour", hue], ["texture", look], ["caption", f"{hue} {look} {shape}"],
        ]  # fmt: skip
    test = open_test(SET)
    sealed = test.batch(slice(0, len(test)))
    assert sealed.shape == (30, 4, 24, 24) and (sealed[:, 3] == 0).all() and (sealed[:, :3] > 0).any()
    assert open_truth(SET)["targets"].shape == (30, 8)


def test_held_out_combinations_are_in_no_training_image_and_evenly_spread():
    data = open_data(SET)
    assert not captions.held(torch.cat([data.train.targets, data.val.targets]).numpy()).any()
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (6, 6, 4)), indexing="ij"), -1).reshape(-1, 3)
    out = grid[captions.held(grid)]
    assert len(out) == 24 and all(len(np.unique(out[:, i])) == n for i, n in enumerate((6, 6, 4)))
    assert sorted(captions.combination(grid)) == list(range(144)) and len(set(captions.CAPTIONS)) == 144


def test_image_methods_and_encoders_see_the_image():
    kind = Captioned(24, 24)
    assert items.written(kind.facts) == kind and registry.item(SET) == kind
    data = open_data(SET)
    assert kind.as_kind(("image",)).name == "image" and kind.as_kind(("captioned", "image")) is kind
    pictured = data.pictured()
    assert torch.equal(pictured.train.batch([3]), data.train.batch([3])[:, :3])
    with pytest.raises(UserError, match="20 or more"):
        registry.find("captions:3")


def test_scores_are_counted_as_a_plain_loop_does():
    truth = torch.tensor([[0.0, 0, 0, 9], [1, 2, 3, 9], [5, 5, 2, 9]])
    own = captions.combination(truth.numpy())
    output = torch.tensor([[0, 0, 0, own[0]], [1, 0, 3, 7], [0, 0, 0, own[2]]])
    found = Answered()(output, truth, 6)
    assert captions.held(truth.numpy()).tolist() == [True, True, True]
    assert found["shape"] == pytest.approx(200 / 3) and found["colour"] == pytest.approx(100 / 3)
    assert found["mean"] == found["mean_held"] == pytest.approx(100 * 5 / 9)
    assert found["caption"] == found["caption_held"] == pytest.approx(200 / 3)
    assert found["chance"] == pytest.approx(100 * (1 / 6 + 1 / 6 + 1 / 4) / 3)
    output[:, 3] = -1
    assert not {"caption", "caption_held"} & Answered()(output, truth, 6).keys()


def test_the_answer_is_the_nearest_or_the_likeliest():
    torch.manual_seed(0)
    tokens = torch.randn(3, 4, 16)
    for writes in (False, True):
        net = Answerer(AnswerConfig(writes=writes), 16, 26).eval()
        found = scores(net, tokens, "colour", captions.HUES)
        asked, known = as_bytes(("colour",), 26), as_bytes(captions.HUES, 26)
        for i in range(3):
            for j in range(6):
                with torch.no_grad():
                    one, other = tokens[i : i + 1], known[j : j + 1]
                    mine = net.likelihood(one, asked, other) if writes else net.answer(one, asked) @ net.text(other).T
                assert float(found[i, j]) == pytest.approx(float(mine), abs=1e-5)


@pytest.mark.parametrize("recipe", ["quick", "caption"])
def test_a_run_answers_and_others_get_nothing(recipe: str, tmp_path: Path):
    from ssl_bench import find

    config = replace(tiny("vljepa", "", steps=3), objective=find.recipe("vljepa", recipe)().objective, data=SET)
    pretrain(config, tmp_path)
    (run,) = (p for p in tmp_path.iterdir() if (p / "answers.json").exists())
    found = {r.protocol: r for r in evaluate_all(str(run), ["zeroshot", "factors", "knn"], SET, tmp_path)}
    metrics = found["zeroshot"].metrics
    assert 0 < metrics["mean"] < 100 and ("caption" in metrics) == (recipe == "quick")
    assert found["zeroshot"].encoder["answers_sha256"] and found["factors"].metrics["mean"] >= 0
    (raw,) = evaluate_all("pixels", ["zeroshot"], SET, tmp_path)
    assert raw.metrics["mean"] == 0
    with pytest.raises(UserError, match="zeroshot needs images with questions"):
        list(evaluate_all("pixels", ["zeroshot"], DataConfig("factors:40", 24), tmp_path))
