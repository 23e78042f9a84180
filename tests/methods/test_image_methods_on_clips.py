"""Methods of images that need only a grid or views, on tubelets: one step, whole frames' masks, no mirror."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import tiny

from ssl_bench import find
from ssl_bench.config.schema import Config, DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.rng import Rng
from ssl_bench.training.train import Trainer

CLIPS = DataConfig("movingphotos:0:120", image_size=24, val_fraction=0.2)


def on_clips(method: str) -> Config:
    recipe = find.recipe(method, "clips")()
    objective = recipe.objective
    objective = replace(objective, global_size=12) if hasattr(objective, "global_size") else objective
    objective = replace(objective, crop_size=12) if hasattr(objective, "crop_size") else objective
    return replace(tiny(method, ""), objective=objective, data=CLIPS, precision="fp32").check()


@pytest.mark.parametrize("method", ["byol", "dino", "ijepa", "mae", "simclr", "supervised", "vicreg"])
def test_a_step_on_tubelets(method: str) -> None:
    trainer = Trainer(on_clips(method), open_data(CLIPS), torch.device("cpu"))
    losses = [float(trainer.train_step()["loss"]) for _ in range(3)]
    assert len(set(losses)) == 3 and all(0 < loss < 50 for loss in losses)
    assert trainer.method.encoder.grid == (4, 4, 4)


def test_ijepas_blocks_last_the_whole_clip():
    trainer = Trainer(on_clips("ijepa"), open_data(CLIPS), torch.device("cpu"))
    context, targets = trainer.method.masks(Rng(0, 3))  # type: ignore[operator]
    for tokens in (context[0], targets[0, 0]):
        frames = [{int(t) % 16 for t in tokens if int(t) // 16 == frame} for frame in range(4)]
        assert frames[0] and all(frame == frames[0] for frame in frames)


def test_mirrors_and_methods_without_tubelets_are_refused():
    config = on_clips("mae")
    mirrored = replace(config, objective=replace(config.objective, augment=tiny("mae", "").objective.augment))
    with pytest.raises(UserError, match=r"names directions.*objective.augment.flip=0"):
        Trainer(mirrored, open_data(CLIPS), torch.device("cpu"))
    with pytest.raises(UserError, match="'dinov2' takes image items, and these are clips"):
        Trainer(replace(tiny("dinov2", ""), data=CLIPS), open_data(CLIPS), torch.device("cpu"))
