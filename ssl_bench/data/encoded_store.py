"""Reading the encoded store: bytes from large files, decoded by threads (Pillow lets go of the interpreter's lock)."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssl_bench.data.items import Kind
from ssl_bench.errors import UserError

AHEAD = 4  # batches decoded before they are asked for; a batch that nobody fetches is dropped after so many others


def mapped(path: Path) -> np.ndarray:
    """uint8 [bytes] of a file, read as it is needed. Unlike `np.memmap` it does not keep the file's name."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class Encoded:
    """Items of one split as an array-like: `images[rows]` is [B, *kind.shape] of kind.dtype, the same for any threads.

    Its files are opened here, all at once, and their place is not kept: a protocol gets these items.
    """

    def __init__(self, folder: Path, table: np.ndarray, kind: Kind, threads: int = 0) -> None:
        self.table, self.kind = table, kind
        self.shape = (len(table), *kind.shape)
        self.pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "decode")
        self.files = {chunk: mapped(folder / f"{chunk:06d}.pack") for chunk in np.unique(table[:, 0]).tolist()}
        self.pending: dict[bytes, list[Future[np.ndarray]]] = {}

    def __len__(self) -> int:
        return len(self.table)

    def one(self, row: int) -> np.ndarray:
        """[*kind.shape]"""
        chunk, offset, length = self.table[row].tolist()
        try:
            return self.kind.decode(self.files[chunk][offset : offset + length].tobytes())
        except Exception as error:
            raise UserError(
                f"Item {row} in {chunk:06d}.pack could be read when the store was built and cannot be now ({error}). "
                "The disk or the file is damaged: remove the set's folder in stores/ of the cache (`ssl-bench doctor` "
                "says where that is), it is built again."
            ) from error

    def ahead(self, rows: np.ndarray) -> None:
        """Start decoding what `images[rows]` will be asked for; changes nothing but the time that takes."""
        key = rows.tobytes()
        if key not in self.pending:
            self.pending[key] = [self.pool.submit(self.one, row) for row in rows.tolist()]
            while len(self.pending) > AHEAD:
                for future in self.pending.pop(next(iter(self.pending))):
                    future.cancel()

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = self.pending.pop(rows.tobytes(), None)
        if found is None:
            found = [self.pool.submit(self.one, row) for row in rows.tolist()]
        out = np.empty((len(rows), *self.shape[1:]), self.kind.dtype)
        for place, future in zip(out, found, strict=True):
            place[:] = future.result()
        return out
