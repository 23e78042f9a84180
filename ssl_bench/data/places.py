"""Where stores and named sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where stores live: $SSL_BENCH_CACHE, or ~/.cache/ssl-bench."""
    return Path(os.environ.get("SSL_BENCH_CACHE") or Path.home() / ".cache" / "ssl-bench")
