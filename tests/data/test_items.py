"""The seam for items: what a kind says of itself; images that are not square or not of three channels, end to end."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny
from PIL import Image

from ssl_bench import find
from ssl_bench.cli.data import command
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import DataConfig, RunConfig, identity, to_dict
from ssl_bench.config.sound import MelConfig
from ssl_bench.data import items, registry
from ssl_bench.data.dataset import open_data
from ssl_bench.data.images import Images, square
from ssl_bench.encoders.from_run import from_run
from ssl_bench.encoders.resolve import resolve as encoder_of
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.training.method import DataInfo, Method
from ssl_bench.training.pretrain import pretrain

WIDE = (12, 36)  # height, width


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12 x 36 pictures: a bright third on the left, in the middle, on the right; alpha is full."""
    root, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for label, name in enumerate(("left", "middle", "right")):
        for split, count in (("train", 20), ("test", 8)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (*WIDE, 4))
                image[:, 12 * label : 12 * label + 12] += 150
                image[..., 3] = 255
                Image.fromarray(image.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def wide_config(method: str, data: Path, **changes: object) -> DataConfig:
    config = tiny(method, f"folder:{data}", steps=3)
    return replace(config, data=replace(config.data, image_size=WIDE, **changes))


def test_a_description_is_read_back_and_square_images_are_described_as_before():
    assert square(48).facts == {"image_size": 48, "channels": 3}
    for kind in (square(48), Images(32, 96), Images(8, 8, 1)):
        assert items.written(kind.facts) == kind
    assert items.asked(DataConfig("x", (32, 96), channels=4)) == Images(32, 96, 4)
    with pytest.raises(UserError, match="Did you mean 'image'"):
        items.written({"item": "images"})


def test_later_settings_leave_identities_as_they_were():
    config = find.recipe("mae", "quick")()
    assert "channels" not in to_dict(config)["data"] and identity(config) == "5c1d6b93dd6a"
    changed = [
        resolve(config, [text]) for text in ("data.channels=1", "data.background=0,0,0", "data.image_size=48x96")
    ]
    assert len({identity(c) for c in [config, *changed]}) == 4


@pytest.mark.parametrize("text", ["48x", "48x96x3", "big", "-3"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="image_size"):
        resolve(find.recipe("mae", "quick")(), [f"data.image_size={text}"])


@pytest.mark.parametrize("kind", ["decoded", "encoded"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_store_keeps_shape_and_channels(wide, channels, kind):
    data = open_data(DataConfig(f"folder:{wide}", WIDE, 0.2, channels), RunConfig(store=kind))
    batch = data.train.batch(np.arange(4))
    assert batch.shape == (4, channels, *WIDE) and len(data.mean) == len(data.std) == channels
    bright = batch[:, 0].float().view(4, WIDE[0], 3, 12).mean((1, 3)).argmax(1)
    assert [data.classes[i] for i in data.train.labels[:4]] == [("left", "middle", "right")[i] for i in bright]
    if channels == 4:
        assert int(batch[:, 3].min()) == 255


@pytest.mark.parametrize(
    "method", [m for m in find.names("methods") if "image" in find.defined(find.module("methods", m), Method).kinds]
)
def test_every_method_takes_images_that_are_not_square(method):
    """Views and one loss on a grid of 2 x 6 (2 x 2 for those that cut square crops)."""
    config = resolve(wide_config(method, Path("none")), [])
    cls = find.defined(find.module("methods", method), Method)
    torch.manual_seed(0)
    one = cls(config, DataInfo(Images(24, 72), 3))
    from ssl_bench.rng import Rng

    stored = torch.randint(0, 256, (12, 3, 24, 72), dtype=torch.uint8)
    views = one.views(stored, Rng(0, 12), 0.5)
    if one.uses_labels:
        views["labels"] = torch.arange(12) % 3
    assert one.encoder.grid == (4, 12) and torch.isfinite(one(views, 0.5)["loss"])


@pytest.mark.parametrize(("method", "channels"), [("mae", 3), ("ijepa", 4), ("dino", 3), ("mae", 1)])
def test_a_run_on_wide_images_is_trained_evaluated_and_read_back(wide, tmp_path, method, channels):
    config = wide_config(method, wide, channels=channels)
    run = pretrain(resolve(config, ["data.image_size=24x72"]), tmp_path)
    encoder = from_run(run)
    assert encoder.image_size == (24, 72) and encoder.model.grid == (4, 12)
    found = {r.protocol: r for r in evaluate_all(run.name, ["knn", "linear"], run.config().data, tmp_path)}
    assert found["knn"].encoder["image_size"] == [24, 72]
    untrained = encoder_of(f"random:{run.name}", tmp_path, 0, open_data(run.config().data))
    assert untrained.model.grid == (4, 12)


def test_pixels_tell_wide_images_apart(wide, tmp_path):
    record = next(iter(evaluate_all("pixels", ["knn"], DataConfig(f"folder:{wide}", WIDE, 0.2), tmp_path)))
    assert record.metrics["top1"] == 100.0


def test_a_limit_is_given_to_the_set_as_it_was_asked_for(wide, tmp_path, monkeypatch):
    """The command that a refusal suggests reaches the store of the same size and channels."""
    monkeypatch.setenv("SSL_BENCH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(wide, tmp_path / "set")
    (tmp_path / "set" / "train" / "left" / "broken.png").write_bytes(b"no image")
    config = DataConfig(f"folder:{tmp_path / 'set'}", WIDE, 0.2, channels=1)
    with pytest.raises(UserError, match=r"--bad-limit") as refused:
        open_data(config)
    words = shlex.split(str(refused.value).partition("ssl-bench data check ")[2])
    assert {"data.image_size=12x36", "data.channels=1"} <= set(words)
    done = CliRunner().invoke(command, ["check", *words])
    assert done.exit_code == 0, done.output
    assert len(open_data(config).train) > 0


def test_the_kind_of_a_path_is_said_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes(b"")
    name = f"folder:{tmp_path}"
    assert registry.item(DataConfig(name)).name == "image"
    assert registry.item(DataConfig(f"{name}#kind=clip")).name == "clip"
    with pytest.raises(UserError, match=r"No images in .* #kind=clip after the data's name reads .mp4"):
        open_data(DataConfig(name))
    with pytest.raises(UserError, match=r"Unknown kind of item 'clips'. Did you mean 'clip'"):
        open_data(DataConfig(f"{name}#kind=clips"))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_noise_is_of_the_stored_type(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Images, "dtype", dtype)
    kind = Images(4, 4)
    made = kind.noise(50)
    assert made.shape == (50, 3, 4, 4) and made.dtype == dtype and made.nbytes == 50 * kind.nbytes
    assert made.std() > (0.9 if dtype == "float32" else 50)


@pytest.mark.parametrize(("name", "told", "compared"), [
    ("movingphotos:0:40", "train+test clips: ", "compare --recipe clips"),
    ("two_room:40", "train+test trajectories: ", "compare --methods lewm,pldm"),
    ("ldraw16", "256 points: 2,043 train", "compare --methods pointjepa:points"),
    ("fsdd30", "(samples x channels)", "compare --recipe sound"),
])  # fmt: skip
def test_data_check_speaks_of_the_kind(name: str, told: str, compared: str, tmp_path: Path) -> None:
    size = {"ldraw16": "256", "fsdd30": "64"}.get(name, "16")
    done = CliRunner().invoke(command, ["check", name, "--image-size", size, "--sheet", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert told in done.output and compared in done.output
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 10  # something is drawn


OTHER = {  # one other value of every setting that may decide what an item looks like
    "channels": 1, "background": (9, 90, 200), "frames": 4, "frame_step": 2, "mel.rate": 8000, "mel.hop_ms": 5.0,
    "mel.window_ms": 20.0, "mel.window": "povey", "mel.low": 30.0, "mel.high": 7000.0, "mel.fill": "repeat",
    "mel.peak": True,
}  # fmt: skip


@pytest.mark.parametrize("kind", items.KINDS)
def test_a_description_holds_all_that_was_asked_for(kind: str) -> None:
    """What a store does not write, its encoded images are decoded without."""
    known = {f.name for f in fields(DataConfig)} | {f"mel.{f.name}" for f in fields(MelConfig)}
    assert set(OTHER) == known - {"name", "image_size", "val_fraction", "mel"}, "a new setting belongs in here"
    kept = 0
    for name, value in OTHER.items():
        _, _, inner = name.partition("mel.")
        config = DataConfig("x", 64, mel=MelConfig(**{inner: value})) if inner else DataConfig("x", 64, **{name: value})
        try:
            asked = items.asked(config, kind)
        except UserError:
            continue  # no setting of this kind
        kept += asked != items.asked(DataConfig("x", 64), kind)
        assert items.written(json.loads(json.dumps(asked.facts))) == asked, name
    assert kept or kind not in ("image", "clip", "sound")
