"""The run folder: resolved config, provenance, metrics, status, weights. Its name carries the identity."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssl_bench import find
from ssl_bench.config.from_file import from_dict
from ssl_bench.config.schema import Config, identity, to_dict
from ssl_bench.data.dataset import other_images
from ssl_bench.errors import UserError, nearest
from ssl_bench.files import write_atomic
from ssl_bench.training import code


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of a run's .jsonl file and the row that each holds; what is no row, as a kill leaves it, is left out."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**53:
            yield line, row


@dataclass(frozen=True)
class Run:
    """A run folder that exists or is about to."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def config(self) -> Config:
        """The resolved config the run was started with."""
        values = self.read_json("config.json")
        if not values:
            raise UserError(f"{self.folder} is not a run folder: it has no config.json.")
        method = values.get("method")
        if not isinstance(method, str):
            raise UserError(f"{self.folder}/config.json names no method.")
        # A run folder may come from a stranger, so it never makes us import a module that is not ours: the settings
        # of a scratch method (`my_lab.idea`) stay a plain dictionary until --method names it.
        own = method in find.names("methods")
        kind = objective_type(find.module("methods", method)) if own else None
        config: Config = from_dict(Config, values, objective=kind).check()
        return config

    def status(self) -> dict[str, Any]:
        """state (running, finished, failed, interrupted), step, steps, loss, collapsed, ...; {} before the start.

        It is a note, never the truth: where it is damaged it counts as not written, and the checkpoint decides.
        """
        try:
            return self.read_json("status.json")
        except UserError:
            return {}

    def compute(self) -> dict[str, Any]:
        """FLOPs, seconds, device, images, images/s and peak memory of the finished run."""
        return self.read_json("compute.json")

    def metrics(self, name: str = "metrics") -> list[dict[str, Any]]:
        """Rows of metrics.jsonl (deterministic values) or timing.jsonl (seconds)."""
        return [row for _, row in rows(self.folder / f"{name}.jsonl")]

    def read_json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files; {} where it is not there."""
        path = self.folder / name
        try:
            values = json.loads(path.read_text()) if path.exists() else {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}. Remove the folder, or restore the file.") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged: it holds a {type(values).__name__}. Remove the folder, or restore it.")
        return values


def begun(run: Run) -> bool:
    """Whether anything trained lies in the folder."""
    return run.status().get("state") == "finished" or any(run.folder.glob("*.ckpt"))


def trained_on(run: Run) -> str:
    """Fingerprint of the images that what lies in the folder was trained on; "" where nothing was trained yet."""
    return str((run.read_json("provenance.json").get("data") or {}).get("fingerprint", "")) if begun(run) else ""


def other_code(run: Run) -> list[str]:
    """Modules that are not as they were when what lies in the folder was trained; [] also where that is not known."""
    then = run.read_json("provenance.json").get("code") or {}
    method = run.read_json("config.json").get("method")
    if not begun(run) or not then.get("modules") or not isinstance(method, str):
        return []
    return code.differing(then, code.training(method))


def same_code(run: Run, keep_old: bool) -> str:
    """What to say of a run that other code has trained, or may have, or "". `UserError` without `keep_old`."""
    then = run.read_json("provenance.json").get("code") or {}
    if begun(run) and not then.get("hash"):
        return f"{run.name} kept no hash of its code: whether the code has changed since is not known."
    if not (names := other_code(run)):
        return ""
    finished, method = run.status().get("state") == "finished", run.read_json("config.json")["method"]
    what = (
        f"{run.name} was {'trained' if finished else 'begun'} by other code: since commit {str(then['commit'])[:9]}"
        f"{' (with changes)' if then.get('dirty') else ''} {code.files(names)} changed"
    )
    if keep_old:
        return f"{what}. It is {'kept' if finished else 'gone on with'}, as asked, and says so."
    raise UserError(
        f"{what}. If its numbers can be others now, raise `version` of '{method}' (trained anew, the old run stays), "
        f"or remove {run.folder}. If not, {'keep it' if finished else 'go on'} as it is: --keep-old."
    )


def weights(run: Run) -> str:
    """SHA-256 of the encoder that a finished run left; "" where there is none."""
    return str(run.read_json("encoder.json").get("weights_sha256", ""))


def same_images(run: Run, name: str, now: str) -> None:
    """`UserError` where the run was trained on other images than those whose fingerprint is `now`."""
    then = trained_on(run)
    if then and then != now:
        raise other_images(name, then, now)


def objective_type(module: Any) -> type:
    """The dataclass of `Config.objective`: the annotation of the method class' `objective` attribute."""
    import typing

    from ssl_bench.training.method import Method

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
    try:
        before = run.read_json("config.json")
    except UserError:  # cut short: the folder's name says which config it held
        before = {}
    if not before:
        write_json(run.folder / "config.json", to_dict(config))
    elif identity(run.config()) != identity(config):
        raise UserError(
            f"{run.folder} holds a run with another config: {_difference(before, to_dict(config))}. "
            "Move it away, or choose another --root."
        )
    return run


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Every setting that differs, the `run` group apart: `optim.lr was 0.1 and is now 0.2`."""
    old, new = _flat({**before, "run": {}, "recipe": ""}), _flat({**now, "run": {}, "recipe": ""})
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    shown = [f"{key} was {old.get(key, 'not set')} and is now {new.get(key, 'not set')}" for key in keys[:8]]
    return "; ".join(shown) + (f"; and {len(keys) - 8} more" if len(keys) > 8 else "")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def lock(run: Run) -> IO[str]:
    """Hold this while training. The kernel drops it when the process dies, so no crash leaves it behind."""
    path = run.folder / "lock"
    try:
        file = open(path, "a+")  # noqa: SIM115  held open for the life of the run
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip() or "not known"
        file.close()
        raise UserError(f"Another process ({holder}) is training {run.name}. Wait for it, or stop it first.") from None
    except OSError as error:  # read-only, full, or a file system without locks: two processes could not be kept apart
        raise UserError(f"Cannot lock {path} ({error.strerror}). Choose another place with --root.") from error
    with suppress(OSError):  # who holds it is a courtesy: a full disk must not stop a run that could still finish
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
    return file


def busy(run: Run) -> bool:
    """Whether a process is training it now."""
    try:
        with open(run.folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without locks: nothing is known
        return False
    return False


def set_status(run: Run, **values: Any) -> None:
    """Merge into status.json, atomically, with the time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    write_json(run.folder / "status.json", {**run.status(), **values, "updated": now})
