"""From records to rows, columns and cells: what belongs together, and under which name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from results.parts import REFERENCES, UNTRAINED, Column
from results.records import Record, accuracy, sha
from ssl_bench import find


@dataclass(frozen=True)
class Group:
    """The records of one row."""

    label: str
    method: str
    recipe: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def reference(self) -> bool:
        return self.labels_seen or self.method in (*REFERENCES, *UNTRAINED)

    @property
    def labels_seen(self) -> bool:
        """Whether a run of it was pretrained with labels; records older than that field know `supervised` alone."""
        return any(r.pretrain_data.get("labels_seen", r.method == "supervised") for r in self.records)


def text_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in names}


def newest(records: Sequence[Record]) -> list[Record]:
    """One record per run, protocol and seeds: a run trained again (same config and seed) replaces the old one, with all
    that other probe seeds measured on it.
    """
    kept = [same[-1] for same in _measured_again(records)]
    weights = {_key(r, r.seeds["pretrain"]): r.encoder["weights_sha256"] for r in sorted(kept, key=_age)}
    return sorted(
        (r for r in kept if r.encoder["weights_sha256"] == weights[_key(r, r.seeds["pretrain"])]), key=lambda r: r.id
    )


def repeats(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The numbers of runs that were trained again with the same config and seed, each with the one it replaces."""
    pairs = [pair for same in _measured_again(records) for pair in pairwise(same)]
    return [(old, new) for old, new in pairs if old.encoder["weights_sha256"] != new.encoder["weights_sha256"]]


def _measured_again(records: Sequence[Record]) -> list[list[Record]]:
    """Records of the same run, protocol and seeds, from the oldest to the newest."""
    out: dict[str, list[Record]] = {}
    for r in sorted(records, key=_age):
        out.setdefault(_key(r, r.seeds), []).append(r)
    return list(out.values())


def _age(r: Record) -> tuple[str, str]:
    return r.created, r.id


def _key(r: Record, seeds: Any) -> str:
    known = text_of(_without(_trained(r), "run")) if r.method in UNTRAINED and r.config else r.identity
    who = known or r.encoder["weights_sha256"]
    return text_of([r.method, r.recipe, sorted(r.overrides), who, column_key(r), seeds, _reading(r)])


def _trained(r: Record) -> dict[str, Any]:
    """Its config; where nothing was learned from the images their name is left out: the same row on every set."""
    if r.method not in UNTRAINED or not isinstance(data := r.config.get("data"), dict):
        return r.config
    return {**r.config, "data": _without(data, "name")}


def column_key(r: Record) -> str:
    """Numbers with different keys are not comparable: another data set, version or setting of the protocol."""
    kind = [r.protocol, r.variant, r.protocol_version, r.protocol_config]
    return text_of([r.data["name"], *kind, r.data["fingerprint"], r.headline])


def kind(column: Column) -> str:
    """What a column measures, whatever the images: its key without their name and fingerprint."""
    _, *protocol, _, headline = json.loads(column.key)
    return text_of([*protocol, headline])


def columns(records: Sequence[Record]) -> list[Column]:
    """All columns, in a fixed order, with labels as short as can be told apart."""
    first = {column_key(r): r for r in reversed(records)}
    many = len({r.data["name"] for r in records}) > 1
    configs: dict[str, list[dict[str, str]]] = {}
    for r in first.values():
        configs.setdefault(_name(r, many), []).append(flat(r.protocol_config))
    long = {
        key: [
            *(name := _name(r, many), f"v{r.protocol_version}", r.headline),
            *(_set(flat(r.protocol_config), configs[name]), f"#{sha(key)[:4]}"),
        ]
        for key, r in first.items()
    }
    labels = _shortest(long)
    chance: dict[str, float | None] = dict.fromkeys(first)
    for r in records:
        if accuracy(r.headline) and "majority" in r.data:
            chance[column_key(r)] = float(r.data["majority"])
    return [
        Column(
            *(labels[key], key, r.protocol, r.variant, r.protocol_version, r.data["name"], r.data["fingerprint"]),
            *(r.headline, r.higher_is_better, r.data["num_test"], r.data["num_classes"], chance[key]),
        )
        for key, r in sorted(first.items())
    ]


def _name(r: Record, many: bool) -> str:
    own = " (own scorer)" if own_scorer(r) else ""
    return r.protocol + (f" {r.variant}" if r.variant else "") + own + (f" · {r.data['name']}" if many else "")


def _set(mine: dict[str, str], others: Sequence[dict[str, str]]) -> str:
    """The settings of a protocol in which its columns differ; one that a column does not know is at its default."""
    return ", ".join(f"{n}={v}" for n, v in sorted(mine.items()) if any(c.get(n) != v for c in others))


def own_scorer(r: Record) -> bool:
    """Whether a protocol's own code, and not the harness's, turned predictions and labels into this number."""
    return r.compute["eval"].get("scorer") == "own"


def _shortest(parts: dict[str, list[str]]) -> dict[str, str]:
    """For each key, its first part plus as many of the others as make it unique."""
    out = {}
    for key, mine in parts.items():
        rivals = [other for k, other in parts.items() if k != key and other[0] == mine[0]]
        label = [mine[0]]
        for i in range(1, len(mine)):
            if rivals and any(r[i] != mine[i] for r in rivals):
                label.append(mine[i])
                rivals = [r for r in rivals if r[i] == mine[i]]
        out[key] = " ".join(x for x in label if x)
    return out


def groups(records: Sequence[Record]) -> list[Group]:
    """All rows. Equal method, recipe, overrides and config (but for the seed); split where one encoder was read in
    several ways (pooling, layers ...) under the same protocol.
    """
    found: dict[str, list[Record]] = {}
    for r in records:
        config = _without(_trained(r), "seed", "run")
        data = r.pretrain_data.get("fingerprint", "")
        found.setdefault(text_of([r.method, r.recipe, sorted(r.overrides), config, data]), []).append(r)
    split: dict[tuple[str, str], list[Record]] = {}
    varied: dict[tuple[str, str], str] = {}
    for key, members in found.items():
        names = _varying(members)
        for r in members:
            reading = ", ".join(f"{n}={r.encoder.get(n)}" for n in names)
            split.setdefault((key, reading), []).append(r)
            varied[(key, reading)] = reading
    families: dict[str, list[dict[str, str]]] = {}
    for m in split.values():
        families.setdefault(f"{m[0].method}/{m[0].recipe}", []).append(flat(m[0].config))
    parts = {}
    for pair, m in split.items():
        about = [
            find.row_name(m[0].method, m[0].config.get("objective", {})),
            m[0].recipe,
            f"v{version(m[0])}",
            ", ".join(sorted(m[0].overrides)),
            varied[pair],
        ]
        settings = _differences(flat(m[0].config), families[f"{m[0].method}/{m[0].recipe}"])
        parts[text_of(pair)] = [*about, settings, f"#{sha(pair[0])[:4]}"]
    labels = _shortest(parts)
    return [
        Group(
            *(labels[text_of(key)], m[0].method, m[0].recipe, tuple(sorted(m[0].overrides))),
            *(_without(m[0].config, "seed", "run"), tuple(m)),
        )
        for key, m in sorted(split.items())
    ]


def version(r: Record) -> int:
    """Of the method that trained it; records from before there were any are of version 1."""
    found = r.config.get("method_version", 1)
    return found if isinstance(found, int) else 1


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"optim.lr": "0.001"}`, without what differs between seeds or changes nothing."""
    out: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        elif prefix + key not in ("seed", "recipe", "method_version") and not prefix.startswith("run."):
            out[prefix + key] = f"{value:g}" if isinstance(value, float) else str(value)
    return out


def _differences(mine: dict[str, str], others: Sequence[dict[str, str]]) -> str:
    """The settings in which rows of one recipe differ, as overrides; at most three."""
    names = sorted({k for c in others for k in c.keys() | mine.keys() if c.get(k) != mine.get(k)})
    phrases = [f"{n}={mine[n]}" for n in names if n in mine and not n.startswith("backbone.")][:3]
    if any(n.startswith("backbone.") for n in names):
        get = {n: mine.get(f"backbone.{n}", "?") for n in ("depth", "embed_dim", "patch_size")}
        phrases.insert(0, "ViT {depth}x{embed_dim}/{patch_size}".format(**get))
    return ", ".join(phrases)


def trained_as(group: Group) -> str:
    """What makes it the same row on another set, whatever images, network and budget."""
    config = {name: group.config.get(name) for name in ("objective", "optim")}
    return sha(text_of([group.method, version(group.records[0]), config]))[:12]


def _reading(r: Record) -> dict[str, Any]:
    """How the encoder was read: pooling, layers, norm, size ..."""
    return _without(r.encoder, "source", "evaluated", "weights_sha256")


def _varying(members: Sequence[Record]) -> list[str]:
    """The encoder settings that differ between records of one column and seed set."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for r in members:
        seen.setdefault(text_of([column_key(r), r.seeds]), []).append(_reading(r))
    names = {n for many in seen.values() for s in many for n in s if any(o.get(n) != s[n] for o in many)}
    return sorted(names)


def budget(config: dict[str, Any]) -> str:
    """The budget of a run's config in words; different budgets have different words, however close they are."""
    found = config.get("budget")
    given: dict[str, Any] = found if isinstance(found, dict) else {}
    for name in ("steps", "epochs", "images", "flops", "hours"):
        amount = given.get(name)
        if amount and isinstance(amount, (int, float)):
            number = f"{amount:.3g}" if amount >= 1e7 or name == "hours" else f"{amount:,.0f}"
            exact = number if float(number.replace(",", "")) == amount else f"{amount:.15g}"
            unit = {"flops": "FLOPs"}.get(name, name)
            return f"{exact} {unit}, batch {given.get('batch_size', '?')}"
    return ""


def network(config: dict[str, Any]) -> str:
    """The backbone and its input: a run's untrained row is the `random` with the same. "" for other people's."""
    size = data.get("image_size") if isinstance(data := config.get("data"), dict) else None
    return text_of([config["backbone"], size]) if config.get("backbone") else ""
