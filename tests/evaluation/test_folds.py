"""Every official fold is the test split once: the record of the mean, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from results import records
from ssl_bench.config.schema import DataConfig
from ssl_bench.data import folds
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.evaluation.evaluate import evaluate, resolve
from ssl_bench.evaluation.folds import evaluate_folds

SMALL = DataConfig(image_size=8, val_fraction=0.25)


def table(path: Path, sizes: dict[int, int]) -> DataConfig:
    """Pictures of two classes, one brighter than the other as a rule; so many rows of each fold."""
    rng, rows = np.random.default_rng(0), []
    for fold, count in sizes.items():
        for i in range(count):
            level = 90 + 60 * (i % 2) + rng.integers(-70, 70)
            buffer = io.BytesIO()
            Image.fromarray(rng.normal(level, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
            rows.append({"image": buffer.getvalue(), "label": ("dark", "light")[i % 2], "fold": fold})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return replace(SMALL, name=f"parquet:{path}#folds=fold")


@pytest.mark.parametrize(("sizes", "alike"), [((24, 24, 24), True), ((24, 32, 16), False)])
def test_the_mean_over_folds_is_that_of_a_run_for_each_fold(tmp_path, sizes, alike):
    data = table(tmp_path / "a.parquet", dict(zip((1, 2, 10), sizes, strict=True)))
    told: list[str] = []
    found = list(evaluate_folds("pixels", ["knn"], data, tmp_path / "runs", tell=told.append))
    assert told == ["knn, fold 1", "knn, fold 2", "knn, fold 10"] and len(found) == 1
    parts = folds.each(data)
    encoder = resolve("pixels", tmp_path / "runs", 0, open_data(parts[0]))
    alone = [evaluate(encoder, "knn", part, tmp_path / "other") for part in parts]
    one, values = found[0], [r.value for r in alone]
    assert len(set(values)) > 1 and one.value == pytest.approx(sum(values) / 3)
    assert one.data["name"] == data.name and one.data["num_test"] == sum(sizes)
    assert {k: (v["num_test"], v["top1"]) for k, v in one.data["folds"].items()} == {
        k: (size, value) for k, size, value in zip(["1", "2", "10"], sizes, values, strict=True)
    }
    bits = one.bits()
    assert (bits is not None) == alike
    if bits is not None:
        assert bits.tolist() == [b for r in alone for b in r.bits().tolist()]
    assert one in records.read(tmp_path / "runs" / "records")


def test_what_cannot_be_folds_is_refused(tmp_path):
    data = table(tmp_path / "a.parquet", {0: 8, 1: 8})
    with pytest.raises(UserError, match=r"#folds=flod: no column 'flod'\. .*'fold'"):
        folds.each(replace(data, name=data.name.replace("=fold", "=flod")))
    with pytest.raises(UserError, match=r"has 1 values, and folds are 2 to 100"):
        folds.each(table(tmp_path / "b.parquet", {0: 8}))
    with pytest.raises(UserError, match=r"every fold in turn, for `ssl-bench eval`.*#fold=fold:VALUE"):
        open_data(data)


def test_an_encoder_that_has_seen_the_folds_is_refused(tmp_path):
    data = table(tmp_path / "a.parquet", {0: 24, 1: 24})
    part = folds.each(data)[0]
    encoder = resolve("pixels", tmp_path / "runs", 0, open_data(part))
    seen = replace(encoder, run="mae-quick-s0", pretrain_data={"name": part.name, "fingerprint": "0"})
    with pytest.raises(UserError, match=r"'mae-quick-s0' was pretrained on .*fold:0', which has test rows"):
        list(evaluate_folds(seen, ["knn"], data, tmp_path / "runs"))


def test_a_row_without_a_fold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    data = table(path, {1: 12, 2: 12})
    told = [1.0, 2.0] * 11 + [1.0, None]
    pq.write_table(pq.read_table(path).set_column(2, "fold", pa.array(told)), path)
    for name in (data.name, f"parquet:{path}#fold=fold:1"):
        with pytest.raises(UserError, match="some rows have no value in column 'fold': write the fold of every row"):
            folds.each(data) if name == data.name else open_data(replace(data, name=name))


def test_folds_with_fewer_images_per_class_than_asked_for_say_so_in_the_mean(tmp_path: Path) -> None:
    """Of three folds the large one leaves few images for training: its shots10 are fewer, under another name."""
    data = table(tmp_path / "a.parquet", {1: 8, 2: 8, 3: 24})
    found = list(evaluate_folds("pixels", ["lowshot", "knn"], data, tmp_path / "runs"))
    assert [r.protocol for r in found] == ["lowshot", "knn"]
    low = found[0]
    assert low.headline == "shots10 (as few as 8 per class)" and low.headline in low.metrics
    values = [next(v for k, v in fold.items() if k.startswith("shots10")) for fold in low.data["folds"].values()]
    assert low.value == pytest.approx(sum(values) / 3)
    assert sum("shots10 " in name and "_std" in name for name in low.metrics) == 1
