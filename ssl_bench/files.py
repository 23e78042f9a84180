"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ssl_bench.errors import UserError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write aside, flush to disk, rename: a reader sees the old bytes or the new ones, never half.

    Safe for any number of writers on a shared file system; missing folders are made. `UserError` where the disk is
    full or the folder read-only; what was there before is intact then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path} ({error.strerror}). What was there before is intact.") from error
