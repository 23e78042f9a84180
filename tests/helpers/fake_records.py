"""Synthetic records for tests and for looking at the page: nothing here was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from results import records
from results.records import Record, sha

IMAGES = 999
COUNTS = {"num_train": 2504, "num_val": 278, "num_test": IMAGES, "num_classes": 10}
ENCODER: dict[str, Any] = {
    "source": "run",
    "pooling": "mean",
    "layers": 1,
    "norm": "final",
    "image_size": 48,
    "resize": 48,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "weights_sha256": "",
    "evaluated": "teacher (EMA)",
}


def fake(
    method: str = "mae",
    value: float = 40.0,
    seed: int | None = 0,
    protocol: str = "knn",
    data: str = "clothing48",
    **changes: Any,
) -> Record:
    """One record; `value` percent of its bits are set, which ones depends on method, seed and protocol."""
    rng = np.random.default_rng(int(sha(f"{method}{seed}{protocol}{data}")[:8], 16))
    easy = np.random.default_rng(0).standard_normal(IMAGES)  # the same images are easy for all
    order = np.argsort(easy + rng.standard_normal(IMAGES))
    bits = np.zeros(IMAGES, dtype=bool)
    bits[order[: round(IMAGES * value / 100)]] = True
    trained = method not in ("random", "pixels")
    fields: dict[str, Any] = {
        "method": method,
        "recipe": "quick" if trained else "",
        "overrides": [],
        "identity": sha(f"{method}{seed}{changes.get('overrides')}{changes.get('recipe')}")[:12],
        "config": {"method": method, "seed": seed, "budget": {"steps": 300, "batch_size": 128}} if trained else {},
        "run": f"{method}-quick-s{seed}" if trained else "",
        "encoder": {**ENCODER, "weights_sha256": "" if seed is None else sha(f"{method}{seed}")},
        "protocol": protocol,
        "variant": "",
        "protocol_version": 1,
        "protocol_config": {"k": 20} if protocol == "knn" else {},
        "selected": {},
        "data": {"name": data, "fingerprint": sha(data), **COUNTS},
        "pretrain_data": {"name": data, "fingerprint": sha(data)} if trained else {},
        "seeds": {"pretrain": seed, "probe": 0, "split": 0},
        "headline": "top1",
        "metrics": {"top1": 100 * float(bits.mean()), "top5": 90.0},
        "higher_is_better": True,
        "optimism": {},
        "compute": {"pretrain": _compute(method) if trained else {}, "eval": {"seconds": 3.2, "device": "cpu"}},
        "collapse": {"flag": False, "reason": "", "rankme": 35.0},
        "code": {"commit": "0" * 40, "dirty": False},
        "versions": {"torch": "2.15.0"},
        "created": "2026-11-21T12:00:00+00:00",
    }
    fields.update(changes)
    return records.make(correct=changes.pop("correct", bits), **{k: v for k, v in fields.items() if k != "correct"})


def _compute(method: str) -> dict[str, Any]:
    scale = 1 + (sum(map(ord, method)) % 7)
    return {
        "flops": 1e13 * scale,
        "seconds": 40.0 * scale,
        "device": "cpu (AMD EPYC, 2 threads)",
        "instructions": "avx2",
        "precision": "fp32",
        "images": 38400,
        "images_per_second": 960.0 / scale,
        "peak_memory_bytes": 4e8 + 1e7 * scale,
        "steps": 300,
    }


def quickstart(seeds: Sequence[int] = (0, 1, 2)) -> list[Record]:
    """Records like those of `ssl-bench quickstart`."""
    levels = {
        "knn": {"dino": 41.0, "mae": 30.0, "ijepa": 29.5, "random": 18.0, "pixels": 44.4, "supervised": 60.0},
        "linear": {"dino": 44.0, "mae": 43.5, "ijepa": 25.0, "random": 22.0, "pixels": 34.0, "supervised": 66.0},
    }
    out = []
    for protocol, methods in levels.items():
        for method, level in methods.items():
            for seed in [None] if method == "pixels" else seeds:
                noise = 0 if seed is None else np.random.default_rng([seed, sum(map(ord, method + protocol))]).normal()
                bad = method == "ijepa" and seed == 0
                collapse = {"flag": bad, "reason": "RankMe fell to 1.6" if bad else "", "rankme": 1.6 if bad else 35.0}
                out.append(fake(method, level + noise, seed, protocol, collapse=collapse))
    return out
