"""The method of docs/clips.md in a user's folder: found by its name, trained on clips, evaluated, refused on images."""

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
from ssl_bench.evaluation.evaluate import evaluate
from ssl_bench.find import recipe
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer

DOC = Path(__file__).parents[2] / "docs" / "clips.md"
SETTINGS = ["data.name=movingphotos:0:120", "data.image_size=24", "backbone=toy_patch6", "backbone.class_token=false",
            "budget.steps=2", "budget.flops=0", "budget.batch_size=12", "run.device=cpu"]  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's with the method in it; what is imported from it is forgotten afterwards."""
    (tmp_path / "my_lab").mkdir()
    text = DOC.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    (tmp_path / "my_lab" / "arrow.py").write_text(text)
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
    record = evaluate(run.name, "knn", config.data, lab / "runs")
    assert record.method == "my_lab.arrow" and {"top1", "top1, one frame", "top1, reversed"} <= set(record.metrics)


def test_it_is_refused_on_images_by_a_sentence(lab: Path):
    config = resolve(recipe("my_lab.arrow", "quick")(), ["data.name=clothing48", *SETTINGS[1:]])
    with pytest.raises(UserError, match=r"'my_lab.arrow' takes clip items, and these are images"):
        pretrain(config, lab / "runs")
