"""Where stores and named sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from ssl_bench.errors import UserError


def cache_folder() -> Path:
    """Where stores live: $SSL_BENCH_CACHE, or ~/.cache/ssl-bench."""
    if given := os.environ.get("SSL_BENCH_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "ssl-bench"
    except RuntimeError as error:
        raise UserError("You have no home folder to keep images in: set SSL_BENCH_CACHE to a folder.") from error
