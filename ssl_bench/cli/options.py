"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ssl_bench import find
from ssl_bench.errors import UserError

ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default="runs", show_default=True,
    envvar="SSL_BENCH_ROOT", help="Folder of runs and records.",
)  # fmt: skip


RECIPE = click.option(
    "--recipe", default="",
    help="One from `ssl-bench list recipes`; default: small, or that of the items (clips, sound, points).",
)  # fmt: skip
SETTINGS = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
DRY_RUN = click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan with its steps, FLOPs, memory and time; start nothing. With --slurm: print the scripts.",
)


def _nan_skips(context: click.Context, option: click.Parameter, text: str | None) -> list[str]:
    """`stop` and `skip=N` as the setting `run.nan_skips`."""
    if text is None:
        return []
    word, _, count = text.partition("=")
    if text != "stop" and not (word == "skip" and count.isdecimal()):
        raise UserError(f"--on-nan {text}: write stop, or skip=N, for example --on-nan skip=3.")
    return [f"run.nan_skips={count or 0}"]


ON_NAN = click.option(
    "--on-nan", metavar="stop|skip=N", callback=_nan_skips,
    help="At a non-finite loss or gradient: stop (default), or skip up to N such steps and record them.",
)  # fmt: skip


def _keep_old(context: click.Context, option: click.Parameter, given: bool) -> list[str]:
    """`--keep-old` as the setting `run.keep_old`."""
    return ["run.keep_old=true"] if given else []


KEEP_OLD = click.option(
    "--keep-old", is_flag=True, callback=_keep_old,
    help="Keep runs and numbers made by other code than is here now, and go on with half-done runs.",
)  # fmt: skip


def SHORT(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data NAME`, `--budget KIND=AMOUNT` and `--keep-old` become settings for whatever the command goes on to do."""

    @click.option("--data", metavar="NAME", help="Images: folder:PATH, or a name from `list datasets`; data.name=NAME.")
    @click.option(
        "--budget", metavar="KIND=AMOUNT",
        help="Of every run: flops=1e15, hours=0.5, images=1e6, epochs=100 or steps=5000; budget.KIND=AMOUNT.",
    )  # fmt: skip
    @KEEP_OLD
    @functools.wraps(command)
    def with_settings(
        data: str | None, budget: str | None, keep_old: list[str], settings: tuple[str, ...], **given: Any
    ) -> Any:
        wanted = {"data.name=": data, "budget.": budget}
        short = [key + value for key, value in wanted.items() if value is not None]
        return command(settings=(*settings, *short, *keep_old), **given)

    return with_settings


def SLURM(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--slurm PROFILE`: the launcher's function of the same name gets the command's options instead."""

    @click.option(
        "--slurm", metavar="PROFILE", default=None,
        help="Submit jobs instead: a profile in slurm/ (gpu, local, ...) or your own .toml file.",
    )  # fmt: skip
    @functools.wraps(command)
    def either(slurm: str | None, **given: Any) -> Any:
        if slurm is None:
            return command(**given)
        launch = getattr(find.module("slurm", "launch"), command.__name__)
        return launch(slurm, given.pop("dry_run"), given)

    return either


def SEARCH(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--search N` hands the command's options over to `ssl_bench.experiments.search`."""

    @click.option(
        "--search",
        "trials",
        metavar="N",
        type=click.IntRange(1),
        help="Instead: N settings per method, each scored on validation images only; trial 0 is the recipe.",
    )
    @click.option(
        "--space",
        metavar="KEY=LOW..HIGH[:log|:gap]",
        multiple=True,
        help="With --search: what to draw, instead of learning rate, weight decay, warm-up and EMA around the "
        "recipe's. KEY=xLOW..xHIGH: times the recipe's value; :gap: evenly in log(1 - value); KEY=A|B: one of these. "
        "Comma-separated or repeated.",
    )
    @click.option(
        "--confirm", metavar="K", type=click.IntRange(0), help="With --search: winner and recipe, K new seeds."
    )
    @functools.wraps(command)
    def either(trials: int | None, space: tuple[str, ...], confirm: int | None, **given: Any) -> Any:
        if trials is None:
            if space or confirm is not None:
                raise UserError("--space and --confirm have no effect without --search N.")
            return command(**given)
        source = click.get_current_context().get_parameter_source
        for name in ("seeds", "no_references"):
            if source(name) is click.core.ParameterSource.COMMANDLINE:
                raise UserError(f"--{name.replace('_', '-')} has no effect with --search: leave it out.")
        if given.pop("slurm", None) is not None:
            raise UserError("--search runs on this machine: leave --slurm out, or give --slurm to `compare` alone.")
        from ssl_bench.experiments.search import search

        return search(trials, space, confirm or 0, given)

    return either


def _devices(context: click.Context, option: click.Parameter, count: int | None) -> list[str]:
    return [] if count is None else [f"run.devices={count}"]


DEVICES = click.option(
    "--devices", type=int, callback=_devices, help="Processes on this machine, one per GPU; same as run.devices=N."
)


@dataclass(frozen=True)
class Hardware:
    """What an evaluation runs on."""

    device: str
    devices: int
    threads: int


def HARDWARE(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`, `--devices` and `--threads` as one argument `hardware`."""

    @click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
    @click.option("--devices", default=1, show_default=True, help="Processes that share the feature extraction.")
    @click.option("--threads", default=0, help="CPU threads; 0: all.")
    @functools.wraps(command)
    def on_hardware(device: str, devices: int, threads: int, **given: Any) -> Any:
        return command(hardware=Hardware(device, devices, threads), **given)

    return on_hardware


def PLANNED(command: Callable[..., Any]) -> Callable[..., Any]:
    """`compare` gets the rows its options ask for as `plans`: one list for each data set evaluated on."""

    @functools.wraps(command)
    def planned(jobs: int, dry_run: bool, eval_data: Sequence[str] = ("",), **given: Any) -> Any:
        from ssl_bench.experiments.matrix import asked

        return command([asked(given, name) for name in eval_data], given["root"], jobs, dry_run)

    return planned


def EVAL_DATA(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--eval-data A,B`: the command gets the names as `eval_data`, each of them found before anything starts."""

    @click.option(
        "--eval-data", metavar="A,B,...",
        help="Evaluate on these data sets instead of the one pretrained on; a column for each.",
    )  # fmt: skip
    @functools.wraps(command)
    def checked(eval_data: str | None, **given: Any) -> Any:
        if eval_data is None:
            return command(**given)
        for name, option in (("trials", "--search"), ("slurm", "--slurm")):
            if given[name]:
                raise UserError(f"--eval-data has no effect with {option}: leave one of them out.")
        from ssl_bench.data import registry

        names = registry.several(eval_data)
        for name in names:
            registry.find(name)
        return command(eval_data=names, **given)

    return checked
