"""What leaves the house: a folder that plain timm loads, and a card that says what it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import tiny
from PIL import Image

from ssl_bench.cli import main
from ssl_bench.encoders.export import export
from ssl_bench.encoders.from_run import from_run
from ssl_bench.encoders.published import from_timm
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate_all
from ssl_bench.experiments.run_summary import cost
from ssl_bench.training import run_folder
from ssl_bench.training.pretrain import pretrain


def trained(method: str, photos: Path, root: Path, **shape: Any) -> run_folder.Run:
    config = tiny(method, f"folder:{photos}", steps=2)
    return pretrain(replace(config, backbone=replace(config.backbone, **shape)), root)


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("mae", {}),  # CLS token, mean of the patches
        ("dino", {"reg_tokens": 2, "layer_scale": 1e-2}),  # CLS token is the feature
        ("ijepa", {"class_token": False, "pos_embed": "learned"}),
    ],
)
def test_timm_alone_gives_the_same_features(method: str, shape: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    run = trained(method, photos, tmp_path / "runs", **shape)
    to = tmp_path / "out"
    assert export(run, to, cost(run), []) < 1e-5
    encoder = from_run(run)
    model: Any = timm.create_model(f"local-dir:{to}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (3, 24, 24) and tuple(data["mean"]) == encoder.mean
    transform: Any = timm.data.create_transform(**data, is_training=False)
    file = next((photos / "test" / "red").iterdir())
    image = Image.open(file).convert("RGB")
    raw = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(24, 24, 3).permute(2, 0, 1)
    with torch.inference_mode():
        mine = encoder.encode(raw[None])[encoder.pooling][:, -1]
        theirs = model(transform(image).unsqueeze(0))
    again = from_timm(f"local-dir:{to}")
    assert again.mean == encoder.mean and again.image_size == encoder.image_size
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert float(mine.std()) > 1e-3


def test_the_card_says_what_it_is_and_its_code_runs(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    root, to = tmp_path / "runs", tmp_path / "out"
    run = trained("mae", photos, root)
    meta = {k: v for k, v in run.read_json("encoder.json").items() if k != "seal"}
    run_folder.write_json(run.folder / "encoder.json", {**meta, "collapse": "all images map to one vector"})
    found = next(iter(evaluate_all(run.name, ["knn"], run.config().data, root)))
    done = CliRunner().invoke(main.cli, ["export", "mae", "--to", str(to), "--root", str(root)])
    assert done.exit_code == 0, done.output
    text = (to / "README.md").read_text()
    for said in (
        "COLLAPSED: all images map to one vector", "arXiv 2111.06377", f"| knn | {found.metrics['top1']:.1f} [",
        "2 steps, 24 images", "license: unknown", found.pretrain_data["fingerprint"], "library_name: timm",
    ):  # fmt: skip
        assert said in text
    settings = json.loads(re.findall(r"```json\n(.*?)```", text, re.S)[0])
    assert settings == found.config
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    Image.open(next((photos / "test" / "red").iterdir())).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    shapes = re.findall(r"# \[([\d, ]+)\]", code)
    assert [", ".join(map(str, names[n].shape)) for n in ("features", "tokens")] == shapes


def test_nothing_is_overwritten_and_an_unfinished_run_is_refused(photos: Path, tmp_path: Path) -> None:
    run = trained("mae", photos, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        export(run, tmp_path / "full", [], [])
    (run.folder / "encoder.json").unlink()
    with pytest.raises(UserError, match="has no encoder yet"):
        export(run, tmp_path / "out", [], [])
    assert not (tmp_path / "out").exists()
