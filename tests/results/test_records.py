"""Records: complete or refused, whole or absent, 64 writers at once."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import COUNTS, ENCODER, fake, quickstart

from results import collect, records
from ssl_bench.config.schema import DataConfig
from ssl_bench.data.dataset import open_data
from ssl_bench.errors import UserError
from ssl_bench.experiments import recorded


def test_round_trip(tmp_path: Path) -> None:
    record = fake("mae", 40, 1)
    path = records.write(record, tmp_path)
    assert path.name == f"{record.id}.json"
    assert records.read(tmp_path) == [record]
    assert records.read(path) == [record]
    bits = record.bits()
    assert bits is not None
    assert 100 * bits.mean() == pytest.approx(record.value)


def test_bits_round_trip() -> None:
    for count in (1, 7, 8, 9, 999):
        bits = np.random.default_rng(count).random(count) < 0.5
        assert (records.unpack(records.pack(bits), count) == bits).all()


def test_id_follows_what_identifies_the_number() -> None:
    base = fake()
    assert fake(created="2027-01-01T00:00:00+00:00").id == base.id
    assert fake(run="elsewhere").id == base.id
    for change in (
        {"protocol_version": 2},
        {"variant": "official"},
        {"protocol_config": {"k": 10}},
        {"seeds": {"pretrain": 0, "probe": 1, "split": 0}},
        {"identity": "another"},
        {"encoder": {**base.encoder, "pooling": "cls"}},
        {"encoder": {**base.encoder, "weights_sha256": "1"}},
    ):
        assert fake(**change).id != base.id


BAD: dict[str, dict[str, Any]] = {
    "top1=40": {"metrics": {"top1": 40.0}},  # not what the bits say
    "finite": {"metrics": {"top1": float("nan")}},
    "headline": {"headline": "top2"},
    "method is empty": {"method": " "},
    "seeds lacks split": {"seeds": {"pretrain": 0, "probe": 0}},
    "must be int": {"protocol_version": "1"},
    "higher_is_better must be bool": {"higher_is_better": 1},
    "not a UTC time": {"created": "2026-11-21T12:00:00+01:00"},
    "encoder lacks": {"encoder": {"source": "x"}},
    "pretrain_data lacks": {"pretrain_data": {"name": "x"}},
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_records_are_refused(message: str) -> None:
    change = BAD[message]
    with pytest.raises(UserError, match=message.replace("finite", "finite|JSON compliant")):
        fake(**change)


def test_incomplete_and_unknown_fields_are_refused() -> None:
    values = records.to_dict(fake())
    for broken in ({k: v for k, v in values.items() if k not in ("data", "digest")}, {**values, "extra": 1}, [], None):
        with pytest.raises(UserError, match="not a valid record"):
            records.from_dict(broken)


def test_one_edited_digit_is_refused(tmp_path: Path) -> None:
    path = records.write(fake(metrics={"top1": 40.04004004004004, "top5": 90.0}), tmp_path)
    text = path.read_text()
    for old, new in (('"top5":90.0', '"top5":91.0'), ('"flops":70', '"flops":60'), ('"probe":0', '"probe":1')):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=path.name):
            records.read(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    record = fake()
    path = records.write(record, tmp_path)
    line = records.dumps(record)
    for bad in (line[:-40], "", "[1]", "{}", "\x00", line.replace('"schema":1', '"schema":99')):
        path.write_text(bad)
        with pytest.raises(UserError, match=path.name):
            records.read(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        records.read(tmp_path)
    path.unlink()
    lines = tmp_path / "all.jsonl"
    lines.write_text(line + "\n" + line[:50] + "\n")
    with pytest.raises(UserError, match="line 2"):
        records.read(tmp_path)
    with pytest.raises(UserError, match="no records"):
        records.read(tmp_path / "nowhere")


def test_old_schemas_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema 0 stands in for any older one: here it called the variant `flavour`."""
    old = {k: v for k, v in records.to_dict(fake(variant="x")).items() if k != "digest"}
    old["flavour"], old["schema"] = old.pop("variant"), 0
    with pytest.raises(UserError, match="no way to read schema 0"):
        records.from_dict(old)

    def migrate(values: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in values.items() if k != "flavour"}, "variant": values["flavour"], "schema": 1}

    monkeypatch.setitem(records.MIGRATIONS, 0, migrate)
    assert records.from_dict(old) == fake(variant="x")


def test_hostile_names_survive(tmp_path: Path) -> None:
    name = '=HYPERLINK("x")\n<script>alert(1)</script>\u2028\ud800|`{{7*7}}`'
    record = fake(method=name)
    records.write(record, tmp_path)
    assert records.read(tmp_path)[0].method == name
    collect.collect(tmp_path, tmp_path / "results")
    assert records.read(tmp_path / "results" / "records") == [record]


def test_collect_is_idempotent(tmp_path: Path) -> None:
    made = quickstart()
    for record in made:
        records.write(record, tmp_path / "a")
    folder = tmp_path / "results"
    assert collect.collect(tmp_path / "a", folder) == (len(made), len(made))
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "records").glob("*.jsonl")}
    assert collect.collect(tmp_path / "a", folder) == (len(made), 0)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "records").glob("*.jsonl")} == before
    newer = fake("mae", 50, 0, created="2027-01-01T00:00:00+00:00")
    records.write(newer, tmp_path / "b")
    assert collect.collect(tmp_path / "b", folder) == (len(made), 0)  # the same number measured again: the newest stays
    assert newer in records.read(folder / "records")


def _write_many(folder: Path, writer: int, count: int) -> None:
    os.nice(10)  # the collector gets its turn
    for i in range(count):
        records.write(fake("mae", 40, seed=writer * count + i), folder)


def _storm(folder: Path, writers: int, each: int) -> int:
    """Start the writers, collect until they are done, and return how often that was."""
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_write_many, args=(folder, w, each)) for w in range(writers)]
    for job in jobs:
        job.start()
    times = 0
    while any(job.is_alive() for job in jobs):
        collect.collect(folder, folder.parent / "results")
        times += 1
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    collect.collect(folder, folder.parent / "results")
    return times


def _all_there(folder: Path, count: int) -> None:
    made = records.read(folder)
    assert len(made) == count
    assert len({r.seeds["pretrain"] for r in made}) == count
    assert records.read(folder.parent / "results" / "records") == made
    assert not list(folder.glob(".*.tmp"))


def test_many_writers_while_collecting(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    assert _storm(folder, 8, 10) >= 1
    _all_there(folder, 80)


@pytest.mark.slow
def test_sixty_four_writers_of_fifty(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    print(f"collected {_storm(folder, 64, 50)} times while they wrote")
    _all_there(folder, 3200)


def test_a_kill_leaves_no_half_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for i in range(5):
        job = context.Process(target=_write_many, args=(tmp_path, i, 10_000))
        job.start()
        time.sleep(0.1 + 0.03 * i)
        assert job.pid
        os.kill(job.pid, signal.SIGKILL)
        job.join()
    found = records.read(tmp_path)  # raises on a torn one
    assert len(found) == len(list(tmp_path.glob("*.json"))) > 0
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())


def test_a_number_with_other_settings_of_its_protocol_does_not_fill_its_cell(tmp_path: Path) -> None:
    _, _, version, settings = recorded.kind("knn")
    usual = json.loads(settings)
    images = open_data(DataConfig())
    data = {"name": images.name, "fingerprint": images.fingerprint, **COUNTS, "num_val": len(images.val)}
    cell = recorded.Cell(fake("pixels", seed=None).identity, 0, "clothing48")
    for config, left in (({**usual, "k": 5}, ["knn"]), (usual, [])):
        changes: dict[str, Any] = {"protocol_version": version, "protocol_config": config}
        pixels = fake("pixels", seed=None, encoder={**ENCODER, "source": "pixels"}, **changes)
        fields = {**dataclasses.asdict(pixels), "data": data}
        records.write(records.from_dict({**fields, "id": records.identify(fields)}), tmp_path / "records")
        assert recorded.Numbers(tmp_path).missing(["knn"], cell) == left


def test_runs_of_another_budget_get_a_table_of_their_own(tmp_path: Path) -> None:
    long = {"method": "mae", "seed": 0, "budget": {"flops": 1.1e13, "batch_size": 32}}
    for record in [*quickstart(), fake(config=long, overrides=["budget.flops=1.1e13"])]:
        records.write(record, tmp_path / "root" / "records")
    collect.collect(tmp_path / "root" / "records", tmp_path / "results")
    collect.regenerate(tmp_path / "results")
    usual, other = (
        (tmp_path / "results" / "tables" / f"{name}.md").read_text()
        for name in ("clothing48", "clothing48-1.1e+13-FLOPs-batch-32")
    )
    assert "Budget of every trained row: 300 steps, batch 128." in usual and "dino" in usual
    assert "Budget of every trained row: 1.1e+13 FLOPs, batch 32." in other and "| mae |" in other
    assert "dino" not in other and "| *random* | 18" in other and not collect.stale(tmp_path / "results")
