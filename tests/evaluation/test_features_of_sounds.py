"""A run on sounds from its training to its numbers, beside the raw rows; and what an encoder of sounds refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny

from ssl_bench.config.schema import DataConfig
from ssl_bench.config.sound import MelConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.data.sounds import wav
from ssl_bench.encoders.from_run import from_run
from ssl_bench.encoders.resolve import resolve
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.evaluation.features import cache_key
from ssl_bench.experiments import pictures
from ssl_bench.rng import Rng
from ssl_bench.training.pretrain import pretrain
from ssl_bench.views.augment import AugmentConfig

MEL = MelConfig(rate=8000, window_ms=32)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Tones of three pitches, each with its own loudness and start."""
    root, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for name, hertz in (("low", 200), ("middle", 700), ("high", 2000)):
        for split, count in (("train", 20), ("test", 8)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                time = np.arange(2100) / 8000 + rng.random()
                samples = rng.uniform(2000, 20_000) * np.sin(2 * np.pi * (hertz + i) * time) + rng.normal(0, 50, 2100)
                (root / split / name / f"{i}.wav").write_bytes(wav(samples.astype(np.int16), 8000))
    return DataConfig(f"folder:{root}#kind=sound", 24, 0.2, mel=MEL)


def test_from_the_training_to_the_numbers(config: DataConfig, tmp_path: Path):
    run = pretrain(replace(tiny("audiojepa", "", steps=4), data=config), tmp_path)
    encoder = from_run(run)
    assert encoder.item == open_data(config).item and encoder.image_size == 24
    protocols = ["knn", "linear", "attentive", "lowshot", "labelfree"]
    found = {r.protocol: r for r in evaluate_all(run.name, protocols, config, tmp_path)}
    assert set(found) == set(protocols) and found["knn"].encoder["item"]["mel"]["rate"] == 8000
    assert found["knn"].data["num_test"] == 24
    with pytest.raises(UserError, match="Corruptions are of pictures"):
        list(evaluate_all(run.name, ["robust"], config, tmp_path))
    titles = [picture.title.partition(":")[0] for picture in pictures.of_run(run, 3)]
    assert titles[0] == "Views and masks" and len(titles) == 4
    untrained = resolve(f"random:{run.name}", tmp_path, 0, open_data(config))
    assert untrained.item == encoder.item and untrained.model.grid == (4, 4)


def test_raw_rows(config: DataConfig, tmp_path: Path):
    data = open_data(config)
    raw, mean = (resolve(name, tmp_path, data=data) for name in ("pixels", "logmel"))
    assert cache_key(raw, data.val, "x") != cache_key(mean, data.val, "x")
    sounds = data.val.batch(np.arange(3))
    shown = (data.item.floats(sounds) - data.mean[0]) / data.std[0]
    assert torch.allclose(raw.encode(sounds)["mean"][:, 0], shown.flatten(1), atol=1e-5)
    assert torch.allclose(mean.encode(sounds)["mean"][:, 0], shown.mean(3).flatten(1), atol=1e-5)
    record = next(iter(evaluate_all("logmel", ["knn"], config, tmp_path)))
    assert record.metrics["top1"] == 100.0
    with pytest.raises(UserError, match="'logmel' is of the spectrograms of sounds"):
        resolve("logmel", tmp_path)


def test_an_encoder_of_sounds_takes_its_own_alone_and_never_mirrors(config: DataConfig, tmp_path: Path):
    raw = resolve("pixels", tmp_path, data=open_data(config))
    with pytest.raises(UserError, match="takes sounds of 2,096 samples, and these are sounds of 2,000 samples"):
        raw.encode(torch.zeros(2, 2000, dtype=torch.int16))
    with pytest.raises(UserError, match="takes images, and these are sounds of 2,096 samples"):
        resolve("pixels", tmp_path).encode(torch.zeros(2, 2096, dtype=torch.int16))
    rising = torch.arange(2096, dtype=torch.int16)[None].repeat(16, 1)
    look = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=1.0)
    seen = raw.view(rising, Rng(0, 16), look)
    assert torch.allclose(seen, raw.prepare(rising), atol=1e-4)
    with pytest.raises(UserError, match="are seen at 24, not at 48"):
        resolve("random:toy_patch8@48", tmp_path, data=open_data(config))
