"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ssl_bench.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes `path`'s place, flushed to disk, when the block ends without an error.

    Safe for any number of writers on a shared file system; missing folders are made. `UserError` where the disk is
    full or the folder read-only; what was there before is intact then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk too
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). What was there before is intact.") from error
    finally:
        with suppress(OSError):  # gone where the rename was done; not removable where nothing could be written
            temporary.unlink()


def write_atomic(path: Path, data: bytes | str) -> None:
    """All of `data` at once: a reader sees the old bytes or the new ones, never half. Errors as of `atomic`."""
    with atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sweep(folder: Path, but: str = "") -> None:
    """Remove what killed writers left aside in a folder, except what belongs to the file named `but`."""
    for path in folder.glob(".*.tmp"):
        if not (but and path.name.startswith(f".{but}.")):
            with suppress(OSError):
                path.unlink()


def read_toml(path: Path, most: int = 2**20) -> dict[str, Any]:
    """A TOML file that may come from anybody: bounded in bytes and depth, or refused with a sentence."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UserError(f"'{path}' is larger than {most >> 10} kB, which no file of this kind is.")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UserError(f"Cannot read '{path}' ({error.strerror}).") from None
    except RecursionError:
        raise UserError(f"'{path}' is not valid: it is nested too deeply.") from None
    except ValueError as error:  # not UTF-8, not TOML, a number of thousands of digits
        raise UserError(f"'{path}' is not valid: {str(error)[:200]}.") from None
