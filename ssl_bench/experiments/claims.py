"""The runs that a statement needs, shared with `compare`, and its verdict."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import verdicts
from results.records import Record
from results.verdicts import Claim, Outcome
from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import Config
from ssl_bench.errors import UserError, nearest
from ssl_bench.experiments import matrix, recorded
from ssl_bench.experiments.matrix import Row
from ssl_bench.screen import clock, console, quantity, say, sheet
from ssl_bench.training import provenance, run_folder


@dataclass
class Work:
    """A claim and, per arm, the rows of the matrix that carry it."""

    claim: Claim
    rows: dict[str, list[Row]]


def pick(names: Sequence[str]) -> list[Claim]:
    """Claims by name or by path of a .toml; all of `results/claims/` where none is named."""
    known = {path.stem: path for path in sorted(verdicts.FOLDER.glob("*.toml"))}
    out = []
    for name in names or known:
        path = known.get(name, Path(name))
        if path.suffix != ".toml":
            raise UserError(f"No claim '{name}'. {nearest(name, known)}")
        out.append(verdicts.load(path))
    return out


def overrides(claim: Claim, arm: verdicts.Arm, given: Sequence[str]) -> list[str]:
    """The settings of an arm: the claim's, replaced by the user's where they meet, then its own, then its budget."""
    mine = {text.partition("=")[0] for text in given}
    if met := sorted(mine & {text.partition("=")[0] for text in arm.settings}):
        raise UserError(f"'{met[0]}' is what the claim '{claim.name}' compares: leave it out.")
    shared = [text for text in claim.settings if text.partition("=")[0] not in mine]
    base = resolve(_recipe(claim, arm), [*shared, *given])
    width = base.backbone.embed_dim
    out = [*shared, *given, *(text.format(width=width, half=width // 2) for text in arm.settings)]
    if arm.compute != 1.0:
        if not base.budget.flops:
            raise UserError(f"'{claim.name}' compares budgets: give one in FLOPs, for example budget.flops=2.2e12.")
        out = [text for text in out if not text.startswith("budget.flops=")]
        out.append(f"budget.flops={arm.compute * base.budget.flops:.6g}")
    return out


def _recipe(claim: Claim, arm: verdicts.Arm) -> Config:
    return find.recipe(arm.method, arm.recipe or claim.recipe)()


def plan(claims: Sequence[Claim], seeds: int, given: Sequence[str], root: Path) -> list[Work]:
    """The rows of every claim; arms that are the same run share one row."""
    known: dict[str, Row] = {}
    out = []
    for claim in claims:
        work = Work(claim, {})
        for name, arm in claim.arms.items():
            fresh = matrix.plan(
                [arm.method], claim.needed(name), seeds, arm.recipe or claim.recipe, overrides(claim, arm, given), root,
                references=False,
            )  # fmt: skip
            work.rows[name] = [known.setdefault(row.cell.encoder, row) for row in fresh]
            for seed, (row, again) in enumerate(zip(work.rows[name], fresh, strict=True)):
                if row is again:
                    row.label = f"{claim.name}/{name} seed {seed}"
                else:  # another claim needs this run as well, perhaps by other protocols
                    row.protocols += [p for p in again.protocols if p not in row.protocols]
                    row.missing += [p for p in again.missing if p not in row.missing]
                    row.state = "waiting" if row.missing else row.state
        out.append(work)
    return out


def mark(work: Work, root: Path) -> dict[str, Any]:
    """What the claim's file says, by its hash, and whether that was so before the first of its runs.

    Taken when the claim is first looked at below this root, and kept there; a file that says something else later is
    told by `mark` beside `now`.
    """
    path = root / "claims" / f"{work.claim.name}.mark"
    if path.exists():
        taken: dict[str, Any] = json.loads(path.read_text())
    else:
        begun = [row.cell.encoder for rows in work.rows.values() for row in rows if row.run and row.run.status()]
        taken = {"mark": work.claim.mark, "taken": _now(), "runs_before": len(set(begun))}
        run_folder.write_json(path, taken)
    return {**taken, "now": work.claim.mark, "known": work.claim.known}


def foretold(marked: dict[str, Any]) -> str:
    """Why a claim was no prediction, or ""."""
    if marked["known"]:
        return f"its sizes were written after the runs ({marked['known']})"
    if marked["runs_before"]:
        return f"{marked['runs_before']} of its runs were there before its hash was taken"
    return "its file was changed after its hash was taken" if marked["mark"] != marked["now"] else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def evidence(work: Work, root: Path) -> dict[str, list[Record]]:
    """Each arm's records: of its runs, on its images, by the claim's protocols, all as they are now."""
    there = recorded.Numbers(root)
    return {
        name: [r for row in rows for r in there.of(work.claim.protocols, row.cell)] for name, rows in work.rows.items()
    }


def cost(work: Work, found: dict[str, list[Record]]) -> dict[str, float]:
    """What the runs behind a verdict took, each once, also where other claims share them."""
    spent = {row.cell.encoder: row.run.compute() for rows in work.rows.values() for row in rows if row.run}
    records = {r.id: r for members in found.values() for r in members}
    return {
        "flops": sum(c.get("flops", 0.0) for c in spent.values()),
        "seconds": round(sum(c.get("seconds", 0.0) for c in spent.values()), 1),
        "eval_seconds": round(sum(r.compute["eval"].get("seconds", 0.0) for r in records.values()), 1),
        "runs": len(spent),
    }


def judged(work: Work, given: Sequence[str], root: Path) -> dict[str, Any]:
    """The verdict with everything behind it, also written to `root/claims`."""
    found = evidence(work, root)
    outcomes = verdicts.judge(work.claim, found)
    result = {
        "name": work.claim.name, "statement": work.claim.statement, "source": work.claim.source,
        "verdict": verdicts.overall(outcomes), "outcomes": [dataclasses.asdict(o) for o in outcomes],
        "runs": {name: [row.cell.encoder for row in rows] for name, rows in work.rows.items()},
        "settings": list(given), "cost": cost(work, found), "code": provenance.code_state(),
        "versions": provenance.versions(),
        "claim": mark(work, root), "created": _now(), "schema": 1,
    }  # fmt: skip
    run_folder.write_json(root / "claims" / f"{work.claim.name}.json", result)
    show(work.claim, outcomes, result)
    return result


def show(claim: Claim, outcomes: Sequence[Outcome], result: dict[str, Any]) -> None:
    """One claim on the terminal."""
    style = {verdicts.HOLDS: "bold green", verdicts.FAILS: "bold red"}.get(result["verdict"], "bold yellow")
    say("")
    say(f"{claim.name}: {result['verdict'].upper()}", style)
    say(f"  {claim.statement}")
    say(f"  {claim.source}", "dim")
    columns = ("reported", "predicted", "measured", "95 % interval", "seeds")
    table = sheet("expected", *columns, "verdict", right=columns)
    for o in outcomes:
        form = "{:.0f}" if o.what.endswith("runs)") else "{:+.2f}"
        span = "" if o.low is None or o.high is None else f"{form.format(o.low)} to {form.format(o.high)}"
        cells = ["" if v is None else form.format(v) for v in (o.reported, o.predicted, o.difference)]
        table.add_row(o.what, *cells, span, " and ".join(str(n) for n in o.seeds if n), o.verdict)
    console.print(table)
    spent = result["cost"]
    say(f"  cost: {spent['runs']} runs, {quantity(spent['flops'], 'FLOP')}, {clock(spent['seconds'])} of training, "
        f"{clock(spent['eval_seconds'])} of evaluation")  # fmt: skip
    if why := foretold(result["claim"]):
        say(f"  no prediction: {why}", "yellow")
    if claim.note:
        say(f"  note: {claim.note}", "dim")
