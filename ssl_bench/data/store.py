"""The store: a set's images decoded to uint8 pixels, or packed as they are, built once and shared by all jobs.

Every image is decoded once while building, whichever the store: unreadable ones are found, and order, fingerprint,
moments and duplicates come from the decoded pixels. So both stores, and any source, give the same data set.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_bench.config.schema import DataConfig, size_text, to_dict
from ssl_bench.config.sound import MelConfig
from ssl_bench.data import registry
from ssl_bench.data.digest import digest
from ssl_bench.data.items import asked
from ssl_bench.data.places import cache_folder
from ssl_bench.data.store_build import Build
from ssl_bench.errors import UserError
from ssl_bench.files import write_atomic

VERSION = 9  # 9: encoded images over the background asked for; 1 and 1.0 are one group, fold and class
KINDS = ("decoded", "encoded")
DECODED_LIMIT = 20e9  # bytes: sets that take more when decoded are packed as they are
BAD_LIMIT = 0.001  # share of unreadable images above which a set is refused


def ensure(config: DataConfig, kind: str = "auto") -> Path:
    """The folder of a finished store; built first where it is not there, together with whoever else needs it."""
    source = registry.find(config.name)
    if found := _built(places := _places(config, source.state), kind):
        return found
    name, items = config.name, asked(config, source.kind)
    content = source.content()
    if not content.count:
        said = " ".join(["They are looked for in class folders.", *content.notes])
        known = "" if items.known() in said else f" {items.known()}"
        raise UserError(f"No {items.noun} in '{name}'.{known} {said}")
    decoded = content.count * items.nbytes
    kind = kind if kind != "auto" else "decoded" if decoded <= DECODED_LIMIT else "encoded"
    try:
        _room(places[kind], decoded if kind == "decoded" else content.encoded_bytes)
        Build(places[kind], config, items, kind, content).run()
    except OSError as error:
        raise UserError(
            f"Cannot write the image store to {places[kind].parent} ({error.strerror or error}). "
            "Set SSL_BENCH_CACHE to a folder with space that you may write to."
        ) from error
    return places[kind]


def there(config: DataConfig) -> Path | None:
    """The folder of a finished store of the set as it is now; None where it has to be built first."""
    return _built(_places(config, registry.find(config.name).state), "auto")


def _places(config: DataConfig, state: Sequence[tuple[str, int, int]]) -> dict[str, Path]:
    """Where the stores of this state of a set lie: everything that decides their pixels is in the folder's name."""
    home = os.getcwd() if state and os.path.exists(state[0][0]) and not os.path.isabs(state[0][0]) else ""
    asked_for = to_dict(replace(config, val_fraction=DataConfig.val_fraction))  # no pixel depends on the share
    facts = [VERSION, asked_for, home, state, digest(state)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return {k: cache_folder() / "stores" / f"{key}-{k}" for k in KINDS}


def _built(places: dict[str, Path], kind: str) -> Path | None:
    return next((places[k] for k in KINDS if kind in ("auto", k) and (places[k] / "meta.json").exists()), None)


def _room(folder: Path, needed: float) -> None:
    """Refuse before hours of work what cannot fit."""
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if fresh and needed > (free := shutil.disk_usage(folder).free):
        folder.rmdir()
        raise OSError(f"the store needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")


def accept(folder: Path, meta: dict[str, Any], limit: float = BAD_LIMIT) -> None:
    """Refuse a set with too many unreadable images. A higher limit, once given, holds for this state of the set."""
    bad, total, given = len(meta["bad"]), meta["images"], folder / "bad_limit"
    share = bad / total
    if share > limit:
        limit = max(limit, float(given.read_text()) if given.exists() else 0.0)
    elif share > BAD_LIMIT:
        write_atomic(given, str(limit))
    if share > limit:
        shown = "; ".join(f"{place}: {why}" for place, why in meta["bad"][:2]) + "; ..." * (bad > 2)
        once = f"ssl-bench data check {shlex.quote(meta['name'])}{settings(meta['asked'])}"
        raise UserError(
            f"{bad} of {total} images of '{meta['name']}' cannot be read: {shown} (all of them: {folder / 'bad.txt'}). "
            f"That is {share:.2%}, more than run.bad_limit={limit:g}. Mend or remove them; or leave them out, in every "
            f"run on this set: {once} --bad-limit {math.ceil(1000 * share) / 1000:g}"
        )


def settings(asked_for: dict[str, Any]) -> str:
    """What was asked for beside the name and the usual, as it is typed after a command."""
    usual = to_dict(DataConfig())
    fresh = {k: v for k, v in asked_for.items() if k not in ("name", "val_fraction") and v != usual.get(k)}
    fresh |= {f"mel.{k}": v for k, v in fresh.pop("mel", {}).items() if v != getattr(MelConfig, k)}
    typed = {
        k: size_text(v) if k == "image_size" else ",".join(map(str, v)) if isinstance(v, list) else v
        for k, v in fresh.items()
    }
    return "".join(f" data.{key}={value}" for key, value in typed.items())
