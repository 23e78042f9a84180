"""What the numbers of a finished run rest on, under digests: a file that was changed later is refused, not believed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ssl_bench.errors import UserError
from ssl_bench.training.run_folder import Run


def seal(run: Run, meta: dict[str, Any]) -> dict[str, str]:
    """Digests by file, kept in encoder.json, whose other values are `meta`. What does not change a number is left out:

    the settings `run` of config.json, and of provenance.json all but the data.
    """
    config = {k: v for k, v in run.read_json("config.json").items() if k != "run"}
    told = {
        "config.json": config,
        "compute.json": run.compute(),
        "provenance.json": run.read_json("provenance.json").get("data"),
        "encoder.json": {k: v for k, v in meta.items() if k != "seal"},
    }
    return {name: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest() for name, v in told.items()}


def refuse_changed(run: Run, meta: dict[str, Any]) -> None:
    """`UserError` where a file is not as the run left it; runs from before there was a seal have none to hold to."""
    if "seal" not in meta:
        return
    left = meta["seal"] if isinstance(meta["seal"], dict) else {}
    for name, digest in seal(run, meta).items():
        if left.get(name) != digest:
            raise UserError(f"{run.folder / name} was changed after the run had ended: restore it, or train again.")
