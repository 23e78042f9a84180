"""Values of each image beside a headline that images have no share in: samples, paired tests, notes, claims."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy import stats

from results import records, samples, tables, verdicts
from results.records import Record
from results.statistics import compare, interval
from ssl_bench.errors import UserError
from tests.helpers.fake_records import fake

IMAGES = 40


def dense(
    method: str, seed: int | None, mean: float, config: dict[str, Any] | None = None, gap: bool = False
) -> Record:
    """An mIoU of 30 and more, and images whose own lie around `mean`; the same ones are easy for all."""
    easy = np.random.default_rng(0).normal(0, 5, IMAGES)
    mine = np.random.default_rng([seed or 0, len(method)]).normal(mean, 1, IMAGES) + easy
    values = [None if gap and i == 3 else round(float(v), 2) for i, v in enumerate(mine)]
    fields = asdict(fake(method, seed=seed, protocol="dense"))
    for name in ("id", "schema", "correct", "correct_sha256"):
        del fields[name]
    fields["data"] |= {"num_test": IMAGES, "image_miou": values}
    fields["metrics"] = {"miou": 30.0 + (seed or 0), "miou_low": 27.0, "miou_high": 34.0}
    return records.make(**fields | {"headline": "miou", "protocol_config": config or {}})


def test_the_mean_of_the_images_and_what_is_left_out() -> None:
    mine = [dense("mae", seed, 40.0) for seed in (0, 1)]
    found = samples.by_image(mine, "image_miou")
    assert found is not None and found.bits is not None and found.bits.shape == (2, IMAGES)
    assert found.values == pytest.approx([np.mean(r.data["image_miou"]) for r in mine])
    gapped = samples.by_image([dense("mae", 0, 40.0, gap=True)], "image_miou")
    assert gapped is not None and gapped.bits is not None and gapped.bits.shape == (1, IMAGES - 1)
    assert gapped.values[0] == pytest.approx(
        np.mean([v for v in mine[0].data["image_miou"] if v != mine[0].data["image_miou"][3]])
    )
    assert samples.by_image([mine[0], fake("mae")], "image_miou") is None  # a record lacks it
    assert samples.by_image([mine[0], dense("mae", 1, 40.0, gap=True)], "image_miou") is None  # other images


def test_two_runs_are_paired_over_images_and_say_nothing_of_methods() -> None:
    a, b = (samples.by_image([dense(m, 0, mean)], "image_miou") for m, mean in (("mae", 40.0), ("ijepa", 39.0)))
    assert a and b and a.bits is not None and b.bits is not None
    found = compare(a, b)
    assert found.p == pytest.approx(stats.ttest_rel(a.bits[0], b.bits[0]).pvalue) and not found.ranks
    assert found.p < 0.01 < stats.ttest_ind(a.bits[0], b.bits[0]).pvalue  # unpaired, the easy images hide it
    shown, x = interval(a), 100 * a.bits[0]
    assert shown.over == "images" and shown.low == pytest.approx(x.mean() - stats.t.ppf(0.975, 39) * stats.sem(x))


def test_one_run_shows_the_interval_of_its_record_and_several_their_seeds() -> None:
    one, _, _ = samples.sample([dense("mae", 0, 40.0)])
    found = interval(one)
    assert (found.mean, found.low, found.high, found.over) == (30, 27, 34, "images")
    assert interval(samples.sample([dense("mae", s, 40.0) for s in (0, 1)])[0]).over == "seeds"


def test_the_note_of_a_table_and_a_claim_read_the_images() -> None:
    means = {"mae": 40.0, "ijepa": 40.1, "dino": 36.0, "random": 36.0}
    made = [dense(method, seed, mean) for method, mean in means.items() for seed in range(3)]
    said = next(n for n in tables.build(made).notes if "images paired" in n)
    assert said.startswith("In dense, by each image's own mIoU, images paired: `mae` 39.7 leads; ")
    assert said.endswith("may be as good: `ijepa` 39.6; `random` 35.6, surely better `ijepa` 39.6, `mae` 39.7.")
    assert not any("images paired" in n for n in tables.build([dense("mae", 0, 40.0), dense("dino", 0, 36.0)]).notes)
    found = verdicts.sample([r for r in made if r.method == "mae"], "dense.image_miou")
    assert found is not None and found.graded and found.n == 3
    with pytest.raises(UserError, match="image_miou"):
        verdicts.sample(made, "dense.image_mio")


def test_columns_that_differ_by_a_setting_say_it() -> None:
    made = [dense("mae", 0, 40.0, {"images": 9}), dense("mae", 0, 40.0, {"images": 9, "layers": "last4"})]
    assert {c.label for c in tables.build(made).columns} == {"dense", "dense layers=last4"}


def test_a_metric_that_is_no_headline_is_the_mean_of_the_probe_seeds() -> None:
    made = [
        fake(
            "mae",
            seed=seed,
            seeds={"pretrain": seed, "probe": probe, "split": 0},
            metrics={"top1": 100 * 400 / 999, "top5": top5},
        )
        for seed in (0, 1)
        for probe, top5 in enumerate((80.0, 90.0, 85.5))
    ]
    found = verdicts.sample(made, "knn.top5")
    assert found is not None and found.values == pytest.approx([85.1667, 85.1667], abs=1e-3)
