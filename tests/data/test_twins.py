"""The same pixels in what was pretrained on and what is tested on, and between the sets evaluated on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import twins
from ssl_bench.data.dataset import open_data


def paint(root: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", 20), ("test", 5)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def pair(tmp_path: Path) -> tuple[DataConfig, DataConfig]:
    """Three of the ten test images of the first are training images of the second, one under another class."""
    first, second = paint(tmp_path / "one", 1), paint(tmp_path / "two", 2)
    for i, name in enumerate(("a", "a", "b")):
        shutil.copy(first / "test" / "a" / f"{i}.png", second / "train" / name / f"twin{i}.png")
    found = DataConfig(f"folder:{first}", image_size=8), DataConfig(f"folder:{second}", image_size=8)
    for one in found:
        open_data(one)
    return found


def test_test_images_that_were_pretrained_on_are_counted(pair: tuple[DataConfig, DataConfig]) -> None:
    found = twins.with_pretraining(*pair)
    assert found == {"pretrain": pair[1].name, "count": 3, "share": 30.0}
    assert "3 test images (30 %) have the very pixels" in twins.told(found)
    assert twins.with_pretraining(pair[1], pair[0])["count"] == 0
    assert twins.told(twins.with_pretraining(pair[1], pair[0])) == ""


def test_what_is_read_at_another_size_is_unknown(pair: tuple[DataConfig, DataConfig]) -> None:
    other = DataConfig(pair[1].name, image_size=16)
    assert twins.with_pretraining(pair[0], other) == {}  # no store of it here
    open_data(other)
    found = twins.with_pretraining(pair[0], other)
    assert found["count"] is None and "is unknown" in twins.told(found)


def test_sets_evaluated_on_side_by_side_are_compared_both_ways(pair: tuple[DataConfig, DataConfig]) -> None:
    lines = twins.between(pair)
    assert lines == [f"3 of 10 test images of '{pair[0].name}' are training images of '{pair[1].name}' (same pixels)."]
