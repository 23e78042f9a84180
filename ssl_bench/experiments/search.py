"""`compare --search N`: the same number of trials, at the same compute, for every method, on validation images only.

Random search: with few trials and settings that matter little it is as good as cleverer ones, every trial is known
before the first one runs, and methods can share their quantiles (search_space.py). Trials are runs like any other;
their figures come from validate.py, and nothing that opens the test split is imported here.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import trials as lines_of
from ssl_bench.config.schema import BUDGETS, Config, identity, to_dict
from ssl_bench.errors import UserError
from ssl_bench.evaluation import protocol, validate
from ssl_bench.experiments import recorded, runner, search_space
from ssl_bench.experiments.matrix import Row
from ssl_bench.screen import console, say, sheet
from ssl_bench.training import provenance, run_folder
from ssl_bench.training.method import configured
from ssl_bench.training.train import rehearse

SEARCH_SEED = 0


@dataclass(frozen=True)
class Trial:
    """One setting of one method with one seed, and the row of the matrix that runs it."""

    method: str  # as the user wrote it: `mae`, `ijepa:paper`
    number: int
    purpose: str  # trial or confirm
    settings: tuple[str, ...]  # drawn
    row: Row


@dataclass(frozen=True)
class Plan:
    """What all trials share."""

    methods: tuple[str, ...]
    recipe: str
    base: tuple[str, ...]  # the user's own settings
    space: tuple[search_space.Axis, ...]
    protocols: tuple[str, ...]
    root: Path
    images: recorded.Images = field(default_factory=recorded.Images, compare=False)

    def config(self, method: str, drawn: Sequence[str] = (), seed: int | None = None) -> Config:
        base, _, own = method.partition(":")
        seeds = [] if seed is None else [f"seed={seed}"]
        return configured(base, own or self.recipe, [*self.base, *drawn, *seeds])

    def trial(self, method: str, number: int, seed: int, purpose: str = "trial") -> Trial:
        drawn = search_space.settings(self.space, self.config(method), SEARCH_SEED, number)
        config = self.config(method, drawn, seed)
        run = run_folder.Run(self.root / run_folder.run_name(config))
        arguments = [
            "--method",
            method.partition(":")[0],
            "--recipe",
            config.recipe,
            "--seed",
            str(seed),
            *self.base,
            *drawn,
        ]
        label = f"{method} trial {number} seed {seed}"
        cell = recorded.Cell.of(run.name, seed, config.data)
        row = Row(label, run.name, run, arguments, seed, verb="validate", config=config, cell=cell)
        known, there = self.images.known(run, config.data), self.figures(row)
        row.missing = [p for p in self.protocols if p not in there]
        if run.status().get("state") == "finished" and known and not row.missing:
            row.state = "done"
        elif diverged(run):  # the loss was not finite: a result, and the same again would be the same
            row.state = "failed"
        return Trial(method, number, purpose, tuple(drawn), row)

    def figures(self, row: Row) -> dict[str, Any]:
        """Those that the run has on its images as they are now, by the protocols as they are now."""
        assert row.run is not None
        now, kept, weights = self.images.now(row.cell.images), validate.read(row.run), run_folder.weights(row.run)
        fingerprint = now[0] if now else ""  # no store: nothing was scored on it
        return {p: kept[p] for p in self.protocols if validate.done(kept, p, row.seed, fingerprint, weights)}


def diverged(run: run_folder.Run) -> bool:
    """Whether this run has ended for good in values that are not finite."""
    status = run.status()
    return status.get("state") == "failed" and str(status.get("reason", "")).startswith("Non-finite")


def plan(
    methods: Sequence[str], recipe: str, base: Sequence[str], texts: Sequence[str], protocols: Sequence[str], root: Path
) -> Plan:
    """Everything checked before anything starts."""
    for name in protocols:
        protocol.load(name)
    if taken := [text for text in base if text.startswith("seed=")]:
        raise UserError(f"{taken[0]}: trials have seed 0 and confirmations seeds 1, 2, ...; leave it out.")
    axes = search_space.axes(texts)
    fixed = {text.partition("=")[0] for text in base}
    if both := next((a.key for a in axes if a.key in fixed and a.text not in search_space.DEFAULT), ""):
        raise UserError(f"'{both}' is both set and searched: leave one of them out.")
    free = tuple(a for a in axes if a.key not in fixed)
    found = Plan(tuple(methods), recipe, tuple(base), free, tuple(protocols), root)
    configs = [found.config(method) for method in methods]
    for config in configs:
        rehearse(config)
    search_space.check(free, configs)
    _equal(configs, free)
    return found


def _equal(configs: Sequence[Config], free: Sequence[search_space.Axis]) -> None:
    """Refuse what would give some trials more compute, or other images, than the rest."""
    for axis in free:
        if axis.key.startswith(("data.", "seed", "run.")) or axis.key in [f"budget.{kind}" for kind in BUDGETS]:
            raise UserError(f"--space '{axis.text}': all trials share data, seed and compute; set it for all instead.")
    if len({config.data for config in configs}) > 1:
        raise UserError("The recipes of these methods use different images: set data.name and data.image_size for all.")
    spent = {config.budget.flops for config in configs}
    alike = len(configs) == 1 and all(axis.key.startswith("optim.") for axis in free)  # steps then cost the same
    if len(spent) > 1 or (spent == {0} and not alike):
        raise UserError(
            "A fair search spends the same compute on every trial of every method: give it as FLOPs, for example "
            "budget.flops=2.2e12 (what the recipe 'quick' spends)."
        )


def line(shared: Plan, trial: Trial) -> dict[str, Any]:
    """A trial's JSON line from what its run left behind."""
    run, config = trial.row.run, trial.row.config
    assert run is not None
    assert config is not None
    status = run.status()
    found = shared.figures(trial.row)
    finished = trial.row.state == "done"
    state = "failed" if not finished else "collapsed" if status.get("collapsed") else "finished"
    reason = str(status.get("collapse_reason" if finished else "reason") or ("" if finished else "see its log"))
    return lines_of.make(
        method=trial.method, recipe=config.recipe, trial=trial.number, purpose=trial.purpose, seed=config.seed,
        settings=list(trial.settings), base=list(shared.base), space=[a.text for a in shared.space],
        search_seed=SEARCH_SEED, config=to_dict(config), run=run.name, identity=identity(config), state=state,
        reason=reason, validation=found, score=lines_of.score(found) if finished else None, compute=run.compute(),
        code=provenance.code_state(), versions=provenance.versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def carry_out(shared: Plan, todo: list[Trial], jobs: int) -> list[dict[str, Any]]:
    """Run the trials; each is written down as soon as it has ended. Their lines, in order."""
    written: dict[int, dict[str, Any]] = {}

    def look() -> None:
        fresh = {
            i: line(shared, trial)
            for i, trial in enumerate(todo)
            if trial.row.state in ("done", "failed") and i not in written
        }
        if fresh:
            lines_of.add(shared.root / lines_of.FILE, fresh.values())
            written.update(fresh)

    runner.drive([trial.row for trial in todo], shared.root, jobs, look)
    look()
    return [written[i] for i in range(len(todo))]


def search(number: int, texts: Sequence[str], confirm: int, given: dict[str, Any]) -> None:
    """What `compare --search` runs; `given` are the other options of `compare`."""
    methods, protocols = given["methods"].split(","), protocol.expand(given["protocols"].split(","))
    shared = plan(methods, given["recipe"], given["settings"], texts, protocols, given["root"])
    todo = [shared.trial(method, i, 0) for i in range(number) for method in methods]
    if not shared.config(methods[0]).run.keep_old:
        recorded.refuse_other_code({trial.row.label: trial.row.run for trial in todo if trial.row.run})
    for sentence in search_space.describe(shared.space, {m: shared.config(m) for m in methods}):
        say(f"searched: {sentence}")
    if given["dry_run"]:
        from ssl_bench.experiments import forecast

        return forecast.show_matrix([trial.row for trial in todo], shared.root, given["jobs"])
    lines = carry_out(shared, todo, given["jobs"])
    gains = [lines_of.gain(method, [x for x in lines if x["method"] == method]) for method in methods]
    if confirm:
        numbers = {g.method: {0, g.trial} for g in gains if g.trial}
        again = [shared.trial(m, n, s, "confirm") for m, ns in numbers.items() for n in sorted(ns)
                 for s in range(1, confirm + 1)]  # fmt: skip
        lines += carry_out(shared, again, given["jobs"]) if again else []
    show(gains, lines, protocols, confirm)
    say(f"all trials: {shared.root / lines_of.FILE}")


def show(
    gains: Sequence[lines_of.Gain], lines: Sequence[dict[str, Any]], protocols: Sequence[str], confirm: int
) -> None:
    """The table of gains, with its warning, and the confirmation."""
    say(f"validation images only; the score is the mean of {', '.join(protocols)}", "bold")
    columns = ("trials", "bad", "recipe", "best", "gain", "FLOPs")
    table = sheet("method", *columns, "settings of the best", right=columns)
    for g in gains:
        table.add_row(*lines_of.row(g))
    console.print(table)
    most = max(g.trials for g in gains)
    say(f"One seed per trial: the best of {most} is partly luck, and its gain is optimistic.", "yellow")
    for x in lines:
        if x["state"] != "finished":
            say(f"  {x['method']} trial {x['trial']}: {x['state']}: {x['reason'][:160]}", "red")
    if not confirm:
        say("  --confirm 3 runs winner and recipe again with three fresh seeds.")
    for g in gains:
        if confirm and g.trial:
            found = lines_of.confirmed([x for x in lines if x["method"] == g.method], g.trial)
            if found is None:
                say(f"{g.method}: not confirmed, its runs failed", "red")
            elif found.low is None or found.high is None:
                say(f"{g.method}: winner minus recipe over one fresh seed {found.difference:+.2f}: no interval")
            else:
                real = "confirmed" if found.low > 0 else "not confirmed"
                say(f"{g.method}: winner minus recipe over {confirm} fresh seeds {found.difference:+.2f} "
                    f"({found.low:+.2f} to {found.high:+.2f}): {real}", "bold")  # fmt: skip
