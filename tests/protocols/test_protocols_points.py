"""The protocols of the tables of point clouds: linear SVM, n-way m-shot; against scikit-learn and plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_features import part
from sklearn.svm import SVC

from protocols.linear import Linear, LinearConfig, svm
from protocols.lowshot import LowShot, LowShotConfig, draw, ways
from ssl_bench.errors import UserError
from ssl_bench.evaluation.protocol import Features, Rows
from ssl_bench.evaluation.scorers import HARNESS, Ways


class Tokens:
    """Five tokens of each item: its feature, shaken."""

    def __init__(self, x: Features) -> None:
        generator = torch.Generator().manual_seed(3)
        self.held = x.own[:, None] + torch.randn(len(x), 5, x.own.shape[1], generator=generator)

    def __len__(self) -> int:
        return len(self.held)

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        return self.held[indices]


def with_tokens(n: int, seed: int) -> Features:
    x = part(n, seed=seed)
    return replace(x, tokens=Rows.of(Tokens(x)))


def test_the_svm_is_scikit_learns_on_the_maximum_beside_the_mean():
    train, val, test = with_tokens(300, 0), with_tokens(40, 1), with_tokens(300, 2)
    protocol = Linear(svm())
    assert protocol.input == "tokens"
    head = protocol.fit(train, val, 0)
    scores = head.predict(test.bare())
    both = [torch.cat([Tokens(x).held.amax(1), Tokens(x).held.mean(1)], 1).double().numpy() for x in (train, val, test)]
    theirs = SVC(kernel="linear", C=0.012)
    theirs.fit(np.concatenate(both[:2]), torch.cat([train.labels, val.labels]).numpy())
    assert (scores.argmax(1).numpy() == theirs.predict(both[2])).all()
    found = protocol.score(scores, test.labels, 4)
    assert found["top1"] == found["top5"] > 40
    assert head.selected == {"head": "max+mean/C=0.012", "candidates": 1}


def test_settings_that_have_no_effect_beside_the_svm_are_refused():
    for settings in ({"strengths": 9}, {"logistic": False}, {"tol": 0.1}):
        with pytest.raises(UserError, match=r"has no effect with svm=0.5"):
            LinearConfig(svm=0.5, **settings).check()
    with pytest.raises(UserError, match=r"linear\.svm=-1\.0 must be at least 0\."):
        Linear(LinearConfig(svm=-1.0))


def test_n_way_m_shot_trains_and_tests_on_the_same_classes_alone():
    protocol = LowShot(replace(ways(), ways=3, shots=(2, 5), draws=4))
    train, val, test = (
        part(200, classes=8, noise=0.1),
        part(40, classes=8, seed=1, noise=0.1),
        part(400, classes=8, seed=2, noise=0.1),
    )
    labels = torch.cat([train.labels, val.labels])
    chosen = [set(Ways((), 3).classes(i, 8).tolist()) for i in range(4)]
    assert len(set(map(frozenset, chosen))) > 1 and all(len(c) == 3 for c in chosen)
    for i in range(4):
        small, large = draw(labels, 8, protocol.config, i)
        assert set(labels[small].tolist()) == set(labels[large].tolist()) == chosen[i]
        assert labels[small].bincount().max() == 2 and set(small.tolist()) <= set(large.tolist())
    output = protocol.fit(train, val, 0).predict(test.bare())
    assert output.shape == (4, 2, 400)
    found = protocol.score(output, test.labels, 8)
    assert found["shots5"] > 95 and set(found) == {"shots2", "shots5", "shots2_std", "shots5_std"}
    assert type(protocol.scorer) in HARNESS


def test_the_episodes_score_as_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    labels, output = torch.arange(300) % 6, torch.randint(0, 6, (3, 1, 300), generator=generator)
    scorer = Ways(("shots1",), 2, most=7)
    means = []
    for i in range(3):
        hits = []
        for c in scorer.classes(i, 6).tolist():
            rows = [r for r in range(300) if int(labels[r]) == c][:7]
            hits += [int(output[i, 0, r]) == c for r in rows]
        means.append(100 * sum(hits) / len(hits))
    assert scorer(output, labels, 6)["shots1"] == pytest.approx(sum(means) / 3)


def test_more_ways_than_classes_and_other_settings_are_refused():
    with pytest.raises(UserError, match="ways=1 needs 2 classes or more"):
        LowShotConfig(ways=1, percents=()).check()
    with pytest.raises(UserError, match="ways=5 needs 2 classes"):
        LowShotConfig(ways=5).check()
    with pytest.raises(UserError, match="9 classes are asked for, and the set has 4"):
        LowShot(replace(ways(), ways=9)).fit(part(80), part(40, seed=1), 0)
