"""A method of clips in one file of a user's folder: found by its name, trained on clips, refused on images."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ssl_bench.config.overrides import resolve
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.find import recipe
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer

ARROW = '''"""Arrow: tell clips from the same clips played backwards."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ssl_bench.config import budgets
from ssl_bench.config.schema import Config, OptimConfig
from ssl_bench.training.method import Method


@dataclass(frozen=True)
class ArrowConfig:
    smoothing: float = 0.0  # of the two classes


class Arrow(Method):
    family, paper, sees = "scratch", "unpublished", "1 clip and its reverse"
    pooling, kinds = "mean", ("clip",)
    objective: ArrowConfig

    def __init__(self, config, info):
        super().__init__(config, info)
        self.objective = config.objective
        self.encoder = self.make_vit()
        self.head = nn.Linear(config.backbone.embed_dim, 2)

    def views(self, clips, rng, at):
        x = (clips.float() / 255 - self.mean) / self.std
        return {"clips": torch.cat([x, x.flip(1)])}

    def forward(self, views, at):
        logits = self.head(self.encoder(views["clips"]).mean(1)).float()
        truth = torch.arange(2, device=logits.device).repeat_interleave(len(logits) // 2)
        return {"loss": F.cross_entropy(logits, truth, label_smoothing=self.objective.smoothing)}

    def flops(self):
        return 6 * self.encoder.flops()


def quick() -> Config:
    """A first look."""
    return budgets.quick_clips("my_lab.arrow", ArrowConfig(), OptimConfig(lr=1e-3))
'''
SETTINGS = ["data.name=movingphotos:0:120", "data.image_size=24", "backbone=toy_patch6", "backbone.class_token=false",
            "budget.steps=2", "budget.flops=0", "budget.batch_size=12", "run.device=cpu"]  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's with the method in it; what is imported from it is forgotten afterwards."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "arrow.py").write_text(ARROW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("my_lab")]:
        del sys.modules[name]


def test_a_clip_method_in_a_users_folder_trains_and_is_evaluated(lab: Path):
    config = resolve(recipe("my_lab.arrow", "quick")(), SETTINGS)
    run = pretrain(config, lab / "runs")
    assert run.status()["state"] == "finished" and run.folder.name.startswith("my_lab.arrow-quick-s0")
    trainer = Trainer(config, open_data(config.data), torch.device("cpu"))
    assert trainer.method.encoder.grid == (4, 4, 4)
    losses = [float(trainer.train_step()["loss"]) for _ in range(2)]
    assert losses[0] != losses[1]


def test_it_is_refused_on_images_by_a_sentence(lab: Path):
    config = resolve(recipe("my_lab.arrow", "quick")(), ["data.name=clothing48", *SETTINGS[1:]])
    with pytest.raises(UserError, match=r"'my_lab.arrow' takes clip items, and these are images"):
        pretrain(config, lab / "runs")
