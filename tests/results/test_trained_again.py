"""Runs trained again with the same config and seed: the newest number counts, and the gap is told."""

from __future__ import annotations

import pytest
from fake_records import fake

from results import records, tables


def test_a_run_trained_again_replaces_the_old_one() -> None:
    old = fake("mae", 40, 0)
    new = fake("mae", 50, 0, encoder={**old.encoder, "weights_sha256": "new"}, created="2027-01-01T00:00:00+00:00")
    cell = tables.build([old, new]).rows[0].cells[0]
    assert cell is not None
    assert (cell.n, cell.mean) == (1, pytest.approx(50, abs=0.1))


def test_a_run_trained_again_is_no_further_seed_where_its_probe_had_another() -> None:
    seeds = {"pretrain": 1, "probe": 0, "split": 0}
    old = fake("mae", 40, 1, seeds=seeds)
    new = fake(
        "mae", 50, 1, seeds=seeds | {"probe": 1}, encoder={**old.encoder, "weights_sha256": "new"},
        created="2027-01-01T00:00:00+00:00",
    )  # fmt: skip
    assert new.identity == old.identity
    cell = tables.build([old, new]).rows[0].cells[0]
    assert cell is not None
    assert (cell.n, cell.mean) == (1, pytest.approx(50, abs=0.1))


def test_runs_trained_again_replace_the_old_numbers_and_the_gap_is_told() -> None:
    def trained(value: float, weights: str, created: str) -> records.Record:
        encoder = fake().encoder | {"weights_sha256": weights}
        return fake(value=value, encoder=encoder, created=f"{created}T12:00:00+00:00")

    old, new = trained(40.0, "a", "2026-11-01"), trained(42.0, "b", "2026-11-02")
    table = tables.build([new, old, fake(seed=1)])
    cell = table.rows[0].cells[0]
    assert cell is not None and cell.n == 2 and cell.values[0] == pytest.approx(42.0, abs=0.1)
    (told,) = [note for note in table.notes if "trained again" in note]
    assert (
        told.startswith("1 accuracies")
        and "+2.00 points from those before on average, 2.00 in size, 2.0 at most" in told
    )
    assert not any("trained again" in note for note in tables.build([new, fake(seed=1)]).notes)
