"""The run folder: resolved config, provenance, metrics, status, weights. Its name carries the identity."""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssl_bench import find
from ssl_bench.config import Config, from_dict, identity, to_dict
from ssl_bench.errors import UserError, nearest
from ssl_bench.files import write_atomic

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Run:
    """A run folder that exists or is about to."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def config(self) -> Config:
        """The resolved config the run was started with."""
        values = self._json("config.json")
        if not values:
            raise UserError(f"{self.folder} is not a run folder: it has no config.json.")
        module = find.module("methods", values["method"])
        return from_dict(Config, values, objective=objective_type(module))

    def status(self) -> dict[str, Any]:
        """state (running, finished, failed, interrupted), step, steps, loss, collapsed, ...; {} before the start."""
        return self._json("status.json")

    def compute(self) -> dict[str, Any]:
        """FLOPs, seconds, device, images, images/s and peak memory of the finished run."""
        return self._json("compute.json")

    def metrics(self, name: str = "metrics") -> list[dict[str, Any]]:
        """Rows of metrics.jsonl (deterministic values) or timing.jsonl (seconds)."""
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}. Remove the folder, or restore the file.") from error


def objective_type(module: Any) -> type:
    """The dataclass of `Config.objective`: the annotation of the method class' `objective` attribute."""
    import typing

    from ssl_bench.method import Method

    return typing.get_type_hints(find.defined(module, Method))["objective"]


def run_name(config: Config) -> str:
    """For example `ijepa-small-s0-1a2b3c4d5e6f`."""
    return f"{config.method}-{config.recipe or 'custom'}-s{config.seed}-{identity(config)}"


def all_runs(root: Path) -> list[Run]:
    """Every run folder under `root`, oldest first."""
    found = [Run(p.parent) for p in root.glob("*/config.json")]
    return sorted(found, key=lambda run: (run.folder / "config.json").stat().st_mtime_ns)


def find_run(root: Path, name: str | None = None) -> Run:
    """A run by folder path, name or unique beginning of a name; the newest finished one if `name` is None."""
    runs = all_runs(root)
    if name is None:
        done = [run for run in runs if run.status().get("state") == "finished"]
        if not done:
            raise UserError(f"No finished run in {root}. Start one: ssl-bench pretrain --method ijepa")
        return max(done, key=lambda run: run.status()["updated"])
    if (Path(name) / "config.json").exists():
        return Run(Path(name))
    hits = [run for run in runs if run.name.startswith(name)]
    if len(hits) == 1 or any(run.name == name for run in hits):
        return next((run for run in hits if run.name == name), hits[0])
    if hits:
        raise UserError(
            f"'{name}' fits {len(hits)} runs: {', '.join(run.name for run in hits[:4])}. Give more of the name."
        )
    raise UserError(
        f"No run '{name}' in {root}. {nearest(name, [run.name for run in runs]) if runs else 'It has no runs.'}"
    )


def start(root: Path, config: Config) -> Run:
    """The run's folder, made with config.json; where one is there already it must hold the same config."""
    run = Run(root / run_name(config))
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the run folder {run.folder} ({error.strerror}). Choose another with --root."
        ) from error
    if not (run.folder / "config.json").exists():
        write_json(run.folder / "config.json", to_dict(config))
        return run
    if identity(run.config()) != identity(config):
        raise UserError(f"{run.folder} holds a run with another config. Move it away, or choose another --root.")
    return run


def lock(run: Run) -> IO[str]:
    """Hold this while training. The kernel drops it when the process dies, so no crash leaves it behind."""
    file = open(run.folder / "lock", "a")  # noqa: SIM115  held open for the life of the run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"Another process is training {run.name}. Wait for it, or stop it first.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def set_status(run: Run, **values: Any) -> None:
    """Merge into status.json, atomically, with the time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    write_json(run.folder / "status.json", {**run.status(), **values, "updated": now})


def provenance(extra: dict[str, Any]) -> dict[str, Any]:
    """Code commit and dirty flag, versions, machine and command line."""
    return {
        "code": code_state(),
        "versions": versions(),
        "python": platform.python_version(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "command": sys.argv,
        **extra,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a number."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def code_state() -> dict[str, Any]:
    """Git commit and whether tracked files differ from it; the package version where there is no git."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        inside = git("rev-parse", "--show-toplevel") == str(root)
        commit = git("rev-parse", "HEAD") if inside else ""
        dirty = bool(git("status", "--porcelain", "--untracked-files=no")) if commit else False
    except OSError:
        commit, dirty = "", False
    return {"commit": commit or f"ssl-bench {importlib.metadata.version('ssl-bench')}", "dirty": dirty}


def processor() -> str:
    """The CPU's name, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
