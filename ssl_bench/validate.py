"""A protocol on the validation part alone: what choices between settings may be based on.

Nothing here can reach the test split: `open_data` does not hold it, and a test on the syntax tree keeps this file and
those that choose from opening it. The validation part is cut in two halves; the protocol chooses its own
hyperparameters on one half and is scored on the other, both ways round, so that its own choice flatters no number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ssl_bench import compute, features, protocol, runs
from ssl_bench.config import to_dict
from ssl_bench.data import open_data
from ssl_bench.encoders import from_run
from ssl_bench.options import ROOT
from ssl_bench.protocol import Features, Protocol

FILE = "validation.json"


def halves(val: Features) -> tuple[Tensor, Tensor]:
    """Every other image: the store's order is that of content hashes, so both halves are random."""
    rows = torch.arange(len(val))
    return rows[::2], rows[1::2]


def crossed(one: Protocol, train: Features, val: Features, seed: int) -> dict[str, float]:
    """The protocol's metrics, averaged over choosing on one half of `val` and scoring on the other."""
    found: list[dict[str, float]] = []
    first, second = halves(val)
    for choose, score in ((first, second), (second, first)):
        torch.manual_seed(seed)
        predictor = one.fit(train, val.take(choose), seed)
        held = val.take(score)
        truth = held.labels if one.scores == "labels" else held.targets
        assert truth is not None
        with torch.no_grad():
            output = predictor.predict(held.bare())
            found.append({**one.score(output, truth, train.num_classes), **predictor.measured})
    return {name: (found[0][name] + found[1][name]) / 2 for name in found[0] if name in found[1]}


def figures(run: runs.Run, names: Sequence[str], root: Path, seed: int = 0, device: str = "auto") -> dict[str, Any]:
    """Each protocol's figures on validation, also kept in the run's folder; those that are there are not made again."""
    path = run.folder / FILE
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    todo = [(name, protocol.load(name)) for name in names if not done(kept, name, seed)]
    if not todo:
        return kept
    config, place = run.config(), compute.pick_device(device)
    data = open_data(config.data)
    encoder = from_run(run).to(place)
    tokens = any(one.input == "tokens" for _, one in todo)
    parts = [
        features.extract(encoder, split, name, data.fingerprint, len(data.classes), root, tokens)
        for split, name in ((data.train, "train"), (data.val, "val"))
    ]
    for name, one in todo:
        started = time.perf_counter()
        metrics = crossed(one, parts[0], parts[1], seed)
        kept[name] = {
            "value": metrics[one.headline], "headline": one.headline, "higher_is_better": one.higher_is_better,
            "metrics": metrics, "version": one.version, "config": to_dict(one.config), "seed": seed,
            "num_val": len(data.val), "fingerprint": data.fingerprint,
            "seconds": round(time.perf_counter() - started, 3),
        }  # fmt: skip
        runs.write_json(path, kept)
    return kept


def done(kept: dict[str, Any], name: str, seed: int) -> bool:
    """Whether `kept` has this protocol in its present version, with this seed."""
    return name in kept and kept[name]["seed"] == seed and kept[name]["version"] == protocol.load(name).version


def read(run: runs.Run) -> dict[str, Any]:
    """What `figures` left in the run's folder; {} before."""
    path = run.folder / FILE
    return json.loads(path.read_text()) if path.exists() else {}


@click.command()
@click.argument("source")
@click.option("--protocol", "protocols", multiple=True, required=True, help="As for `eval`; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the probe.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0: all.")
@ROOT
def validate(source: str, protocols: tuple[str, ...], seed: int, device: str, threads: int, root: Path) -> None:
    """Score a run on validation images; the test split stays shut.

    \b
    For choosing settings by yourself: look here as often as you like, and at `eval` once.
    Example: ssl-bench validate ijepa-quick-s0 --protocol knn --protocol linear
    """
    from ssl_bench import screen

    if threads:
        torch.set_num_threads(threads)
    run = runs.find_run(root, source)
    found = figures(run, protocols, root, seed, device)
    for name in protocols:
        entry = found[name]
        screen.say(f"{name} of {run.name} on {entry['num_val']} validation images: {entry['value']:.2f}", "bold")
