"""Whatever decides a number is in the key that finds it: change any one thing, and the old number is not found."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_photos, tiny
from PIL import Image

from results import records
from ssl_bench.cli import main
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import Config, DataConfig, ViTConfig, identity
from ssl_bench.data.dataset import open_data, present
from ssl_bench.data.images import square
from ssl_bench.encoders.encoder import architecture, sha256
from ssl_bench.encoders.references import pixels, reference, untrained
from ssl_bench.errors import UserError
from ssl_bench.evaluation import evaluate, features, validate
from ssl_bench.experiments import matrix, recorded, runner
from ssl_bench.models.vit import ViT
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain

SMALL = ViTConfig(embed_dim=32, depth=2, num_heads=2, patch_size=6)


def other(value: Any) -> Any:
    """Another value of the same kind; nothing is checked here, only told apart."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(map(other, value))
    return f"{value}x" if isinstance(value, str) else value + 1 if isinstance(value, int) else (value or 0) + 0.5


def settings(config: Any, skip: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field, those of groups below it included."""
    out: list[tuple[str, ...]] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out += [(f.name, *path) for path in settings(value)] if f.name not in skip else []
        elif f.name not in skip:
            out.append((f.name,))
    return out


def changed(config: Any, path: tuple[str, ...]) -> Any:
    value = getattr(config, path[0])
    return replace(config, **{path[0]: changed(value, path[1:]) if path[1:] else other(value)})


RUN = tiny("ijepa", "clothing48")


@pytest.mark.parametrize("path", settings(RUN, ("run", "recipe")), ids=".".join)
def test_every_setting_is_in_a_runs_name(path: tuple[str, ...]) -> None:
    assert identity(changed(RUN, path)) != identity(RUN)


@pytest.mark.parametrize(
    "path", settings(reference("random", 0, DataConfig(), SMALL), ("run", "recipe", "objective")), ids=".".join
)
def test_every_setting_is_in_the_key_of_an_untrained_network(path: tuple[str, ...]) -> None:
    usual: Config = reference("random", 0, DataConfig(), SMALL)
    assert identity(changed(usual, path)) != identity(usual)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ViTConfig)])
def test_the_matrix_asks_for_the_very_network(field: str, photos: Path, tmp_path: Path) -> None:
    """What `eval random:RUN` writes is what the matrix looks for, and nothing else is."""
    more = {"embed_dim": 64, "num_heads": 4, "patch_size": 8, "pos_embed": "learned"}
    if field in ("tubelet", "rope_grid", "causal"):
        pytest.skip("of clips, rotary positions and texts, which images refuse in a sentence")
    shape = replace(SMALL, **{field: more.get(field, other(getattr(SMALL, field)))})
    data = DataConfig(f"folder:{photos}", 24, 0.2)
    keys = [untrained(s, 24, 0, open_data(data)).identity for s in (SMALL, shape)]
    assert keys == [identity(reference("random", 0, data, s)) for s in (SMALL, shape)] and keys[0] != keys[1]
    names = [untrained(s, 24, 0).source for s in (SMALL, shape)]
    assert names[0] != names[1]


def test_committed_references_are_found_by_what_is_asked_for_now() -> None:
    home = Path(__file__).parents[2] / "results" / "records"
    there = [r for r in records.read(home) if r.method in ("random", "pixels")]
    assert len(there) > 20
    for r in there:
        data = from_dict(DataConfig, {**r.config["data"], "name": r.data["name"]})
        shape = ViTConfig(**r.config["backbone"]) if r.method == "random" else None
        assert recorded.key(r)[0] == identity(reference(r.method, r.seeds["pretrain"] or 0, data, shape))


def test_what_decides_features_is_in_their_key(photos: Path) -> None:
    data = open_data(DataConfig(f"folder:{photos}", 24, 0.2))
    base = untrained(SMALL, 24, 0, data)
    one_weight = untrained(SMALL, 24, 0, data)
    with torch.no_grad():
        next(one_weight.model.parameters()).view(-1)[0] += 1
    wide = ViT(replace(SMALL, num_heads=4), square(24))  # the same weights in other heads
    wide.load_state_dict(base.model.state_dict())
    assert sha256(wide) == base.weights_sha256 and architecture(wide) != architecture(base.model)
    encoders = [
        base, replace(base, weights_sha256=sha256(one_weight.model)), replace(base, model=wide), pixels(data),
        *(replace(base, **{k: v}) for k, v in (
            ("pooling", "cls"), ("image_size", 18), ("resize", 30), ("interpolation", "bilinear"), ("depth", 1),
            ("mean", (0.0, 0.0, 0.0)), ("std", (1.0, 1.0, 1.0)), ("has_cls", False),
        )),
    ]  # fmt: skip
    keys = {features.cache_key(e, data.train, f"{data.fingerprint}/train") for e in encoders}
    keys |= {features.cache_key(base, data.val, f"{data.fingerprint}/{part}") for part in ("train", "val")}
    keys.add(features.cache_key(base, data.train, "another set/train"))
    assert len(keys) == len(encoders) + 3
    again = untrained(SMALL, 24, 0, data)
    assert features.cache_key(again, data.train, "x") == features.cache_key(base, data.train, "x")


def test_weights_without_a_shape_count() -> None:
    module = torch.nn.Module()
    module.register_buffer("temperature", torch.tensor(1.0))
    before = sha256(module)
    module.temperature.fill_(2.0)
    assert sha256(module) != before


def bitmaps(folder: Path, seed: int = 0, count: int = 12) -> Path:
    """Pictures that all take as many bytes, with one time."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                path = folder / split / name / f"{i}.bmp"
                Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
                os.utime(path, (1.6e9, 1.6e9))
    return folder


def test_one_pixel_or_label_is_another_set_also_with_the_old_size_and_time(tmp_path: Path) -> None:
    data = DataConfig(f"folder:{bitmaps(tmp_path / 'set')}", 12, 0.2)
    prints = [open_data(data).fingerprint]
    one = tmp_path / "set" / "train" / "a" / "3.bmp"
    one.write_bytes(one.read_bytes()[:-4] + b"\x07\x07\x07\x07")
    os.utime(one, (1.6e9, 1.6e9))
    assert present(data) is None, "the store of the old bytes is not taken for this set's"
    prints.append(open_data(data).fingerprint)
    twin = tmp_path / "set" / "train" / "b" / "3.bmp"
    held = one.read_bytes(), twin.read_bytes()
    for path, content in zip((one, twin), held[::-1], strict=True):  # the same pictures under each other's labels
        path.write_bytes(content)
        os.utime(path, (1.6e9, 1.6e9))
    prints.append(open_data(data).fingerprint)
    assert len(set(prints)) == 3
    found = present(data)
    assert found == (prints[-1], len(open_data(data).val)) and found != present(replace(data, val_fraction=0.4))
    assert present(replace(data, image_size=8)) is None


def evaluated(photos: Path, root: Path) -> tuple[run_folder.Run, recorded.Cell]:
    config = tiny("mae", f"folder:{photos}", steps=2)
    run = pretrain(config, root)
    evaluate.evaluate(run.name, "knn", config.data, root, device="cpu")
    return run, recorded.Cell.of(run.name, 0, config.data)


def test_a_cell_is_filled_by_nothing_but_its_own_number(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run, cell = evaluated(photos, tmp_path)

    def missing(cell: recorded.Cell) -> list[str]:
        return recorded.Numbers(tmp_path).missing(["knn"], cell)

    assert not missing(cell) and recorded.Numbers(tmp_path).named(["knn"], cell)
    assert all(missing(cell._replace(**{k: other(v)})) for k, v in cell._asdict().items() if k in ("encoder", "seed"))
    open_data(DataConfig(cell.data, 18, 0.2))
    open_data(replace(cell.images, val_fraction=0.4))
    for images in (replace(cell.images, image_size=18), replace(cell.images, val_fraction=0.4)):
        assert missing(recorded.Cell.of(cell.encoder, cell.seed, images))
    usual = recorded.kind("knn")
    config = json.loads(usual[3])
    kinds = [(*usual[:2], usual[2] + 1, usual[3])]
    kinds += [(*usual[:3], json.dumps({**config, name: "another"}, sort_keys=True)) for name in config]
    for kind in kinds:
        with monkeypatch.context() as patch:
            patch.setattr(recorded, "kind", lambda _, kind=kind: kind)
            assert missing(cell)
    meta = run.read_json("encoder.json")
    run_folder.write_json(run.folder / "encoder.json", {**meta, "weights_sha256": "trained again"})
    assert missing(cell)


def test_another_set_of_the_same_name_is_refused_with_both_fingerprints(tmp_path: Path, monkeypatch: Any) -> None:
    prints, root = [], tmp_path / "root"
    for project, seed in (("first", 0), ("second", 1)):
        bitmaps(tmp_path / project / "photos", seed)
        monkeypatch.chdir(tmp_path / project)
        config = tiny("mae", "folder:photos", steps=2)
        prints.append(open_data(config.data).fingerprint)
        if project == "first":
            run, cell = evaluated(Path("photos"), root)
            validate.figures(run, ["knn"], root, device="cpu")
    assert run.config() == replace(config, data=run.config().data) and cell.data == "folder:photos"
    row = matrix.Row("mae", run.name, run, [], 0, cell=cell, protocols=["knn"], config=run.config())
    for again in (
        lambda: pretrain(run.config(), root),
        lambda: evaluate.evaluate(run.name, "knn", config.data, root, device="cpu"),
        lambda: validate.figures(run, ["knn"], root, device="cpu"),
        lambda: matrix.settle([row], root),
    ):
        with pytest.raises(UserError, match=rf"fingerprint {prints[0]} then, {prints[1]} now, in .*second/photos"):
            again()
    assert run.status()["state"] == "finished", "what was refused has lost nothing"
    monkeypatch.chdir(tmp_path / "first")
    matrix.settle([row], root)
    assert row.state == "done"
    pretrain(run.config(), root)


def test_without_a_store_nothing_is_taken_as_done(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run, cell = evaluated(photos, tmp_path)
    monkeypatch.setenv("SSL_BENCH_CACHE", str(tmp_path / "empty"))
    row = matrix.Row("mae", run.name, run, [], 0, cell=cell, protocols=["knn"], config=run.config())
    matrix.settle([row], tmp_path)
    assert row.state == "waiting" and row.missing == ["knn"] and not (tmp_path / "empty").exists()
    runner.ready([row])
    matrix.settle([row], tmp_path)
    assert row.state == "done"


def test_pixels_of_another_size_are_another_row(tmp_path: Path) -> None:
    data = f"folder:{make_photos(tmp_path / 'set')}"
    words = ["eval", "pixels", "--protocol", "knn", "--data", data, "--image-size", "24", "--root", str(tmp_path)]
    assert CliRunner().invoke(main.cli, words).exit_code == 0
    for size, left in ((24, []), (18, ["knn"])):
        open_data(DataConfig(data, size))
        rows = matrix.plan(["mae"], ["knn"], 1, "quick", [f"data.name={data}", f"data.image_size={size}",
                           "backbone=toy_patch6"], tmp_path)  # fmt: skip
        assert rows[-1].label == "pixels" and rows[-1].missing == left and rows[1].missing == ["knn"]
