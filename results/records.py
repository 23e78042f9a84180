"""Records: one JSON object per measured number, complete or refused.

Hundreds of jobs write into one folder, each record into a file of its own (temporary file, fsync, rename), so a
record is there whole or not at all. `collect` folds them into JSON lines. Every record carries a digest over all
its other fields: an edited digit or a torn line is refused by the name of its file.

Accuracies are in percent.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import json
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.errors import UserError
from ssl_bench.files import write_atomic

SCHEMA = 1
# Old schema -> function from its dict to the next schema's. Records of every earlier version stay readable.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

REQUIRED = {  # keys that the dicts of a record must have
    "encoder": (
        *("source", "pooling", "layers", "norm", "image_size", "resize", "interpolation", "mean", "std"),
        *("weights_sha256", "evaluated"),
    ),
    "data": ("name", "fingerprint", "num_train", "num_val", "num_test", "num_classes"),
    "seeds": ("pretrain", "probe", "split"),
    "compute": ("pretrain", "eval"),
    "collapse": ("flag", "reason", "rankme"),
    "code": ("commit", "dirty"),
}
REQUIRED_UNLESS_EMPTY = {"pretrain_data": ("name", "fingerprint"), "optimism": ("usual", "honest", "candidates")}
NESTED: dict[tuple[str, str], tuple[type, ...]] = {  # what tables rely on below the first level
    **{("data", key): (str,) for key in ("name", "fingerprint")},
    **{("data", key): (float, int) for key in ("majority", "imbalance")},  # where the record has them
    ("data", "test_classes"): (int,),
    **{("seeds", key): (int, type(None)) for key in ("pretrain", "probe", "split")},
    **{("optimism", key): (float, int) for key in ("usual", "honest", "candidates")},
    **{("compute", key): (dict,) for key in ("pretrain", "eval")},
    **{("collapse", "flag"): (bool,), ("collapse", "reason"): (str,)},
    **{("code", "commit"): (str,), ("code", "dirty"): (bool,)},
    **{("code", "hash"): (str,), ("code", "modules"): (dict,), ("code", "training"): (dict,)},
}
LARGEST = 1e40  # of any number: no measured quantity is larger, and sums of such numbers still are numbers
BYTES = 2**28  # of one file of records


def accuracy(headline: str) -> bool:
    """Whether it is the mean of the correctness bits, in percent; `top1 (6 per class)` is too."""
    return headline.partition(" (")[0] in ("top1", "accuracy")


@dataclass(frozen=True)
class Record:
    """One measured number and everything it came from."""

    id: str  # hash of what identifies the number: see `identify`
    method: str
    recipe: str
    overrides: list[str]
    identity: str  # of the pretraining config; includes its seed
    config: dict[str, Any]
    run: str
    encoder: dict[str, Any]
    protocol: str
    variant: str
    protocol_version: int
    protocol_config: dict[str, Any]
    selected: dict[str, Any]
    data: dict[str, Any]
    pretrain_data: dict[str, Any]  # {} where nothing was trained
    seeds: dict[str, Any]  # pretrain (None: deterministic, as raw pixels are), probe, split
    headline: str
    metrics: dict[str, float]
    higher_is_better: bool
    optimism: dict[str, Any]
    correct: str  # base64 of np.packbits over the test images, "" where there is none
    correct_sha256: str
    compute: dict[str, Any]
    collapse: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, Any]
    created: str  # UTC, ISO 8601
    schema: int = SCHEMA

    @property
    def value(self) -> float:
        """The headline number."""
        return float(self.metrics[self.headline])

    def bits(self) -> np.ndarray | None:
        """One bool per test image, or None."""
        return unpack(self.correct, int(self.data["num_test"])) if self.correct else None


def make(*, correct: Any = None, **fields: Any) -> Record:
    """A checked record; id, schema, digest of the bits and (unless given) the time are filled in.

    `correct`: one bool per test image, or None.
    """
    fields["correct"] = "" if correct is None else pack(correct)
    fields["correct_sha256"] = sha(fields["correct"]) if fields["correct"] else ""
    fields.setdefault("created", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    fields["schema"] = SCHEMA
    fields["id"] = ""
    if missing := sorted({f.name for f in dataclasses.fields(Record)} - set(fields)):
        raise UserError(f"The record is incomplete: {', '.join(missing)} missing.")
    fields["id"] = identify(fields)
    return from_dict(fields, "the new record")


def identify(fields: dict[str, Any]) -> str:
    """Twenty hex digits over what makes this number this number: evaluating the same thing again gives the same id."""
    encoder = {k: v for k, v in fields["encoder"].items() if k not in ("source", "evaluated")}
    names = ("method", "identity", "protocol", "variant", "protocol_version", "protocol_config", "seeds")
    return sha(_canonical([encoder, fields["data"].get("fingerprint"), *(fields[n] for n in names)]))[:20]


def pack(correct: Any) -> str:
    """Base64 of one bit per image."""
    bits = np.asarray(correct)
    if bits.ndim != 1 or not np.isin(bits, (0, 1)).all():
        raise UserError("The correctness of a record is one bool per test image.")
    return base64.b64encode(np.packbits(bits.astype(bool)).tobytes()).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """The inverse of `pack` for `count` images."""
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"{len(packed)} bytes of correctness bits do not fit {count} test images")
    return np.unpackbits(packed, count=count).astype(bool)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def to_dict(record: Record) -> dict[str, Any]:
    """Plain values plus `digest`, the hash over all of them."""
    values = dataclasses.asdict(record)
    return {**values, "digest": sha(_canonical(values))}


def dumps(record: Record) -> str:
    """One line of JSON."""
    return _canonical(to_dict(record))


def from_dict(values: Any, where: str = "the record") -> Record:
    """A validated record. Raises `UserError` naming `where`."""
    try:
        return _from_dict(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise UserError(f"{where} is not a valid record: {error}.") from None


def _from_dict(values: Any) -> Record:
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    values = json.loads(_canonical(values))  # a copy of plain JSON types: tuples become lists; NaN is refused here
    digest = values.pop("digest", None)
    if digest is not None and digest != sha(_canonical(values)):
        raise ValueError("its digest does not match its content; it was edited or damaged")
    schema = values.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ValueError(f"its schema is {schema!r} and this version reads up to {SCHEMA}; update ssl-bench")
    while values["schema"] < SCHEMA:
        if values["schema"] not in MIGRATIONS:
            raise ValueError(f"there is no way to read schema {values['schema']}")
        values = MIGRATIONS[values["schema"]](values)
    hints = typing.get_type_hints(Record)
    if set(values) != set(hints):
        odd = sorted(set(values) ^ set(hints))
        raise ValueError(f"these fields are missing or unknown: {', '.join(odd)}")
    for name, kind in hints.items():
        _check_type(name, values[name], typing.get_origin(kind) or kind)
    record = Record(**values)
    _check(record)
    return record


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be {kind.__name__}, it is {type(value).__name__}")


def _check(record: Record) -> None:
    for name, keys in {**REQUIRED, **REQUIRED_UNLESS_EMPTY}.items():
        found = getattr(record, name)
        if missing := [k for k in keys if k not in found and (found or name in REQUIRED)]:
            raise ValueError(f"{name} lacks {', '.join(missing)}")
    for (name, key), kinds in NESTED.items():
        value = getattr(record, name).get(key)
        if key in getattr(record, name) and (not isinstance(value, kinds) or (kinds[0] is int and value is True)):
            raise ValueError(f"{name}.{key} must be {kinds[0].__name__}, it is {type(value).__name__}")
    for digests in (record.code.get("modules", {}), record.code.get("training", {}).get("modules", {})):
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise ValueError("code.modules must name each module's digest")
    _check_sizes([record.metrics, record.optimism, record.compute, record.config, record.data])
    for name in ("method", "protocol", "headline"):
        if not getattr(record, name).strip():
            raise ValueError(f"{name} is empty")
    for name, value in record.metrics.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"metrics.{name} is not a finite number")
    if record.headline not in record.metrics:
        raise ValueError(f"the headline '{record.headline}' is not among the metrics ({', '.join(record.metrics)})")
    for name in ("num_test", "num_classes"):
        if not isinstance(record.data[name], int) or record.data[name] < 0:
            raise ValueError(f"data.{name} must be a whole number")
    if datetime.datetime.fromisoformat(record.created).utcoffset() != datetime.timedelta(0):
        raise ValueError(f"created='{record.created}' is not a UTC time")
    if record.correct_sha256 != (sha(record.correct) if record.correct else ""):
        raise ValueError("correct_sha256 does not match the correctness bits")
    bits = record.bits()
    if bits is not None and accuracy(record.headline) and abs(100 * bits.mean() - record.value) > 1e-3:
        raise ValueError(
            f"{record.headline}={record.value:g} but {100 * bits.mean():.4f} % of the correctness bits are set "
            "(accuracies are in percent)"
        )
    if record.id != identify(dataclasses.asdict(record)):
        raise ValueError("its id does not match what it identifies")


def _check_sizes(value: Any) -> None:
    """No number that a table could not add up."""
    if isinstance(value, (dict, list)):
        for entry in value.values() if isinstance(value, dict) else value:
            _check_sizes(entry)
    elif isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise ValueError("it holds a number beyond any measured quantity")


def write(record: Record, folder: str | Path) -> Path:
    """One file per record, named by its id. It appears whole or not at all, also after a crash of the machine."""
    path = Path(folder) / f"{record.id}.json"
    write_atomic(path, dumps(record) + "\n")
    return path


def read(source: str | Path) -> list[Record]:
    """All records of a folder (`*.json` and `*.jsonl`) or of one file, sorted by id. Damaged ones raise `UserError`."""
    source = Path(source)
    if not source.exists():
        raise UserError(f"There are no records at '{source}'. Evaluate a run first: ssl-bench eval --protocol linear.")
    files = sorted(p for p in source.iterdir() if _is_record_file(p)) if source.is_dir() else [source]
    return unique(record for file in files for record in _read_file(file))


def _is_record_file(path: Path) -> bool:
    return path.suffix in (".json", ".jsonl") and not path.name.startswith(".")


def _read_file(path: Path) -> Iterable[Record]:
    try:
        if path.stat().st_size > BYTES:
            raise UserError(f"'{path}' is not a valid record: it is larger than {BYTES >> 20} MB.")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is not a valid record: it is not UTF-8 text.") from None
    lines = text.split("\n") if path.suffix == ".jsonl" else [text]
    for number, line in enumerate(lines, 1):
        where = f"'{path}', line {number}," if path.suffix == ".jsonl" else f"'{path}'"
        if not line.strip() and path.suffix == ".jsonl":
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not a valid record: it is not JSON (cut off?).") from None
        if isinstance(values, dict) and values.get("schema") == SCHEMA and "digest" not in values:
            raise UserError(f"{where} is not a valid record: its digest is missing.")
        yield from_dict(values, where)


def unique(found: Iterable[Record]) -> list[Record]:
    """One record per id (the newest; of equally new ones always the same), sorted by id."""
    newest: dict[str, Record] = {}
    for record in found:
        other = newest.setdefault(record.id, record)
        if record is not other and _beats(record, other):
            newest[record.id] = record
    return [newest[key] for key in sorted(newest)]


def _beats(record: Record, other: Record) -> bool:
    if record.created != other.created:
        return record.created > other.created
    return record != other and dumps(record) > dumps(other)
