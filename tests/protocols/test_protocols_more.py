"""Low-shot, label-free, retrieval, clustering: against closed forms, golden values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_features import part
from sklearn.metrics import average_precision_score

from protocols import clustering
from protocols.clustering import Clustering, ClusteringConfig, kmeans
from protocols.labelfree import alpha_req, correlation, lidar, two_nn, uniformity
from protocols.lowshot import LowShot, LowShotConfig, draw, msn_features, ridge, ridge_regression
from protocols.retrieval import Retrieval, RetrievalConfig
from ssl_bench.errors import UserError
from ssl_bench.evaluation import scorers
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.evaluation.scorers import matched_accuracy
from ssl_bench.training.monitor import feature_std, rankme


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [20, 60])  # primal and dual
def test_ridge_equals_the_closed_form_in_float64(n):
    x, y = normal(n, 32), torch.arange(n) % 4
    weight, *_ = ridge_regression(x, y, 4, 1024.0)
    z = np.concatenate([((x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-5)).numpy(), np.full((n, 1), 100.0)], 1)
    target = np.where(np.eye(4)[y.numpy()] > 0, 1.0, -1.0)
    closed = np.linalg.inv(z.T @ z + 1024.0 * np.eye(33)) @ z.T @ target
    assert np.abs(weight.numpy() - closed).max() < 1e-10


def test_msn_regression_reaches_the_optimum_of_its_objective():
    x = part(100)
    z = msn_features(x.own)
    assert z.norm(dim=1) == pytest.approx(torch.ones(100), abs=1e-5)
    scores, away = rotate(z.__getitem__, len(z), intercept=False)
    found = solve(scores, x.labels, 4, 4000.0, intercept=False)
    weight = (away.matrix @ found.weight.T).double().requires_grad_()
    loss = F.cross_entropy(z.double() @ weight, x.labels) + 0.00025 / (2 * 100) * weight.square().sum()
    assert float(torch.autograd.grad(loss, weight)[0].abs().max()) < 3e-6


def test_lowshot_draws_are_nested_and_the_same_for_all():
    labels, config = part(400).labels, LowShotConfig(percents=(1.0, 10.0))
    sets = dict(zip(config.names(), draw(labels, 4, config, 0), strict=True))
    assert [labels[sets[f"shots{k}"]].bincount().tolist() for k in (1, 25)] == [[1] * 4, [25] * 4]
    assert len(sets["percent1"]) == 4
    assert len(sets["percent10"]) == 40
    for small, large in (("shots1", "shots2"), ("shots5", "shots25"), ("percent1", "percent10")):
        assert set(sets[small].tolist()) < set(sets[large].tolist())
    assert torch.equal(draw(labels, 4, config, 0)[2], sets["shots5"])
    assert not torch.equal(draw(labels, 4, config, 1)[2], sets["shots5"])


@pytest.mark.parametrize("config", [LowShotConfig(), ridge()])
def test_more_shots_are_better(config):
    protocol = LowShot(config)
    predictor = protocol.fit(part(300, noise=1.0), part(40, seed=1, noise=1.0), 0)
    metrics = protocol.score(predictor.predict(part(200, seed=2, noise=1.0)), part(200).labels, 4)
    assert 25 < metrics["shots1"] < metrics["shots25"]


@pytest.mark.parametrize(("z", "expected", "within"), [
    (torch.eye(100), 100.0036, 1e-3),
    (normal(800, 1) @ normal(1, 768, seed=1), 1.0012, 1e-4),
    (normal(4096, 64), 63.88, 0.05),
    (normal(4096, 64) + 10, 12.3, 0.3),
    (normal(1000, 384), 363.1, 1.0),
])  # fmt: skip
def test_rankme_golden_values(z, expected, within):
    assert rankme(z) == pytest.approx(expected, abs=within)


def test_rankme_epsilon_and_centring():
    assert rankme(normal(800, 1) @ normal(1, 768, seed=1), eps=1e-5) == pytest.approx(1.0923, abs=1e-3)
    z = normal(4096, 64) + 10
    assert rankme(z - z.mean(0)) == pytest.approx(63.88, abs=0.05)


def test_uniform_sphere_golden_values():
    z = F.normalize(normal(2000, 128), dim=1)
    assert uniformity(z) == pytest.approx(-3.94, abs=0.01)
    assert feature_std(z) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("start", "stop", "expected"), [(11, 50, 1.007), (3, 100, 1.002)])
def test_alpha_req_golden_values(start, stop, expected):
    z = normal(20_000, 256) * torch.arange(1, 257, dtype=torch.float64).rsqrt()
    assert alpha_req(z, start, stop) == pytest.approx(expected, abs=0.03)


def test_lidar_golden_values():
    centres = normal(500, 1, 32)
    for noise in (0.01, 1.0):
        assert lidar(centres + noise * normal(500, 10, 32, seed=1)) == pytest.approx(30.9, abs=0.4)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_lidar_of_a_signal_of_rank_four_is_near_four(scale):
    signal = normal(500, 1, 4) @ normal(4, 32, seed=1)
    assert lidar(scale * (signal + 0.1 * normal(500, 10, 32, seed=2))) == pytest.approx(4.18, abs=0.8)


def test_intrinsic_dimension_and_correlation():
    plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ normal(2, 30)
    assert two_nn(plane) == pytest.approx(2.0, abs=0.15)
    z = normal(5000, 4)
    off, dead = correlation(torch.cat([z, z[:, :1], torch.zeros(5000, 5)], 1))
    assert dead == 0.5
    assert off == pytest.approx(2 / 20, abs=0.03)  # one pair of ten is equal


def test_retrieval_equals_a_plain_loop_with_scikit_learn(monkeypatch):
    x = part(80)
    monkeypatch.setattr(scorers, "QUERIES", 30)  # in three pieces
    metrics = Retrieval(RetrievalConfig()).score(F.normalize(x.own, dim=1), x.labels, 4)
    sims = (F.normalize(x.own, dim=1) @ F.normalize(x.own, dim=1).T).numpy()
    same = (x.labels[:, None] == x.labels[None]).numpy()
    others = ~np.eye(80, dtype=bool)
    average = [average_precision_score(same[i, others[i]], sims[i, others[i]]) for i in range(80)]
    assert metrics["map"] == pytest.approx(100 * np.mean(average), abs=0.01)
    assert metrics["p@1"] == metrics["r@1"] <= metrics["r@5"] <= metrics["r@10"]


def test_retrieval_leaves_out_classes_with_one_image():
    labels = torch.tensor([0, 0, 1, 2, 2])
    x = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0], [-1, 0.1]]), dim=1)
    assert Retrieval(RetrievalConfig()).score(x, labels, 3)["map"] == 100


def test_clustering_finds_separate_classes_and_not_noise():
    train, val, test = (part(n, noise=0.1, seed=s) for s, n in enumerate((200, 40, 100)))
    protocol = Clustering(ClusteringConfig())
    clear = protocol.score(protocol.fit(train, val, 0).predict(test), test.labels, 4)
    assert clear["acc"] > 75
    shuffled = test.labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    assert protocol.score(protocol.fit(train, val, 0).predict(test), shuffled, 4)["ari"] < 5


def test_more_clusters_than_images_are_refused():
    assert Clustering(ClusteringConfig(clusters=6)).fit(part(4), part(2, seed=1), 0).centres.shape[1] == 6
    with pytest.raises(UserError, match="clusters=7 needs as many training images, and there are 6"):
        Clustering(ClusteringConfig(clusters=7)).fit(part(4), part(2, seed=1), 0)


def test_kmeans_lowers_its_cost_and_follows_the_seed():
    x = part(300).own
    starts = [kmeans(x, 4, 3, n, torch.Generator().manual_seed(0)) for n in (1, 50)]
    cost = [torch.stack([torch.cdist(x, c).amin(1).square().mean() for c in s]) for s in starts]
    assert (cost[1] <= cost[0] + 1e-5).all()
    assert torch.equal(starts[1], kmeans(x, 4, 3, 50, torch.Generator().manual_seed(0)))


def test_kmeans_in_pieces_is_kmeans(monkeypatch):
    x = part(300).own
    whole = kmeans(x, 4, 3, 50, torch.Generator().manual_seed(0))
    monkeypatch.setattr(clustering, "CELLS", 3 * 4 * 70)
    assert torch.allclose(kmeans(x, 4, 3, 50, torch.Generator().manual_seed(0)), whole, atol=1e-5)


def test_matched_accuracy_by_hand():
    assert matched_accuracy(np.array([2, 2, 0, 0, 1]), np.array([0, 0, 1, 2, 2])) == pytest.approx(4 / 5)
