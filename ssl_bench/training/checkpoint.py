"""Checkpoints that are whole or not there: written aside, flushed, checksummed, verified, renamed.

A file is a magic word, the SHA-256 of the payload, and the payload (torch.save, read back with weights_only).
The previous checkpoint is kept until the next one has been verified.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ssl_bench.errors import UserError
from ssl_bench.files import atomic

MAGIC = b"SSLBENCH"
HEAD = len(MAGIC) + 32
NEXT, LAST, PREVIOUS = "next.ckpt", "last.ckpt", "previous.ckpt"  # newest first


class Damaged(Exception):
    """The file is cut short or changed."""


class _Hashing:
    """What torch.save writes, hashed on its way; remembers the disk's error, which torch hides in one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.ckpt`; what was last becomes `previous.ckpt` once the new file has been read back."""
    fresh = folder / NEXT
    for log in folder.glob("*.jsonl"):  # rows before this step must not be younger than the checkpoint on the disk
        _flush(log)
    with atomic(fresh) as file:
        file.write(MAGIC + bytes(32))
        sink = _Hashing(file)
        try:
            torch.save(state, sink)  # type: ignore[arg-type]  # it needs write and flush only
        except RuntimeError:
            if sink.error is None:
                raise
            raise sink.error from None
        file.seek(len(MAGIC))
        file.write(sink.digest.digest())
    with open(fresh, "rb") as written:
        if hasattr(os, "posix_fadvise"):  # read it from the disk, not from memory
            os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written.seek(HEAD)
        if hashlib.file_digest(written, "sha256").digest() != sink.digest.digest():
            raise UserError(f"{fresh} does not read back as it was written: the disk is faulty. {LAST} is intact.")
    _promote(folder)


def _promote(folder: Path) -> None:
    """The verified `next.ckpt` becomes the last, the last the previous."""
    try:
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(folder / NEXT, folder / LAST)
    except OSError as error:
        raise UserError(f"Cannot rename {folder / NEXT} ({error.strerror}). It is whole and will be used.") from error


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def snapshot(state: Any, seen: dict[Any, Tensor] | None = None) -> Any:
    """A copy in host memory that training no longer touches; tensors that share memory go on sharing it."""
    seen = {} if seen is None else seen
    if isinstance(state, dict):
        return {key: snapshot(value, seen) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value, seen) for value in state)
    if not isinstance(state, Tensor):
        return state
    key = (state.data_ptr(), state.shape, state.stride(), state.dtype, state.device)
    if key not in seen:
        seen[key] = torch.empty_like(state, device="cpu", pin_memory=state.is_cuda, requires_grad=False)
        seen[key].copy_(state.detach(), non_blocking=state.is_cuda)
    return seen[key]


class Writer:
    """Writes checkpoints in a thread of its own: training pauses for the copy to host memory only.

    As a context manager it waits for the last write. What goes wrong in the thread is raised by `save` and `wait`.
    """

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self.folder = folder
        self.last = last  # step of the newest checkpoint on the disk, None where there is none
        self.due = False
        self.pool = ThreadPoolExecutor(1, "checkpoint")
        self.running: Future[int] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.wait()
        self.pool.shutdown()

    def ready(self, due: bool) -> bool:
        """Whether to call `save` now: behind a slow disk the next checkpoint waits, and not the training."""
        self.due = self.due or due
        if self.running is None or not self.running.done():
            return self.due and self.running is None
        return self.due or self.running.exception() is not None

    def save(self, state: dict[str, Any]) -> None:
        """Copy the state and begin to write it; a write under way is waited for."""
        self.wait()
        self.due = False
        copied = snapshot(state)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.running = self.pool.submit(self._save, copied)

    def wait(self) -> None:
        """Until the write under way is done."""
        if self.running is not None:
            running, self.running = self.running, None
            self.last = running.result()

    def _save(self, state: dict[str, Any]) -> int:
        save(self.folder, state)
        return int(state["step"])


def read(path: Path) -> dict[str, Any]:
    """The state in one file; `Damaged` where the checksum does not hold. Runs no code from the file."""
    try:
        with open(path, "rb") as file:
            head, payload = file.read(HEAD), io.BytesIO(file.read())
    except OSError as error:
        raise UserError(f"Cannot read the checkpoint {path} ({error.strerror}).") from error
    if head != MAGIC + hashlib.sha256(payload.getbuffer()).digest():
        size = len(head) + payload.getbuffer().nbytes
        raise Damaged(f"{path} is damaged ({size:,} bytes; its checksum does not hold)")
    try:
        refuse_bombs(payload)
        state = torch.load(payload, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds; its checksum holds, so somebody else wrote this
        raise UserError(f"{path} is no checkpoint of ssl-bench, and is refused: {_first(error)}.") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is no checkpoint of ssl-bench: it holds a {type(state).__name__}.")
    return state


def refuse_bombs(file: io.BytesIO | Path) -> None:
    """`ValueError` where a zip archive would unpack to more than its own size: torch.save never compresses."""
    size = len(file.getbuffer()) if isinstance(file, io.BytesIO) else file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("it unpacks to more than its own size, which no checkpoint does")
    if isinstance(file, io.BytesIO):
        file.seek(0)


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200].rstrip('. ')}"


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole state in a run folder (None if there is none) and what to tell the user of damaged files."""
    damaged: list[str] = []
    for name in (NEXT, LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                state = read(folder / name)
            except Damaged as error:
                damaged.append(str(error))
            else:
                return state, [f"{text}; {name} is whole and used instead." for text in damaged]
    return None, [f"{text}; no whole checkpoint is left, the run starts from its first step." for text in damaged]


def resume(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """`load` for the process that goes on writing here.

    It sets damaged files aside, lest one outlive a good one, and ends the renames that a kill has interrupted.
    """
    state, remarks = load(folder)
    for name in (NEXT, LAST, PREVIOUS) if remarks else ():
        try:
            if (folder / name).exists():
                read(folder / name)
        except Damaged:
            with suppress(OSError):
                os.replace(folder / name, folder / f"{name}.damaged")
    if (folder / NEXT).exists():
        _promote(folder)
    return state, remarks
