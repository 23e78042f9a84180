"""What `show` and an exported card say of a run's numbers."""

from __future__ import annotations

from pathlib import Path

from fake_records import fake, quickstart

from results import cells, records, tables
from ssl_bench.experiments.run_summary import scores
from ssl_bench.training.run_folder import Run


def test_all_seeds_have_the_interval_of_the_table(tmp_path: Path) -> None:
    """Rows share what they know of the spread, so a row alone would have another interval."""
    found = quickstart()
    for record in found:
        records.write(record, tmp_path / "records")
    table = tables.build(found)
    row = next(r for r in table.rows if r.label == "mae")
    name = next(r.run for r in found if r.method == "mae")
    told = scores(Run(tmp_path / name), tmp_path)
    assert {label: every for label, _, every in told} == {
        label: cells.number(cell) for label, cell in zip(cells.headers(table)[1:], row.cells, strict=False) if cell
    }
    alone = tables.build([r for r in found if r.method == "mae"]).rows[0].cells[0]
    assert alone is not None and cells.number(alone) not in {every for _, _, every in told}


def test_a_run_without_numbers_or_of_one_seed(tmp_path: Path) -> None:
    assert scores(Run(tmp_path / "mae-quick-s0"), tmp_path) == []
    records.write(fake(), tmp_path / "records")
    ((label, own, every),) = scores(Run(tmp_path / "mae-quick-s0"), tmp_path)
    assert (label, every) == ("knn", "") and "[" in own
