"""Tables: what a cell says, the same bytes for shuffled records, staleness, hostile names."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_records import fake, quickstart

from results import cells, records, render, tables
from results.notes import departs
from results.parts import Row, Table
from ssl_bench import find
from ssl_bench.errors import UserError
from ssl_bench.experiments import report


def row(table: Table, label: str) -> Row:
    return next(r for r in table.rows if r.label == label)


def test_cell_and_order() -> None:
    table = tables.build(quickstart())
    assert [c.label for c in table.columns] == ["knn", "linear"]
    assert [r.label for r in table.rows] == ["dino", "ijepa", "mae", "random", "pixels", "supervised"]
    assert [r.reference for r in table.rows] == [False] * 3 + [True] * 3
    cell = row(table, "mae").cells[0]
    assert cell is not None
    assert (cell.n, cell.over, len(cell.values)) == (3, "seeds and images", 3)
    assert re.fullmatch(r"29\.8 ± 1\.9 \(3\)", cells.number(cell))
    pixels = row(table, "pixels").cells[0]
    assert pixels is not None
    assert (pixels.n, pixels.over) == (1, "images")
    assert "[41.4, 47.5] (1)" in cells.number(pixels)


def test_what_choosing_on_the_test_images_would_print_is_said() -> None:
    gaps = {0: 1.0, 1: 2.0, 2: 3.0}
    made = [
        fake("mae", 40.0, s, "linear", optimism={"usual": 40.0 + g, "honest": 40.0, "candidates": 9})
        for s, g in gaps.items()
    ]
    half = {"usual": 50.5, "honest": 50.0, "candidates": 9}
    said = [
        n
        for n in tables.build([*made, fake("vicreg", 50.0, 0, "linear", optimism=half), fake("mae")]).notes
        if "picking" in n
    ]
    assert said == [
        "In linear, picking the best candidate on the test images would have added 1.2 points on average and 2.0 at "
        "most (`mae`: 42.0 for 40.0)."
    ]


def test_ties_references_and_collapse() -> None:
    table = tables.build(quickstart())
    bold = {r.label for r in table.rows if (c := r.cells[1]) is not None and c.bold}
    assert bold == {"dino", "mae"}
    assert row(table, "ijepa").collapsed == "1 of 3 runs"
    assert row(table, "ijepa").cells[0].collapsed == 1  # type: ignore[union-attr]
    assert any("`ijepa`" in n and "short of `pixels` (44.4)" in n for n in table.notes)
    assert "`ijepa`: 1 of 3 runs collapsed. The number is kept." in table.notes
    assert any(n.startswith("Budget of every trained row: 300 steps") for n in table.notes)


def test_chance_is_the_largest_class_where_records_say_it() -> None:
    assert tables.build(quickstart()).columns[0].chance is None
    told = [replace(r, data={**r.data, "majority": 18.1}) for r in quickstart()]
    table = tables.build(told)
    assert table.columns[0].chance == 18.1
    supervised, mae = row(table, "supervised").cells[0], row(table, "mae").cells[0]
    assert supervised is not None and mae is not None and supervised.normalised == pytest.approx(1.0)
    assert mae.normalised == pytest.approx((mae.mean - 18.1) / (supervised.mean - 18.1))
    assert tables.ceiling(table.rows, 0) == ("supervised", supervised.mean)


def test_bold_is_for_what_is_surely_above_its_own_network_untrained() -> None:
    def made(method: str, value: float, seed: int, depth: int) -> records.Record:
        config = {"method": method, "seed": seed, "backbone": {"depth": depth}, "data": {"image_size": 48}}
        return fake(method, value + seed / 10, seed, config=config, overrides=[f"backbone.depth={depth}"])

    kept = [made("random", 30, s, 4) for s in range(3)] + [made("random", 50, s, 12) for s in range(3)]
    kept += [made("mae", 45, s, 4) for s in range(3)] + [made("dino", 50, s, 12) for s in range(3)]
    shown = {r.method: c for r in tables.build(kept).rows if not r.reference and (c := r.cells[0]) is not None}
    assert (shown["mae"].bold, shown["mae"].unclear) == (False, False)  # above its own; dino is surely better
    assert (shown["dino"].bold, shown["dino"].unclear, shown["dino"].best) == (False, True, True)
    assert cells.number(shown["dino"]).endswith("(3) ~")
    alone = tables.build([r for r in kept if r.method != "random"])
    assert not any(c is not None and c.bold for r in alone.rows for c in r.cells)
    assert "In knn, nothing is bold: `random` was not measured with several seeds." in alone.notes


def test_times_of_several_machines_are_not_printed() -> None:
    def made(method: str, seed: int, **where: str | None) -> records.Record:
        spent = {**fake(method).compute["pretrain"], **where}
        spent = {k: v for k, v in spent.items() if v is not None}
        return fake(method, 40, seed, compute={"pretrain": spent, "eval": {}})

    one = tables.build([made("mae", 0), made("dino", 0)])
    assert cells.headers(one)[-4:] == list(cells.COSTS)
    for where in ({"instructions": "amx_bf16"}, {"precision": "bf16"}, {"device": "NVIDIA H200"}, {"precision": None}):
        table = tables.build([made("mae", 0), made("dino", 0, **where)])
        assert cells.headers(table)[-1] == "FLOPs"
        (said,) = [n for n in table.notes if n.startswith("Time, images/s and memory are left out")]
        assert "cpu (AMD EPYC, 2 threads), avx2, fp32; " in said or "; cpu (AMD EPYC, 2 threads), avx2, fp32" in said
        assert row(table, "dino").cost.flops and row(table, "dino").cost.hours is None
    unknown = tables.build([made("mae", 0, instructions=None)])
    assert "not known to be of one machine" in " ".join(unknown.notes) and cells.headers(unknown)[-1] == "FLOPs"
    gpu = tables.build([made("mae", 0, device="NVIDIA H200", instructions="")])
    assert cells.headers(gpu)[-4:] == list(cells.COSTS)


def test_one_seed_makes_no_ranking() -> None:
    table = tables.build(quickstart((0,)))
    assert not any(c is not None and (c.best or c.bold) for r in table.rows for c in r.cells)
    assert any("one run neither leads nor ties" in n for n in table.notes)
    assert "**" not in render.to_markdown(table)


def test_who_acted_beside_a_planner_is_said_and_who_could_not() -> None:
    beside = {"top1_random": 0.0, "top1_straight": 26.0, "top1_at_start": 2.0}
    made = fake("lewm", 50.0, 0)
    said = [n for n in tables.build([replace(made, metrics=made.metrics | beside)]).notes if n.startswith("Beside")]
    assert said == [
        "Beside knn, on the same episodes: random actions 0.0; a straight line 26.0; the oracle: not known; the same "
        "planner in the true world: not known; solved at the start 2.0."
    ]


def test_who_does_not_beat_a_reference_is_said() -> None:
    floor = [fake("random", 30 + s, s) for s in range(5)]
    worse = [fake("mae", 20 + s / 10, s) for s in range(5)]
    near = [fake("dino", 32 + s, s) for s in range(5)]
    better = [fake("ijepa", 60 + s, s) for s in range(5)]
    notes = tables.build([*floor, *worse, *near, *better, fake("byol", 25, 0), fake("vicreg", 70, 0)]).notes
    assert [n for n in notes if "random" in n] == [
        "In knn, `byol` is worse than `random` (32.0) in one run, which is no verdict.",
        "In knn, `mae` falls short of `random` (32.0).",
    ]
    assert any(n.startswith("One run (n = 1): `byol`, `vicreg`.") for n in notes)
    assert any(n.startswith("One run (n = 1): every row.") for n in tables.build(quickstart((0,))).notes)


def test_all_methods_are_called_all() -> None:
    made = [fake(m, v + s, s) for m, v in (("mae", 40), ("dino", 41), ("ijepa", 39)) for s in range(3)]
    notes = tables.build([*made, fake("pixels", 70, None)]).notes
    assert "In knn, all 3 methods fall short of `pixels` (70.0)." in notes


def test_a_narrow_terminal_folds_long_names_and_keeps_columns_together() -> None:
    long = [fake("ijepa", 40 + s, s, p, recipe=f"very-long-recipe-name-{i}", overrides=["objective.masking=multiblock"])
            for s in range(2) for p in ("knn", "linear") for i in range(2)]  # fmt: skip
    lines = render.to_text(tables.build([*quickstart(), *long]), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("knn" in line and "linear" in line and "method" in line for line in lines)


def test_costs_in_latex_are_powers_of_ten() -> None:
    assert r" & $7.00\times10^{13}$ & " in render.to_latex(tables.build(quickstart()))


def test_missing_references_stand_there_empty() -> None:
    table = tables.build([fake("mae", 40, s) for s in range(2)])
    assert [r.label for r in table.rows] == ["mae", "random", "pixels", "supervised"]
    assert "`random` was not measured." in table.notes


def test_what_leaves_the_paper_is_said_of_the_recipe_where_a_row_changes_it() -> None:
    """A row with another EMA must not be told to have the recipe's; keys that the recipe no longer has are left out."""
    mine = {"objective": {"momentum": 0.996, "gone": 1}, "optim": {"lr": 0.002}}
    asked = {"objective": {"momentum": 0.98}, "optim": {"lr": 0.002}}
    line = find.departs("ijepa", "quick")
    assert "EMA from 0.98" in line
    assert departs([fake("ijepa", 40, config=asked)]) == [f"leaves the paper: {line}"]
    assert departs([fake("ijepa", 40, config=mine)]) == [
        f"leaves the paper: {line} (said of the recipe `quick`; here objective.momentum=0.996)"
    ]


@pytest.mark.parametrize(
    ("broken", "said"), [("raise NameError", ["leaves the paper: all (said of the recipe `quick`)"]), ("def (:", [])]
)
def test_a_half_written_method_takes_no_table_down(
    broken: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("half_lab").mkdir()
    name = "raises" if said else "unreadable"
    Path("broken_lab").mkdir()
    Path("broken_lab/__init__.py").write_text("raise NameError")
    assert departs([fake("broken_lab.idea", 40)]) == []
    Path(f"half_lab/{name}.py").write_text('DEPARTS = {"quick": "all"}\n' + broken)
    made = [fake(f"half_lab.{name}", 40, s) for s in range(2)]
    assert departs(made) == said
    assert tables.build(made).rows[0].label == f"half_lab.{name}"


def test_probe_seeds_are_averaged_within_a_pretraining_seed() -> None:
    found = [
        fake("mae", 40 + pretrain + 2 * probe, pretrain, seeds={"pretrain": pretrain, "probe": probe, "split": 0})
        for pretrain in (0, 1)
        for probe in (0, 1)
    ]
    cell = tables.build(found).rows[0].cells[0]
    assert cell is not None
    assert cell.n == 2
    assert cell.values == (pytest.approx(41, abs=0.1), pytest.approx(42, abs=0.1))
    assert cell.spread == {"pretrain": pytest.approx(0.71, abs=0.1), "probe": pytest.approx(1.41, abs=0.1)}


def test_incomparable_numbers_never_share_a_cell() -> None:
    base = [fake("mae", 40, s) for s in range(2)]
    version = tables.build([*base, fake("mae", 50, 2, protocol_version=2)])
    assert [c.label for c in version.columns] == ["knn v1", "knn v2"]
    settings = tables.build([*base, fake("mae", 50, 2, protocol_config={"k": 1})])
    assert len(settings.columns) == 2
    config = {"method": "mae", "seed": 0, "optim": {"lr": 0.1}, "budget": {"steps": 600, "batch_size": 128}}
    budget = tables.build([*base, fake("mae", 50, 0, config=config, identity="b")])
    assert [r.label for r in budget.rows[:2]] == ["mae budget.steps=300", "mae budget.steps=600, optim.lr=0.1"]
    assert any("different budgets" in n for n in budget.notes)
    reading = {**base[0].encoder, "pooling": "cls"}
    pooled = tables.build([*base, *(fake("mae", 50, s, encoder={**reading, "weights_sha256": f"{s}"}) for s in (0, 1))])
    assert [r.label for r in pooled.rows[:2]] == ["mae pooling=cls", "mae pooling=mean"]
    data = tables.build([*base, fake("mae", 50, 0, data="flowers")])
    assert [c.label for c in data.columns] == ["knn · clothing48", "knn · flowers"]


@pytest.mark.parametrize("form", render.RENDERERS)
def test_same_bytes_for_shuffled_records(form: str) -> None:
    made = [*quickstart(), fake("mae", 33, 0, data="flowers"), fake("mae", 34, 1, data="flowers")]
    expected = report.report(made, form)
    for i in range(4):
        random.Random(i).shuffle(made)
        assert report.report(made, form) == expected


HOSTILE = [
    '=cmd|"/C calc"!A0',
    "<img src=x onerror=alert(1)>",
    "a\nb\r\n| c |",
    "\x1b[31mred\u202e",
    "$x_1$ & \\input{y} %",
]


@pytest.mark.parametrize("name", [*HOSTILE, "[bold]x[/]", "`**`", "+1", "@x", "-2"])
def test_hostile_names(name: str) -> None:
    table = tables.build(
        [fake(name, 40, 0), fake(name, 41, 1), fake("mae", 40, 0, data=name), fake("b", 1, variant=name)]
    )
    lines = list(csv.reader(io.StringIO(render.to_csv(table))))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert not any(cell[:1] in ("=", "+", "@", "\t") or re.match(r"-\D", cell) for line in lines for cell in line)
    markdown = render.to_markdown(table)
    assert "<img" not in markdown
    pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}
    assert len(pipes) == 1
    terminal = render.to_text(table, 200)
    assert "\x1b" not in terminal + markdown
    assert "\u202e" not in terminal + markdown
    latex = render.to_latex(table)
    assert "\\input" not in latex
    for line in latex.splitlines():
        if line.endswith(r"\\") and "&" in line:
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) + len(cells.cost_names(table))
    assert json.loads(render.to_json(table))["rows"][0]["method"] in (name, "mae", "b")


def test_check_finds_one_edited_digit(tmp_path: Path) -> None:
    for record in quickstart((0, 1))[:9]:
        records.write(record, tmp_path / "runs" / "records")
    folder = tmp_path / "results"
    report.collect(tmp_path / "runs", folder)
    assert report.check(folder) == []
    files = [*sorted((folder / "tables").iterdir()), folder / "report.html"]
    assert len(files) == 5
    for path in files:
        text = path.read_text()
        at = re.search(r"(?<=\d\.)\d", text)
        assert at
        path.write_text(text[: at.start()] + str((int(at.group()) + 1) % 10) + text[at.end() :])
        found = report.check(folder)
        assert len(found) == 1
        assert "stale" in found[0]
        path.write_text(text)
    lines = next((folder / "records").glob("*.jsonl"))
    text = lines.read_text()
    lines.write_text(text.replace('"top5":90.0', '"top5":90.1', 1))
    with pytest.raises(UserError, match="digest"):
        report.check(folder)
    lines.write_text(text)
    (folder / "tables" / "gone.md").write_text("x")
    assert "comes from no record" in report.check(folder)[0]


def test_report_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records"):
        report.load(tmp_path)
    with pytest.raises(UserError, match="markdown"):
        report.report([fake()], "markdwn")


def test_the_last_bits_of_a_number_do_not_reach_a_file() -> None:
    """Sums round differently on another processor; the committed tables must be its tables too."""
    texts = []
    for shift in (0.0, 2**-44):
        table = tables.build(quickstart())
        for r in table.rows:
            for c in r.cells:
                if c is not None:
                    object.__setattr__(c, "mean", 30.123456781 + shift)
        texts.append((render.to_json(table), render.to_csv(table)))
    assert texts[0] == texts[1] and all("30.12345678" in text for text in texts[0])


def test_runs_in_another_precision_than_asked_for_are_counted() -> None:
    def run(seed: int, used: str) -> records.Record:
        spent = fake().compute["pretrain"] | {"precision": used}
        config = {"method": "mae", "seed": seed, "precision": "bf16"}
        return fake(seed=seed, config=config, compute={"pretrain": spent, "eval": {}})

    notes = tables.build([run(0, "fp32"), run(1, "bf16"), run(2, "fp32")]).notes
    assert "2 of 3 runs asked for bf16 and computed in fp32: their device has no bf16." in notes
    assert not any("computed in fp32" in note for note in tables.build([run(0, "bf16"), run(1, "bf16")]).notes)
    told = tables.build([run(0, "fp32"), fake(seed=1, compute={"pretrain": {"flops": 1e12}, "eval": {}})]).notes
    assert "The precision of 1 of 2 runs is unknown: older records do not say." in told


def test_a_method_that_saw_labels_is_set_apart_whatever_its_name():
    seen = {"name": "clothing48", "fingerprint": "f", "labels_seen": True}
    both = [fake(m, v, s, pretrain_data=seen | {"labels_seen": m == "sly"}) for m, v in (("sly", 70.0), ("mae", 40.0))
            for s in (0, 1, 2)]  # fmt: skip
    table = tables.build(both)
    rows = {r.method: r for r in table.rows}
    assert rows["sly"].reference and not rows["mae"].reference
    assert not any({p.first, p.second} & {"sly"} for p in table.pairs), "it is compared with no method"
    assert [r.method for r in table.rows].index("sly") > [r.method for r in table.rows].index("mae")
    assert any("Pretrained with labels" in n and "`sly`" in n for n in table.notes)


def test_steps_without_an_update_are_told_below_the_table() -> None:
    def run(seed: int, steps: list[int], protocol: str = "knn") -> records.Record:
        spent = fake().compute["pretrain"] | {"steps": 60, "skipped_steps": steps}
        return fake(seed=seed, protocol=protocol, compute={"pretrain": spent, "eval": {}})

    notes = tables.build([run(0, [3, 7]), run(0, [3, 7], "linear"), run(1, [9])]).notes  # a run counts once
    assert sum("3 of 120 steps made no update: their loss or gradient was not finite." in note for note in notes) == 1
    assert not any("no update" in note for note in tables.build([run(0, []), run(1, [])]).notes)
