"""Kills runs with SIGKILL at random moments, starts each again, and counts the bits in which they end differently.

python tests/kill_runs.py --kills 100

Every method trains a small run from start to end, and again in a folder where its process is killed over and over:
half of the kills come at a random moment of the run, half while a checkpoint is being written. All processes are forks
of this one, so that Python and torch are imported once. One thread.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_photos, tiny

from ssl_bench import find
from ssl_bench.config.schema import Config
from ssl_bench.data.dataset import open_data
from ssl_bench.training import checkpoint
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.run_folder import Run, run_name

STEPS = 8


@dataclass
class Tally:
    """What happened to one method, or to all."""

    kills: int = 0
    caught: Counter[str] = field(default_factory=Counter)
    bits: int = 0
    compared: int = 0  # bits
    damaged: int = 0  # checkpoints that a restart found damaged


def config_of(method: str, data: str) -> Config:
    """A checkpoint after every step."""
    config = tiny(method, data, steps=STEPS)
    return replace(config, run=replace(config.run, checkpoint_steps=1, threads=1))


def start(config: Config, root: Path) -> int:
    """The process id of a fork that trains."""
    child = os.fork()
    if child:
        return child
    try:
        pretrain(config, root)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"a run ended with status {status}")


def ended(child: int) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid and status:
        sys.exit(f"a run ended with status {status}")
    return pid != 0


def doing(folder: Path) -> str:
    """What the process in this folder was at."""
    if list(folder.glob(".next.ckpt.*.tmp")):
        return "writing a checkpoint"
    if (folder / checkpoint.NEXT).exists():
        return "verifying or renaming a checkpoint"
    if (folder / "encoder.safetensors").exists():
        return "finishing"
    return "training" if (folder / checkpoint.LAST).exists() else "before its first checkpoint"


def kill_at_random(child: int, folder: Path, seconds: float, rng: random.Random, writing: bool) -> str:
    """Wait, kill, and say what it was doing; "" where it ended before."""
    until = time.monotonic() + rng.uniform(0, seconds)
    while time.monotonic() < until or (writing and not doing(folder).endswith("a checkpoint")):
        if ended(child):
            return ""
        time.sleep(0.001)
    if writing:
        time.sleep(rng.uniform(0, 0.003))
    if ended(child):
        return ""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return doing(folder)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor and number below a checkpoint's state, as bytes."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{name}.{i}")
    elif isinstance(value, torch.Tensor):
        yield name, value.contiguous().flatten().view(torch.uint8).numpy()
    else:
        yield name, np.frombuffer(repr(value).encode(), np.uint8)


def compare(a: Path, b: Path, tally: Tally) -> None:
    """Count differing bits of the weights that are evaluated, of the metrics, and of the last checkpoint."""
    for name in ("encoder.safetensors", "metrics.jsonl"):
        count(*(np.frombuffer((folder / name).read_bytes(), np.uint8) for folder in (a, b)), tally)
    clock = {"seconds": 0, "legs": []}  # it differs
    states = [{**checkpoint.read(folder / checkpoint.LAST), **clock} for folder in (a, b)]
    for (name, x), (other, y) in zip(leaves(states[0]), leaves(states[1]), strict=True):
        assert name == other
        count(x, y, tally)


def count(x: np.ndarray, y: np.ndarray, tally: Tally) -> None:
    tally.compared += 8 * x.size
    if x.size != y.size:
        tally.bits += 8 * max(x.size, y.size)
        return
    tally.bits += int(np.unpackbits(x ^ y).sum())


def torment(method: str, kills: int, data: str, root: Path, rng: random.Random) -> Tally:
    """One method, killed so many times, in as many folders as that takes."""
    config, tally = config_of(method, data), Tally()
    began = time.monotonic()
    finish(start(config, root / "whole"))
    seconds = time.monotonic() - began
    folder, round_ = Path(), 0
    while tally.kills < kills:
        round_ += 1
        place = root / f"killed{round_}"
        folder = place / run_name(config)
        while True:
            child = start(config, place)
            if tally.kills == kills:
                finish(child)
                break
            caught = kill_at_random(child, folder, seconds, rng, writing=tally.kills % 2 == 1)
            if not caught:
                break
            tally.kills += 1
            tally.caught[caught] += 1
            tally.damaged += any(checkpoint.load(folder)[1])
        compare(root / "whole" / run_name(config), folder, tally)
        assert Run(folder).status()["state"] == "finished"
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=22)
    parser.add_argument("--methods", default=",".join(find.names("methods")))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, total, names = random.Random(options.seed), Tally(), options.methods.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SSL_BENCH_CACHE"] = f"{scratch}/cache"
        data = f"folder:{make_photos(Path(scratch) / 'photos')}"
        open_data(config_of(names[0], data).data)  # built once, before the forks
        for i, method in enumerate(names):
            share = options.kills * (i + 1) // len(names) - options.kills * i // len(names)
            tally = torment(method, share, data, Path(scratch) / method, rng)
            print(f"{method}: {tally.kills} kills ({dict(tally.caught)}), differing bits: {tally.bits}", flush=True)
            total.kills, total.bits, total.damaged = (
                a + b for a, b in zip(*[(t.kills, t.bits, t.damaged) for t in (total, tally)], strict=True)
            )
            total.compared += tally.compared
            total.caught += tally.caught
    spent = os.times()
    print(f"{total.kills} kills of {len(names)} methods: {dict(total.caught.most_common())}")
    print(f"damaged checkpoints met: {total.damaged}; CPU seconds: {sum(spent[:4]):.0f}")
    print(f"differing bits found: {total.bits} of {total.compared:,} compared")
    sys.exit(total.bits > 0)


if __name__ == "__main__":
    main()
