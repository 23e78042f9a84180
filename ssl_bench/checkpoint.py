"""Checkpoints that are whole or not there: written aside, flushed, checksummed, verified, renamed.

A file is a magic word, the SHA-256 of the payload, and the payload (torch.save, read back with weights_only).
The previous checkpoint is kept until the next one has been verified.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from ssl_bench.errors import UserError
from ssl_bench.files import write_atomic

MAGIC = b"SSLBENCH"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Damaged(Exception):
    """The file is cut short or changed."""


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.ckpt`; what was last becomes `previous.ckpt` once the new file has been read back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).digest()
    fresh = folder / "next.ckpt"
    write_atomic(fresh, MAGIC + digest + payload)
    if hashlib.sha256(fresh.read_bytes()[len(MAGIC) + 32 :]).digest() != digest:
        raise UserError(f"{fresh} does not read back as it was written: the disk is faulty. {LAST} is intact.")
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(fresh, folder / LAST)


def read(path: Path) -> dict[str, Any]:
    """The state in one file; `Damaged` where the checksum does not hold. Runs no code from the file."""
    data = path.read_bytes()
    head = len(MAGIC) + 32
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[head:]).digest() != data[len(MAGIC) : head]:
        raise Damaged(f"{path} is damaged ({len(data):,} bytes; its checksum does not hold)")
    return torch.load(io.BytesIO(data[head:]), weights_only=True, map_location="cpu")


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole state in a run folder (None if there is none) and what to tell the user of damaged files."""
    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                state = read(folder / name)
            except Damaged as error:
                damaged.append(str(error))
            else:
                return state, [f"{text}; {name} is whole and used instead." for text in damaged]
    return None, [f"{text}; no whole checkpoint is left, the run starts from its first step." for text in damaged]
