"""The matrix: methods x seeds x protocols, what is there of it already and what is left. `runner` runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_bench.config.schema import Config, identity
from ssl_bench.errors import UserError
from ssl_bench.experiments import recorded
from ssl_bench.training import run_folder
from ssl_bench.training.method import configured
from ssl_bench.training.train import rehearse


@dataclass
class Row:
    """One encoder on its way: pretrained (unless it is a reference), then evaluated."""

    label: str
    source: str  # what `ssl-bench eval` gets
    run: run_folder.Run | None  # None for references; its folder appears when the matrix starts
    pretrain: list[str]  # arguments of `ssl-bench pretrain`, [] for references
    seed: int
    missing: list[str] = field(default_factory=list)  # protocols still to run
    state: str = "waiting"
    where: list[str] = field(default_factory=list)  # --data and --image-size, where the source does not tell
    cell: recorded.Cell = recorded.Cell("", 0, "")  # what its numbers are found by
    protocols: list[str] = field(default_factory=list)  # all that are asked for
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    log_start: int = 0  # bytes that were there when the process started
    started: float = 0.0
    since: float = 0.0  # when the process started
    seconds: float = 0.0
    config: Config | None = None  # of the pretraining
    told: str = ""  # how far it was
    verb: str = "eval"  # the command that follows pretraining

    @property
    def data(self) -> str:
        """The set it is evaluated on."""
        return self.cell.data

    def view(self) -> dict[str, Any]:
        """What the live table shows."""
        known = self.run.status() if self.run else {}
        return {"label": self.label, "state": self.state, "status": known, "doing": self.doing()}

    def doing(self) -> str:
        """How far its evaluation said it is."""
        lines = self._said() if self.state == "evaluating" and self.process else []
        return lines[-1] if lines and lines[-1].endswith(" left") else ""

    def reason(self) -> str:
        """Why its process failed: its last sentence of error, below which an orphan may have gone on writing."""
        lines = self._said()
        return ([line for line in lines if line.startswith("error: ")] or lines or ["no output"])[-1]

    def _said(self) -> list[str]:
        """What its process has written, line by line."""
        said = (
            self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.log and self.log.exists() else ""
        )
        return [line.strip()[:300] for line in said.splitlines() if line.strip()]


def plan(
    methods: Sequence[str], protocols: Sequence[str], seeds: int, recipe_name: str, overrides: Sequence[str],
    root: Path, references: bool = True, data: str = "",
) -> list[Row]:  # fmt: skip
    """Every row, checked before anything starts. A method may carry its own recipe: `ijepa:paper`.

    `data`: the set to evaluate on, where it is not the one pretrained on.
    """
    from ssl_bench.evaluation.protocol import expand

    protocols = expand(protocols)
    for protocol in protocols:
        recorded.kind(protocol)  # one that does not exist is told now
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one seed is needed, and two or more for an interval.")
    rows: list[Row] = []
    for method in methods:
        base, _, own = method.partition(":")
        for seed in range(seeds):
            config = configured(base, own or recipe_name, [*overrides, f"seed={seed}"])
            if seed == 0:
                rehearse(config)
            run = run_folder.Run(root / run_folder.run_name(config))
            arguments = ["--method", base, "--recipe", config.recipe, "--seed", str(seed), *overrides]
            label = f"{method} seed {seed}"
            rows.append(Row(label, run.name, run, arguments, seed, where=["--data", data] if data else [],
                            cell=recorded.Cell.of(run.name, seed, replace(config.data, name=data or config.data.name)),
                            config=config))  # fmt: skip
    if references:
        rows += _references(rows)
    recorded.refuse_other_code({r.label: r.run for r in rows if r.run and r.config and not r.config.run.keep_old})
    for row in rows:
        row.protocols = list(protocols)
    settle(rows, root)
    return rows


def settle(rows: Sequence[Row], root: Path, images: recorded.Images | None = None) -> str:
    """What is left of every row: the protocols without a number. Returns what to say of numbers that are made anew.

    `UserError` where a run was trained on other images than those its set's name means now. Where the store is not
    built nothing is known of a set: the row waits, and is settled again when its images have been opened.
    """
    there = recorded.Numbers(root, images)
    keep_old = any(row.config is not None and row.config.run.keep_old for row in rows)
    for row in rows:
        known = row.run is None or row.config is None or there.images.known(row.run, row.config.data)
        if row.verb == "eval":
            row.missing = there.missing(row.protocols, row.cell, keep_old)
        if row.state in ("waiting", "done"):
            finished = row.run is None or row.run.status().get("state") == "finished"
            row.state = "done" if known and finished and not row.missing else "waiting"
    return there.told()


def asked(given: Mapping[str, Any], data: str = "") -> list[Row]:
    """The rows that the options of `ssl-bench compare` ask for; `data` as in `plan`."""
    return plan(
        given["methods"].split(","), given["protocols"].split(","), given["seeds"], given["recipe"],
        given["settings"], given["root"], not given["no_references"], data,
    )  # fmt: skip


def _references(rows: list[Row]) -> list[Row]:
    """`random` for every backbone in the plan and seed, and `pixels`, on the data of the first run."""
    from ssl_bench.encoders.references import reference

    out, seen = [], set()
    for row in rows:
        config = row.config
        assert config is not None
        images = replace(config.data, name=row.data)
        name = identity(reference("random", row.seed, images, config.backbone))
        if name not in seen:
            seen.add(name)
            label, source = f"random seed {row.seed}", f"random:{row.source}"
            out.append(
                Row(label, source, None, [], row.seed, where=row.where, cell=recorded.Cell.of(name, row.seed, images))
            )
    assert rows[0].config is not None
    images = replace(rows[0].config.data, name=rows[0].data)
    pixels = recorded.Cell.of(identity(reference("pixels", 0, images)), 0, images)
    return [*out, Row("pixels", f"pixels:{rows[0].source}", None, [], 0, where=rows[0].where, cell=pixels)]
