"""What is recorded already: a cell of the matrix is filled by the number of its encoder, data and protocol."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_bench.config.schema import to_dict

if TYPE_CHECKING:
    from results.records import Record

Kind = tuple[str, str, int, str]  # protocol, variant, version, settings as JSON


def missing(protocols: Sequence[str], encoder: tuple[str, int, str], there: set[Any]) -> list[str]:
    """The protocols without a number for this encoder (its name in records, seed, data); `there` from `numbers`."""
    return [protocol for protocol in protocols if (*encoder, *kind(protocol)) not in there]


@functools.cache
def kind(name: str) -> Kind:
    """A protocol as it is now: a number made by another version, or with other settings, is not its number."""
    from ssl_bench.evaluation.protocol import load

    base, _, variant = name.partition(":")
    one = load(name)
    return base, variant, one.version, json.dumps(to_dict(one.config), sort_keys=True)


def kind_of(record: Record) -> Kind:
    """The protocol that made a record."""
    return record.protocol, record.variant, record.protocol_version, json.dumps(record.protocol_config, sort_keys=True)


def numbers(root: Path) -> set[tuple[Any, ...]]:
    """What is recorded already: encoder, pretraining seed, data set, and the protocol's kind."""
    from results.records import read

    folder = root / "records"
    there = read(folder) if folder.is_dir() else []
    return {(r.run or r.encoder["source"], r.seeds["pretrain"] or 0, r.data["name"], *kind_of(r)) for r in there}
