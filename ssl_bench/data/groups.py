"""Images that belong together (tiles of one scene, words of one speaker): no cut of a split may part them.

Quadrants of one aerial photograph on both sides of a validation split: 88 % are read there where new scenes give 59 %.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np

from ssl_bench.data.labels import as_text
from ssl_bench.errors import UserError

COLUMN = "group"  # read as such in a table that has it


def number(name: str | None) -> int:
    """A group's number in a store: the same for the same name in every file and split. 0: the image has none."""
    return 0 if name is None else int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True) or 1


def named(value: Any, pattern: str, place: str) -> str | None:
    """The group that a value tells: its text, or what of it `pattern` matches from the start; None: nothing."""
    text = as_text(value)
    if text is None or not pattern:
        return text
    try:
        found = re.match(pattern, text)
    except re.error as error:
        raise UserError(f"#group=: '{pattern}' is no regular expression ({error}).") from error
    if not found:
        raise UserError(f"#group=: '{pattern}' matches nothing at the start of '{text}' ({place}).")
    return found.group()


def hold_out(labels: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
    """Bool [N]: whole groups that together come near `share` of every class; `labels`, `groups` int64 [N].

    The groups are gone through in the order of their numbers, which are hashes of their names: a fixed random order.
    One is taken where that brings the classes nearer to what is wanted, all together. Of a class that is left with
    none, the smallest group is taken that leaves every class another. An image without a group (0) is its own.
    """
    classes, label = np.unique(labels, return_inverse=True)
    own = np.where(groups == 0, np.arange(len(groups)), len(groups))  # tells the images without a group apart
    _, group = np.unique(np.stack([groups, own]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    counts = np.zeros((group.max(initial=-1) + 1, len(classes)), np.int64)  # [groups, classes]
    np.add.at(counts, (group, label), 1)
    wanted, have = share * counts.sum(0), np.zeros(len(classes))
    taken = np.zeros(len(counts), bool)
    for g, count in enumerate(counts):
        if np.abs(wanted - have - count).sum() < np.abs(wanted - have).sum():
            taken[g], have = True, have + count
    for c in np.flatnonzero(have == 0):
        whole = counts.sum(0)
        fit = [g for g in np.flatnonzero(counts[:, c]) if ((have + counts[g] < whole) | (counts[g] == 0)).all()]
        if have[c] == 0 and fit:
            least = min(fit, key=lambda g: (counts[g].sum(), g))
            taken[least], have = True, have + counts[least]
    return taken[group]


def facts(groups: np.ndarray, split: np.ndarray) -> tuple[dict[str, int], list[str]]:
    """What a store's description holds of the groups, and notes; `groups` int64 [N], `split` of each image."""
    train, test = groups[split == "train"], groups[split == "test"]
    if not train.any():
        return {}, []
    _, sizes = np.unique(train[train != 0], return_counts=True)
    about = {"train": len(sizes), "largest": int(sizes.max()), "test": len(np.unique(test[test != 0]))}
    notes = []
    if lone := int((train == 0).sum()):
        notes.append(f"{lone:,} training images have no group: each counts as one of its own.")
    if not test.any() and len(test):
        notes.append("The test images have no groups: whether training images share theirs is not known.")
    elif shared := int((np.isin(test, train) & (test != 0)).sum()):
        notes.append(f"{shared:,} of {len(test):,} test images are of a group that training images are of too.")
    return about, notes
