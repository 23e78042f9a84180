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

import numpy as np
import torch
from torch import Tensor

from ssl_bench.config.schema import to_dict
from ssl_bench.data.dataset import open_data
from ssl_bench.encoders.from_run import from_run
from ssl_bench.evaluation import features, protocol
from ssl_bench.evaluation.protocol import Features, Protocol, Rows
from ssl_bench.evaluation.scorers import Scorer
from ssl_bench.parallel import devices
from ssl_bench.training import code, run_folder

FILE = "validation.json"


def halves(val: Features) -> tuple[Tensor, Tensor]:
    """Every other image: the store's order is that of content hashes, so both halves are random."""
    rows = torch.arange(len(val))
    return rows[::2], rows[1::2]


def crossed(one: Protocol, train: Features, val: Features, seed: int) -> tuple[dict[str, float], str]:
    """The protocol's metrics, averaged over choosing on one half of `val` and scoring on the other, and what the
    headline is where it is less than its name says: `shots10 (6 per class)`.
    """
    found: list[dict[str, float]] = []
    true = ""
    first, second = halves(val)
    for choose, score in ((first, second), (second, first)):
        torch.manual_seed(seed)
        predictor = one.fit(train, val.take(choose), seed)
        if isinstance(one.scorer, Scorer):
            one.scorer = one.scorer.judging(sealed=False)  # nothing is chosen by the sealed episodes
        held = val.take(score)
        truth = getattr(held, one.scores)
        truth = truth.batch(np.arange(len(held))) if isinstance(truth, Rows) else truth
        assert truth is not None
        with torch.no_grad():
            output = predictor.predict(held.bare())
            found.append({**one.score(output, truth, one.outcomes(train)), **predictor.measured})
        true = true or predictor.true_names.get(one.headline, "")
    return {n: (found[0][n] + found[1][n]) / 2 for n in found[0] if n in found[1]}, true or one.headline


def figures(
    run: run_folder.Run, names: Sequence[str], root: Path, seed: int = 0, device: str = "auto"
) -> dict[str, Any]:
    """Each protocol's figures on validation, also kept in the run's folder; those that are there are not made again."""
    path = run.folder / FILE
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    config, place = run.config(), devices.pick_device(device)
    data, weights = open_data(config.data), run_folder.weights(run)
    run_folder.same_images(run, data.name, data.fingerprint)
    todo = [(name, protocol.load(name)) for name in names if not done(kept, name, seed, data.fingerprint, weights)]
    if not todo:
        return kept
    encoder = from_run(run).to(place)
    tokens = any(one.input == "tokens" for _, one in todo)
    parts = [
        features.of_part(encoder, data, split, name, root, tokens)
        for split, name in ((data.train, "train"), (data.val, "val"))
    ]
    for name, one in todo:
        started = time.perf_counter()
        metrics, headline = crossed(one, parts[0], parts[1], seed)
        kept[name] = {
            "value": metrics[one.headline], "headline": headline, "higher_is_better": one.higher_is_better,
            "metrics": metrics, "version": one.version, "config": to_dict(one.config), "seed": seed,
            "num_val": len(data.val), "fingerprint": data.fingerprint, "weights_sha256": encoder.weights_sha256,
            "code": code.evaluation(name.partition(":")[0]), "seconds": round(time.perf_counter() - started, 3),
        }  # fmt: skip
        run_folder.write_json(path, kept)
    return kept


def done(kept: dict[str, Any], name: str, seed: int, fingerprint: str, weights: str) -> bool:
    """Whether `kept` has this protocol as it is now (version and settings), with this seed, these images and weights.

    The share of images that is held out is in the run's identity.
    """
    one, entry = protocol.load(name), kept.get(name, {})
    wanted = {"seed": seed, "version": one.version, "config": to_dict(one.config)}
    wanted |= {"fingerprint": fingerprint, "weights_sha256": weights}
    changed = code.differing(entry.get("code", {}), code.evaluation(name.partition(":")[0]))
    return all(entry.get(k) == v for k, v in wanted.items()) and not changed


def read(run: run_folder.Run) -> dict[str, Any]:
    """What `figures` left in the run's folder; {} before."""
    path = run.folder / FILE
    return json.loads(path.read_text()) if path.exists() else {}
