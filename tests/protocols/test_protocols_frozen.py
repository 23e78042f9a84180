"""`knn` and `linear` on the same features as a plain loop and scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_features import part
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from protocols.knn import KNN, KNNConfig, fewshot
from protocols.linear import Linear, LinearConfig
from ssl_bench.errors import UserError
from ssl_bench.evaluation import linear_heads
from ssl_bench.evaluation import logistic as solver
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.evaluation.protocol import Features
from ssl_bench.evaluation.scorers import classification
from ssl_bench.training.neighbours import knn_votes, nearest


def test_knn_equals_a_plain_loop():
    bank, queries = part(300), part(50, seed=1)
    votes = knn_votes(bank.own, bank.labels, queries.own, [1, 7, 20], 0.07, 4)
    unit = [q / q.norm() for q in queries.own.double()]
    for i, q in enumerate(unit):
        sims = torch.stack([q @ (b / b.norm()) for b in bank.own.double()])
        for j, k in enumerate((1, 7, 20)):
            plain = [0.0] * 4
            for n in sims.argsort(descending=True)[:k]:
                plain[int(bank.labels[n])] += float(torch.exp(sims[n] / 0.07)) / np.exp(1 / 0.07)
            assert votes[j, i].tolist() == pytest.approx(plain, rel=2e-4)


def test_knn_equals_scikit_learn():
    bank, queries = part(500), part(200, seed=1)
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine", algorithm="brute")
    theirs.fit(bank.own.numpy(), bank.labels.numpy())
    ours = knn_votes(bank.own, bank.labels, queries.own, [20], 0.07, 4)[0].argmax(1)
    assert (ours.numpy() == theirs.predict(queries.own.numpy())).all()


@pytest.mark.parametrize("t", [0.03, 0.005, 1e-4])
def test_knn_of_a_small_temperature_still_votes(t):
    """exp((cosine - 1) / t) is 0 in single precision where the nearest image is not near."""
    bank, queries = part(300), part(50, seed=1)
    votes = knn_votes(bank.own, bank.labels, queries.own, [1, 20], t, 4)
    sims = F.normalize(queries.own.double(), dim=1) @ F.normalize(bank.own.double(), dim=1).T
    top, near = sims.topk(20)
    weights = ((top - top[:, :1]) / t).exp()
    plain, known = (torch.zeros(50, 4).double().scatter_add(1, bank.labels[near], w) for w in (weights, weights + 1))
    assert (votes[1].argmax(1) == plain.argmax(1)).all()
    assert (votes[0].argmax(1) == bank.labels[near[:, 0]]).all() and ((votes[1] > 0) == (known > 0)).all()


@pytest.mark.parametrize(("bank", "queries"), [(6, 3), (30, 1), (30, 99)])
def test_knn_with_fewer_images_than_neighbours_or_a_hundred_queries(bank, queries):
    predictor = KNN(KNNConfig()).fit(part(bank), part(4, seed=2), 0)
    assert predictor.predict(part(queries, seed=1)).shape == (1, queries, 4)
    assert {name for name, _ in predictor.candidates(part(queries, seed=1))} == {f"k={k}" for k in KNNConfig().also}


def test_knn_with_a_bank_of_one_class():
    bank = part(40).take(torch.arange(0, 40, 4))
    assert bank.labels.unique().tolist() == [0]
    assert (KNN(KNNConfig()).fit(bank, bank, 0).predict(part(9, seed=1)).argmax(2) == 0).all()


def test_fewshot_knn_is_the_mean_over_ten_draws_that_are_the_same_for_all():
    protocol, test = KNN(fewshot()), part(100, seed=2)
    first, second = (protocol.fit(part(200), part(40, seed=1), seed) for seed in (0, 1))
    assert [labels.bincount().tolist() for _, labels in first.banks] == [[10] * 4] * 10
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first.banks, second.banks, strict=True))
    output = first.predict(test)
    assert len(output.unique(dim=0)) == 10
    metrics = protocol.score(output, test.labels, 4)
    found = 100 * (output.argmax(2) == test.labels).double().mean(1)
    assert (metrics["top1"], metrics["top1_std"]) == pytest.approx((float(found.mean()), float(found.std())))
    assert protocol.classes(output) is None
    with pytest.raises(UserError, match="no effect"):
        KNN(KNNConfig(draws=3))


@pytest.mark.parametrize("k", [1, 20, 200])
def test_nearest_images_are_those_of_one_selection_among_all(k):
    # a bank that GROUPS does not divide, two chunks; in double, where no two cosines are equal by rounding
    bank, queries = part(5003).own.double(), part(300, seed=1).own.double()
    sims, index = nearest(bank, queries, k)
    unit = torch.nn.functional.normalize(bank, dim=1)
    plain = (torch.nn.functional.normalize(queries, dim=1) @ unit.T).topk(k, dim=1)
    assert torch.equal(index, plain.indices)
    assert torch.allclose(sims, plain.values)


def fitted(x, strength, intercept=True, start=None):
    """Weight [D, K] and bias [K] on the features themselves, and the solution."""
    z, axes = rotate(x.own.__getitem__, len(x), intercept)
    found = solve(z, x.labels, 4, strength, intercept, start)
    weight = axes.matrix @ found.weight[:, : axes.matrix.shape[1]].T
    bias = found.weight[:, -1] - axes.centre @ weight if intercept else torch.zeros(4)
    return weight, bias, found, axes


@pytest.mark.parametrize("noise", [1.5, 0.4])
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0, 30.0, 1e3, 1e5])
def test_logistic_regression_equals_scikit_learn(strength, noise):
    train, test = part(400, noise=noise), part(200, seed=1, noise=noise)
    weight, bias, found, axes = fitted(train, strength)
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=20000)
    theirs.fit(train.own.double().numpy(), train.labels.numpy())
    error = np.linalg.norm(weight.T.numpy() - theirs.coef_) / np.linalg.norm(theirs.coef_)
    # of separated classes at C = 1e5 both end on a plain of losses below 1e-6, and agree in classes alone
    assert error < 1e-2 or (strength, noise) == (1e5, 0.4)
    same = found.logits(axes(test.own)).argmax(1).numpy() == theirs.predict(test.own.double().numpy())
    assert same.mean() >= 0.995
    assert torch.allclose(test.own @ weight + bias, found.logits(axes(test.own)), atol=1e-3)


def test_logistic_regression_with_more_features_than_samples():
    x = part(40, d=100)
    weight, bias, _, _ = fitted(x, 0.1)
    theirs = LogisticRegression(C=0.1, tol=1e-8, max_iter=20000).fit(x.own.double().numpy(), x.labels.numpy())
    assert np.abs(weight.T.numpy() - theirs.coef_).max() < 2e-3 * np.abs(theirs.coef_).max()
    assert np.abs(bias.numpy() - theirs.intercept_).max() < 1e-3


def test_logistic_regression_without_intercept_and_from_a_start():
    x = part(200)
    weight, _, cold, _ = fitted(x, 1.0, intercept=False)
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=20000, fit_intercept=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.own.double().numpy(), x.labels.numpy())
    assert np.abs(weight.T.numpy() - theirs.coef_).max() < 5e-3 * np.abs(theirs.coef_).max()
    assert fitted(x, 1.0, False, cold.weight)[2].evaluations < cold.evaluations


def test_scores_of_wide_features_lie_on_their_leading_axes(monkeypatch):
    monkeypatch.setattr(solver, "EXACT", 50)
    monkeypatch.setattr(solver, "LEADING", 24)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=generator) @ torch.randn(20, 120, generator=generator)
    z, axes = rotate(x.__getitem__, 300, scaled=True)
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    assert z.shape == (300, 25)
    assert torch.allclose(z[:, :-1] @ z[:, :-1].T, scaled @ scaled.T, atol=0.05)  # rank 20: nothing is lost
    assert torch.allclose(axes(x[:7]), z[:7], atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_heads_trained_together_equal_heads_trained_alone(optimizer):
    x = part(100)
    both = linear_heads.HeadsConfig((0.01, 0.1), (0.0, 0.1), optimizer)
    for lr in both.lrs:
        for wd in both.weight_decays:
            found = []
            for config in (both, linear_heads.HeadsConfig((lr,), (wd,), optimizer)):
                generator = torch.Generator().manual_seed(0)
                group = linear_heads.Group(("last", "mean"), 16, 4, config, generator)
                group.standardize(x.own)
                order = torch.Generator().manual_seed(1)
                linear_heads.train([group], *linear_heads.cached_batches(x, 32, 3, order))
                found.append(group.weight[group.names.index(f"last/mean/lr={lr:g}/wd={wd:g}")])
            assert torch.allclose(*found, atol=1e-6)


def test_sgd_head_equals_torch():
    x, config = part(96), linear_heads.HeadsConfig((0.1,), (0.01,), init_std=0.0)
    group = linear_heads.Group(("last", "mean"), 16, 4, config, torch.Generator().manual_seed(0))
    group.standardize(x.own)
    model = torch.nn.Linear(16, 4)
    torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(10):
        group.step(x.own, x.labels, 1.0)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(group.normalized(x.own)), x.labels).backward()
        optimizer.step()
    assert torch.allclose(group.weight[0].T, model.weight, atol=1e-5)
    assert torch.allclose(group.bias[0], model.bias, atol=1e-5)


def test_linear_finds_the_strength_a_search_over_all_finds():
    train, val, test = part(240, noise=1.5), part(80, seed=1, noise=1.5), part(400, seed=2, noise=1.5)
    predictor = Linear(LinearConfig()).fit(train, val, 0)
    names = [name for name, _ in predictor.candidates(test)]
    assert len(names) == len(set(names)) == predictor.selected["candidates"] < 45
    assert predictor.selected["head"] in names
    assert classification(predictor.predict(test), test.labels, 4)["top1"] > 40
    lowest = []
    for key in (("last", train.pooling), train.keys[-1]):
        z, _ = rotate(torch.cat([train[key], val[key]]).__getitem__, 320, scaled=True)
        for c in (10 ** torch.linspace(-6, 5, 45)).tolist():
            logits = solve(z[:240], train.labels, 4, c).logits(z[240:])
            lowest.append(float(torch.nn.functional.cross_entropy(logits, val.labels)))
    assert predictor.selected["val_loss"] == pytest.approx(min(lowest), abs=2e-3)


def test_the_winner_is_fitted_on_both_parts_and_to_the_end():
    train, val, test = part(240), part(80, seed=1), part(50, seed=2)
    predictor = Linear(LinearConfig(strengths=9)).fit(train, val, 0)
    key, place = predictor.chosen
    both = (train + val)[key]
    std, mean = torch.std_mean(both, 0, correction=0)
    theirs = LogisticRegression(C=predictor.strengths[place], tol=1e-8, max_iter=20000)
    theirs.fit(((both - mean) / std).double().numpy(), (train + val).labels.numpy())
    ours = predictor.predict(test).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(((test[key] - mean) / std).double().numpy())).max() < 2e-3


def test_the_chosen_head_alone_gives_what_it_gives_among_all():
    config = LinearConfig(logistic=False, epochs=2, batch_size=64)
    train, val, test = part(240), part(80, seed=1), part(50, seed=2)
    predictor = Linear(config).fit(train, val, 0)
    assert len(list(predictor.candidates(test))) == 2 * 3 * 10
    for i, (_, logits) in enumerate(predictor.all(test)):
        predictor.chosen = i
        assert torch.allclose(predictor.predict(test), logits, atol=1e-4)


def test_the_last_linear_fit_is_kept_for_the_same_parts_alone():
    config, train, val = LinearConfig(epochs=1, logistic=False), part(60), part(20, seed=1)
    first = Linear(config).fit(train, val, 0)
    assert Linear(config).fit(replace(train, encoder=None), val, 0) is first
    other = replace(train, labels=train.labels.flip(0))
    assert Linear(config).fit(other, val, 0) is not first
    assert Linear(config).fit(train, val, 1) is not first
    assert Linear(replace(config, epochs=2)).fit(train, val, 1) is not first


def test_metrics_by_hand():
    scores = torch.eye(6)[torch.tensor([0, 0, 1, 5])] + torch.arange(6) * 0.01
    metrics = classification(scores, torch.tensor([0, 1, 1, 0]), 6)
    assert metrics == pytest.approx({"top1": 50.0, "top5": 50.0, "balanced": 50.0})


def test_what_weak_axes_tell_is_found_behind_a_hill_of_the_loss():
    """Classes that only directions of a hundredth of the spread tell: the leading axes overfit before they are read."""

    def weakly(n: int, seed: int) -> Features:
        x, g = part(n, d=40, cls=False), torch.Generator().manual_seed(0)
        leading, told = torch.randn(24, 40, generator=g), torch.randn(4, 40, generator=g)
        g = torch.Generator().manual_seed(seed)
        loud, quiet = torch.randn(n, 24, generator=g) @ leading, torch.randn(n, 40, generator=g)
        rows = loud + 0.01 * (2 * told[x.labels] + 0.3 * quiet)
        return replace(x, pooled={"mean": rows[:, None]})

    predictor = Linear(LinearConfig()).fit(weakly(400, 1), weakly(200, 2), 0)
    losses = [predictor.losses[("last", "mean"), place][0] for place in range(0, 45, 4)]  # type: ignore[attr-defined]
    assert losses[0] < losses[4] < losses[6] > losses[11]  # up by more than noise, and down again
    test = weakly(200, 3)
    assert float((predictor.predict(test).argmax(1) == test.labels).float().mean()) > 0.95
