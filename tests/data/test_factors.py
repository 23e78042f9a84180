"""The set with known factors and the probe that reads them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from protocols.factors import explained, ridge
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import dataset, factors
from ssl_bench.errors import UserError
from ssl_bench.evaluation import answers, evaluate

SMALL = DataConfig("factors:400", image_size=24)


def test_images_show_their_factors():
    rng = np.random.default_rng(0)
    for shape in range(len(factors.SHAPES)):
        values = np.array([shape, 4, 0, 0.4, 0.6, 0.2, 30, 0], np.float32)  # plain blue, no noise
        image = factors.draw(values, rng).astype(float)
        blue = image[..., 2] > 150
        y, x = np.nonzero(blue)
        assert abs(x.mean() / 64 - 0.4) < 0.06 and abs(y.mean() / 64 - 0.6) < 0.06
        assert image[blue].mean(0)[2] > 3 * image[blue].mean(0)[0]
        larger = factors.draw(values + np.eye(8, dtype=np.float32)[5] * 0.04, np.random.default_rng(0))
        assert (larger[..., 2] > 150).sum() > 1.2 * blue.sum()
        turned = factors.draw(values - np.eye(8, dtype=np.float32)[6] * 60, np.random.default_rng(0))
        assert ((turned[..., 2] > 150) != blue).sum() > 0.15 * blue.sum(), factors.SHAPES[shape]


def test_the_set_is_seeded_and_a_larger_one_begins_with_it():
    one, two = (list(factors.items(n)) for n in (20, 24))
    assert all(a[0] == b[0] and (a[3] == b[3]).all() for a, b in zip(one[:20], two[:20], strict=True))
    assert one[20][2] == "test" and one[20][0] != one[0][0]
    assert len({item[0] for item in one}) == 25


def test_the_store_keeps_factors_with_their_images():
    found = dataset.open_data(SMALL)
    assert len(found.train) + len(found.val) == 400 and len(dataset.open_test(SMALL)) == 100
    for part in (found.train, found.val):
        assert part.targets is not None
        assert torch.equal(part.targets[:, 0].long(), part.labels) and found.classes == factors.SHAPES
    channels = found.train.batch(slice(None)).float().mean((2, 3))
    red, blue = (found.train.targets[:, 1] == factors.HUES.index(hue) for hue in ("red", "blue"))
    assert ((channels[:, 0] > channels[:, 2])[red]).all() and ((channels[:, 0] < channels[:, 2])[blue]).all()


def test_pixels_tell_position_and_scale_but_not_rotation(tmp_path):
    record = evaluate.evaluate("pixels", "factors", SMALL, tmp_path)
    assert record.metrics["position"] > 30 and record.metrics["scale"] > 20 and record.metrics["colour"] > 40
    assert record.metrics["rotation"] < 30
    assert set(record.metrics) == {"mean", *(f.name for f in factors.FACTORS)}
    assert record.value == pytest.approx(record.metrics["mean"]) and not record.correct


def test_the_probe_is_given_no_factor_of_a_test_image(tmp_path, monkeypatch):
    seen = []
    real = answers.predict
    monkeypatch.setattr(answers, "predict", lambda *parts: seen.append(parts) or real(*parts))
    evaluate.evaluate("pixels", "factors", SMALL, tmp_path)
    _, _, train, _, test, *_ = seen[0]
    assert test.targets is None and not len(test.labels) and len(test) == 100 and train.targets is not None


@pytest.mark.parametrize(("name", "sentence"), [("factors:ten", "20 or more"), ("factor", "Did you mean 'factors'")])
def test_wrong_names_are_one_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        dataset.open_data(dataclasses.replace(SMALL, name=name))


def test_an_untrained_vit_can_be_evaluated_on_any_set(tmp_path):
    assert evaluate.data_of("random:vit_tiny_patch8@48", tmp_path, "factors").name == "factors"


def test_images_without_known_factors_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match="known factors"):
        evaluate.evaluate("pixels", "factors", DataConfig(f"folder:{photos}", 24, 0.2), tmp_path)


def test_ridge_equals_the_closed_form_and_explained_is_r2():
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    weight, bias = ridge(x, y, torch.tensor([0.3], dtype=torch.float64))
    z, t = x - x.mean(0), y - y.mean(0)
    closed = torch.linalg.solve(z.T @ z + 30 * 0.3 * torch.eye(5, dtype=torch.float64), z.T @ t)
    assert torch.allclose(weight[0], closed) and torch.allclose(bias[0], y.mean(0) - x.mean(0) @ closed)
    assert explained(y, y).tolist() == [100, 100] and explained(y.mean(0).expand(30, 2), y).abs().max() < 1e-9
