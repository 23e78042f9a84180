"""What the tests share: small data on disk, a tiny config of every method, one thread."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_bench import find
from ssl_bench.config.schema import BudgetConfig, Config, ViTConfig
from ssl_bench.data import registry
from ssl_bench.data.items import of_kind
from ssl_bench.training.method import Method, as_now

OWN = {  # small sets of the kinds that are no images
    "clip": "movingphotos:0:120", "sound": "fsdd30", "points": "ldraw16", "trajectory": "two_room:60",
    "text": "expressions:120", "captioned": "captions:120",
}  # fmt: skip

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a shell's background; processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stores go to a temporary folder, also in the processes that tests start."""
    os.environ["SSL_BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """folder: layout, 3 classes that differ in colour, 40 train + 12 test images each, 24 px."""
    return make_photos(tmp_path_factory.mktemp("photos"))


def make_photos(root: Path) -> Path:
    """The same pixels every time: stored losses depend on them."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        for split, count in (("train", 40), ("test", 12)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 120, (24, 24, 3))
                image[..., label] += 100
                Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def kinds_of(method: str) -> tuple[str, ...]:
    """The kinds of items that a method takes, the one of its `quick` first."""
    return find.defined(find.module("methods", method), Method).kinds


def recipes_by_kind(method: str) -> dict[str, list[str]]:
    """A method's recipes by the kind of item that each is for; the usual one stands first."""
    found: dict[str, list[str]] = {}
    for recipe, function in find.recipes(find.module("methods", method)).items():
        found.setdefault(registry.item(function().data).name, []).append(recipe)
    for kind, names in found.items():
        names.sort(key=lambda name: (name != of_kind(kind).recipe, name != "quick"))
    return found


def tiny(method: str, data: str, steps: int = 6, kind: str = "", **changes: object) -> Config:
    """The method's quick recipe, or its one of `kind`, on a toy backbone: 24 px, 6 px patches, 12 items per step.

    A method that takes no images gets a set of its own kind in place of `data`.
    """
    own = kinds_of(method)[0]
    recipe = recipes_by_kind(method)[kind][0] if kind and kind != own else "quick"
    kind = kind or own
    data = data if kind == "image" else OWN[kind]
    config = find.recipe(method, recipe)()
    shape = ViTConfig(embed_dim=32, depth=2, num_heads=2, patch_size=6, class_token=config.backbone.class_token)
    objective, side = config.objective, 1 if kind == "text" else shape.patch_size  # a token is one token
    for name, size in (("global_size", 24), ("local_size", 12), ("crop_size", 24)):
        if hasattr(objective, name) and (name != "local_size" or getattr(objective, "local_crops", 1)):
            objective = replace(objective, **{name: size})
    if getattr(objective, "layers", 0) > shape.depth:  # of a teacher that are averaged
        objective = replace(objective, layers=shape.depth)
    same = {k: getattr(shape, k) for k in ("embed_dim", "depth", "num_heads")} | {"patch_size": side}
    if recipe == "clips":  # its tubelets last all frames: these tests are of a grid with an axis of time
        same["tubelet"] = shape.tubelet
    base = {
        "backbone": replace(config.backbone, **same),
        "data": replace(config.data, name=data, image_size=24, val_fraction=0.2),
        "budget": BudgetConfig(batch_size=12, steps=steps),
        "objective": objective,
        "monitor_points": 2,
        "run": replace(config.run, log_every=1, device="cpu", checkpoint_minutes=1e9),
    }
    return as_now(replace(config, **(base | changes)))
