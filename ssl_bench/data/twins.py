"""Images with the very same pixels in two sets: what was pretrained on may hold what is tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.config.schema import DataConfig
from ssl_bench.data import store
from ssl_bench.data.items import written


def shared(folder: Path, part: str, other: Path) -> np.ndarray:
    """bool [N]: which images of `part` in one store have the pixels of a training image in the other."""
    mine, theirs = (np.load(f / f"{p}_pixels.npy").view(">u8") for f, p in ((folder, part), (other, "train")))
    _, who = np.unique(np.concatenate([mine, theirs]), axis=0, return_inverse=True)
    who = who.reshape(-1)
    return np.isin(who[: len(mine)], who[len(mine) :])


def with_pretraining(tested: DataConfig, trained: DataConfig) -> dict[str, Any]:
    """How many test images have the pixels of an image of the split pretrained on; {} where its store is not here.

    `count` is None where the two are read in other forms (size, frames, views): no pixels can then be the same, and
    nothing can be said.
    """
    here, there = store.there(tested), store.there(trained)
    if here is None or there is None:
        return {}
    if _shape(here) != _shape(there):
        return {"pretrain": trained.name, "count": None, "share": None}
    found = shared(here, "test", there)
    return {"pretrain": trained.name, "count": int(found.sum()), "share": round(100 * float(found.mean()), 3)}


def told(found: dict[str, Any]) -> str:
    """The same in words, or "" where there is nothing to tell."""
    if not found or found["count"] == 0:
        return ""
    if found["count"] is None:
        return f"Whether test images are among those of '{found['pretrain']}', read in another form, is unknown."
    return (
        f"{found['count']:,} test images ({found['share']:.2g} %) have the very pixels of an image of the split "
        f"pretrained on ('{found['pretrain']}')."
    )


def between(sets: Sequence[DataConfig]) -> list[str]:
    """Test images of each set that are training images of another one, in words; of sets whose stores are built."""
    folders = {config.name: folder for config in sets if (folder := store.there(config)) is not None}
    out = []
    for a, b in permutations(folders, 2):
        if _shape(folders[a]) == _shape(folders[b]) and (count := int(shared(folders[a], "test", folders[b]).sum())):
            total = len(np.load(folders[a] / "test_rows.npy"))
            out.append(f"{count:,} of {total:,} test images of '{a}' are training images of '{b}' (same pixels).")
    return out


def _shape(folder: Path) -> Any:
    return written(json.loads((folder / "meta.json").read_text())).facts
