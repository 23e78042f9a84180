"""Inputs at the edge: one class, nothing that varies, weights that are no numbers, fewer images than shots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_features import part
from PIL import Image

from protocols.knn import KNN, KNNConfig, fewshot
from protocols.lowshot import LowShot, LowShotConfig
from ssl_bench.config.schema import DataConfig, vit
from ssl_bench.encoders import references
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, protocol, scorable
from ssl_bench.evaluation.logistic import rotate, solve
from ssl_bench.evaluation.protocol import given
from ssl_bench.evaluation.scorers import classification
from ssl_bench.experiments import matrix, runner


def paint(root: Path, counts: dict[str, int], grey: bool = False) -> DataConfig:
    """A folder with `counts` training images and 6 test images per class, 8 px; `grey`: all of one colour."""
    rng = np.random.default_rng(0)
    for i, (name, count) in enumerate(counts.items()):
        for split, number in (("train", count), ("test", 6)):
            (root / split / name).mkdir(parents=True)
            for j in range(number):
                image = np.full((8, 8, 3), 128) if grey else rng.integers(40 * i, 40 * i + 90, (8, 8, 3))
                Image.fromarray(image.astype(np.uint8)).save(root / split / name / f"{j}.png")
    return DataConfig(f"folder:{root}", image_size=8)


@pytest.mark.parametrize("name", ["knn", "linear", "lowshot", "attentive"])
def test_images_that_are_all_alike_give_chance(name: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"a": 20, "b": 20, "c": 20}, grey=True)
    for source in ("pixels", references.untrained(vit("toy_patch4"), 8, 0)):
        record = evaluate.evaluate(source, name, data, tmp_path / "root")
        assert record.value == pytest.approx(100 / 3)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("d", [5, 100])
def test_logistic_regression_on_zeros_knows_the_classes_shares_alone(intercept: bool, d: int) -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    z, axes = rotate(torch.zeros(40, d).__getitem__, 40, intercept)
    for strength in (1e-3, 1.0):
        shares = solve(z, labels, 2, strength, intercept).logits(axes(torch.randn(3, d))).softmax(1)[:, 0]
        assert shares.tolist() == pytest.approx([0.75 if intercept else 0.5] * 3, abs=1e-4)


def test_one_class_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"only": 12})
    for name in ("knn", "linear", "lowshot", "retrieval"):
        with pytest.raises(UserError, match="of one class, 'only', and one class cannot be classified"):
            evaluate.evaluate("pixels", name, data, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_weights_and_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    data, encoder = paint(tmp_path / "data", {"a": 9, "b": 9}), references.untrained(vit("toy_patch4"), 8, 0)
    with pytest.raises(UserError, match=r"features that are not finite for \d+ of \d+ train images"):
        evaluate.evaluate(replace(encoder, std=(0.0, 0.0, 0.0), mean=(0.0, 0.0, 0.0)), "knn", data, tmp_path / "root")
    with torch.no_grad():
        encoder.model.norm.bias[0] = torch.nan
    with pytest.raises(UserError, match=r"weights of '.*' are not finite \(norm.bias\)"):
        evaluate.evaluate(encoder, "knn", data, tmp_path / "root")
    assert not (tmp_path / "root" / "records").exists()


def test_shots_that_a_class_does_not_have_are_in_the_name(tmp_path: Path) -> None:
    record = evaluate.evaluate("pixels", "lowshot", paint(tmp_path / "data", {"a": 6, "b": 6}), tmp_path / "root")
    assert record.headline == "shots10 (6 per class)"
    assert {k for k in record.metrics if k.startswith("shots") and not k.endswith("_std")} == {
        "shots1", "shots2", "shots5", "shots10 (6 per class)", "shots25 (6 per class)",
    }  # fmt: skip
    few = evaluate.evaluate("pixels", "knn:fewshot", paint(tmp_path / "more", {"a": 6, "b": 12}), tmp_path / "root")
    assert few.headline == "top1 (6-10 per class)"


@pytest.mark.parametrize(
    ("counts", "shots", "words"), [([9, 9], 9, ""), ([6, 6], 9, "6"), ([6, 12], 9, "6-9"), ([0, 3], 2, "0-2")]
)
def test_what_classes_can_give(counts: list[int], shots: int, words: str) -> None:
    assert given(torch.repeat_interleave(torch.tensor(counts)), len(counts), shots) == words


def test_enough_images_leave_the_names_alone() -> None:
    bank = part(200)
    assert LowShot(LowShotConfig()).fit(bank, part(40), 0).true_names == {}
    assert KNN(fewshot()).fit(bank, part(40), 0).true_names == {}


@pytest.mark.parametrize("k", [1, 2, 20])
def test_top5_of_knn_counts_classes_with_a_vote_alone(k: int) -> None:
    bank, test, one = part(300, classes=10, noise=3.0), part(200, classes=10, seed=1, noise=3.0), KNN(KNNConfig(k=k))
    votes = one.fit(bank, part(20, classes=10), 0).predict(test)
    plain = []
    for row, label in zip(votes[0].tolist(), test.labels.tolist(), strict=True):
        voted = sorted((c for c in range(10) if row[c] > 0), key=lambda c: -row[c])[:5]
        plain.append(label in voted)
    metrics = one.score(votes, test.labels, 10)
    assert metrics["top5"] == pytest.approx(100 * np.mean(plain))
    assert (metrics["top5"] == metrics["top1"]) == (k == 1)


def test_a_class_scored_minus_infinity_is_no_guess() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 1.0], [0.0, 2.0, -torch.inf]])
    assert classification(scores, torch.tensor([1, 0]), 3)["top5"] == 50


def test_the_record_says_what_the_largest_class_would_score(tmp_path: Path) -> None:
    labels: Any = [torch.tensor(x) for x in ([1] * 8 + [0] * 4, [0, 0, 0], [0] * 1 + [1] * 6 + [2] * 3)]
    found = evaluate._balance(*labels)  # 8 of class 1 and 7 of class 0 to learn from: class 1, 6 of the 10 to test
    assert found == {"majority": 60.0, "test_classes": 3, "imbalance": 6.0}
    record = evaluate.evaluate("pixels", "knn", paint(tmp_path / "data", {"a": 9, "b": 9}), tmp_path / "root")
    assert (record.data["majority"], record.data["imbalance"]) == (50.0, 1.0)


def test_no_protocol_is_needed_to_know_that_there_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    from ssl_bench.data.dataset import open_data

    assert scorable.nothing_to_tell_apart(open_data(paint(tmp_path / "two", {"a": 9, "b": 9}))) == ""
    one = scorable.nothing_to_tell_apart(open_data(paint(tmp_path / "one", {"a": 9})))
    assert "one class cannot be classified" in one


def test_retrieval_among_single_images_is_one_sentence() -> None:
    one = protocol.load("retrieval")
    with pytest.raises(UserError, match="no class has two test images"):
        one.score(torch.eye(3), torch.arange(3), 3)
    assert one.score(torch.eye(3), torch.tensor([0, 1, 1]), 3)["map"] > 0


@pytest.mark.parametrize(("name", "told"), [
    ("dense", "dense needs images with masks"), ("plan", "plan needs trajectories of a world"),
    ("factors", "factors probes known factors"),
])  # fmt: skip
def test_what_a_protocol_lacks_is_told_before_anything_is_trained(
    name: str, told: str, photos: Path, tmp_path: Path
) -> None:
    settings = [f"data.name=folder:{photos}", "data.image_size=24", "backbone=toy_patch8", "data.val_fraction=0.2"]
    rows = matrix.plan(["mae"], [name], 1, "quick", settings, tmp_path)
    with pytest.raises(UserError, match=told):
        runner.ready(rows)
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match=told):
        evaluate.evaluate("pixels", name, DataConfig(f"folder:{photos}", 24, 0.2), tmp_path)
    assert not any(tmp_path.iterdir())
