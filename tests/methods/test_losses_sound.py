"""Losses and schedules of sound methods against the official code's numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny
from sines import sines

from methods import audiojepa
from methods.audiojepa import audiojepa_loss
from ssl_bench.data.dataset import open_data
from ssl_bench.training.method import warmup_cosine
from ssl_bench.training.train import Trainer


def test_audiojepas_loss():
    predicted, target = sines(1, 2, 4, 8), sines(2, 2, 4, 8)
    assert float(audiojepa_loss(predicted, target, centre=False)) == pytest.approx(2.206418, abs=1e-5)
    assert float(audiojepa_loss(predicted, target)) == pytest.approx(2.128926, abs=1e-5)
    scaled = (target - target.mean(-1, keepdim=True)) / target.std(-1, keepdim=True)
    assert float(audiojepa_loss(predicted, scaled)) == pytest.approx(2.128926, abs=1e-5)  # as the code divides


def test_audiojepas_rate():
    o = audiojepa.paper().optim
    steps = {0: 1e-6, 1: 1.999e-6, 500: 5.005e-4, 1000: 1e-3, 2000: 9.997483e-4, 50_500: 5e-4}
    for step, rate in steps.items():
        assert warmup_cosine(step / 100_000, o.warmup, o.lr_start, o.lr, o.lr_end) == pytest.approx(rate, rel=1e-5)


def test_the_teacher_sees_all_and_the_student_half():
    t = Trainer(tiny("audiojepa", "").check(), open_data(tiny("audiojepa", "").data), torch.device("cpu"))
    views = t.method.views(t.batch(0)[0], t.batch(0)[2], 0.5)
    assert views["images"].shape == (12, 1, 24, 24)
    assert views["context"].shape[1] + views["targets"].shape[2] == 16
    before = [p.clone() for p in t.method.target.parameters()]
    t.train_step()
    assert any(not torch.equal(a, b) for a, b in zip(before, t.method.target.parameters(), strict=True))
