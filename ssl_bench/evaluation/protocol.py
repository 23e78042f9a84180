"""What a protocol is: it fits on parts of the training split and returns a predictor. It never sees a test label.

Shapes: N images, L layers (the last ones, oldest first), D width, T tokens, C classes.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from ssl_bench import find
from ssl_bench.config.bounds import refuse_impossible
from ssl_bench.config.overrides import override
from ssl_bench.data.factors import Factor
from ssl_bench.data.places import cache_folder
from ssl_bench.data.world import World
from ssl_bench.errors import UserError, nearest
from ssl_bench.evaluation import map_scorers, scorers, seal, text_scorers, world_scorers
from ssl_bench.rng import mix

Key = tuple[str, str]  # (layers, pooling): ("last" | "last4", "cls" | "mean" | "both")


class Source(Interface):
    """Anything fetched by index: images of a store, or tokens held in memory or computed when asked for."""

    def __len__(self) -> int: ...
    def batch(self, indices: np.ndarray) -> Tensor: ...


@dataclass(frozen=True)
class Rows:
    """Rows of several sources as one source."""

    sources: tuple[Source, ...]
    index: np.ndarray  # int64 [N], positions in the sources laid end to end

    @staticmethod
    def of(*sources: Source) -> Rows:
        return Rows(sources, np.arange(sum(len(s) for s in sources)))

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: np.ndarray) -> Tensor:
        rows, parts, start = self.index[np.asarray(indices)], [], 0
        order = np.empty(len(rows), np.int64)
        filled = 0
        for source in self.sources:
            here = np.flatnonzero((rows >= start) & (rows < start + len(source)))
            if len(here):
                parts.append(source.batch(rows[here] - start))
                order[here] = np.arange(filled, filled + len(here))
                filled += len(here)
            start += len(source)
        return torch.cat(parts)[torch.from_numpy(order)] if len(parts) > 1 else parts[0]


def combine(pooled: dict[str, Tensor], key: Key) -> Tensor:
    """One feature vector per image [N, D'] from `pooled` [N, L, D]; "cls_mean": CLS of the layers, mean of the last."""
    layers, pooling = key
    if pooling == "cls_mean":
        return torch.cat([combine(pooled, (layers, "cls")), pooled["mean"][:, -1]], 1)
    parts = [pooled[p] for p in (("cls", "mean") if pooling == "both" else (pooling,))]
    return torch.cat([p[:, -1] if layers == "last" else p.flatten(1) for p in parts], 1)


@dataclass(frozen=True)
class Features:
    """One part of a data set as a protocol sees it. On the test part `labels` is empty.

    `x["last", "mean"]` is [N, D]; `x["last4", "both"]` is [N, 4 * 2D]: CLS of each layer, then means of each layer.
    """

    labels: Tensor  # int64 [N], or [0] on the test part
    num_classes: int
    pooling: str  # the token the encoder was made for: cls or mean
    pooled: dict[str, Tensor]  # "mean" and, where there is one, "cls": fp32 [N, L, D], each after the final norm
    items: Rows  # uint8 [B, C, H, W] by index
    tokens: Rows | None = None  # patch tokens of the last layer [B, T, D] by index, for input = "tokens"
    encoder: Any = None  # ssl_bench.encoders.Encoder, for input = "images"
    targets: Tensor | None = None  # fp32 [N, F] of a set with known factors; None on the test part
    files: np.ndarray | None = None  # bytes [N], file names in the source, where it has them; None on the test part
    device: torch.device = torch.device("cpu")  # where heads are trained: the encoder's; features lie in memory
    factors: tuple[Factor, ...] = ()  # what the targets are; of trajectories: those of each frame
    masks: Tensor | None = None  # uint8 [N, H, W] of a set with masks: classes, 255 is void; None on the test part
    mask_classes: tuple[str, ...] = ()
    grid: tuple[int, ...] = ()  # of the tokens; () where there is no network
    covered: tuple[float, float] = (1.0, 1.0)  # share of an item's height and width that the network sees, its centre
    raw: Rows | None = None  # whole trajectories by index, for input = "world"; `items` are their first frames
    world: World | None = None  # that they were made in
    kind: Any = None  # data.trajectories.Trajectories: takes `raw` apart
    flows: Rows | None = None  # fp32 [N, 2, H, W] by index, motion from the first frame to the second; None on the test
    sealed: bool = False  # the test part: only then are the sealed episodes of a world asked for

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Tensor:
        return combine(self.pooled, key)

    def block(self, key: Key, rows: slice) -> Tensor:
        """`x[key][rows]`, without making the rest."""
        return combine({name: value[rows] for name, value in self.pooled.items()}, key)

    @property
    def own(self) -> Tensor:
        """[N, D]: the last layer in the encoder's own pooling."""
        return self["last", self.pooling]

    @property
    def keys(self) -> list[Key]:
        """Every (layers, pooling) this encoder has."""
        poolings = ["cls", "mean", "both"] if "cls" in self.pooled else ["mean"]
        depth = ["last", "last4"] if self.pooled["mean"].shape[1] > 1 else ["last"]
        return [(layers, pooling) for layers in depth for pooling in poolings]

    def take(self, index: Tensor) -> Features:
        """The rows `index` [n]."""
        rows = index.numpy()
        return replace(
            self, labels=self.labels[index], pooled={k: v[index] for k, v in self.pooled.items()},
            items=replace(self.items, index=self.items.index[rows]),
            tokens=self.tokens and replace(self.tokens, index=self.tokens.index[rows]),
            raw=self.raw and replace(self.raw, index=self.raw.index[rows]),
            targets=None if self.targets is None else self.targets[index],
            files=None if self.files is None else self.files[rows],
            masks=None if self.masks is None else self.masks[index],
            flows=self.flows and replace(self.flows, index=self.flows.index[rows]),
        )  # fmt: skip

    def bare(self) -> Features:
        """The images without anything that is known of them."""
        return replace(self, labels=self.labels.new_empty(0), targets=None, files=None, masks=None, flows=None)

    def __add__(self, other: Features) -> Features:
        """Both parts as one."""
        tokens = Rows.of(self.tokens, other.tokens) if self.tokens and other.tokens else None
        both = {n: [getattr(x, n) for x in (self, other)] for n in ("targets", "masks", "files")}
        known, masked, named = ([v for v in values if v is not None] for values in both.values())
        return replace(
            self, labels=torch.cat([self.labels, other.labels]), tokens=tokens,
            targets=torch.cat(known) if len(known) == 2 else None,
            masks=torch.cat(masked) if len(masked) == 2 else None,
            files=np.concatenate(named) if len(named) == 2 else None,
            items=Rows.of(self.items, other.items),
            raw=Rows.of(self.raw, other.raw) if self.raw and other.raw else None,
            flows=Rows.of(self.flows, other.flows) if self.flows and other.flows else None,
            pooled={k: torch.cat([v, other.pooled[k]]) for k, v in self.pooled.items()},
        )  # fmt: skip


class Predictor:
    """What `fit` returns. `evaluate.py` calls it once on the test part, which has no labels."""

    selected: dict[str, Any]  # hyperparameters chosen on the validation part
    measured: dict[str, float]  # metrics that need no test image (label-free ones)
    true_names: dict[str, str]  # metrics that are less than their name says: shots10 -> shots10 (6 per class)

    def __init__(self) -> None:
        self.selected, self.measured, self.true_names = {}, {}, {}

    def predict(self, x: Features) -> Tensor:
        """Whatever the protocol's scorer reads; by default scores [N, C]."""
        raise NotImplementedError

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        """(name, classes [N]) of every setting tried, fitted like the chosen one: the usual practice picks here."""
        yield from ()


class Protocol:
    """Base of every protocol. The annotation of `config` is its frozen dataclass of settings."""

    version: int = 1  # raised whenever a number could change, with the reason under "Changes"
    input: Literal["features", "tokens", "images", "world"] = "features"
    headline: str = "top1"
    higher_is_better: ClassVar[bool] = True
    scorer: scorers.Scorer = scorers.Classification()  # one of the harness's; another, or a `score`, is marked
    scores: ClassVar[Literal["labels", "targets", "masks", "flows"]] = "labels"  # of the test images, for the scorer
    votes: bool = False  # takes films in segments as they are, and gives logits, by which crops of one film can vote
    record_candidates: ClassVar[bool] = False  # also record every candidate's accuracy among the metrics
    only: str = ""  # the kind of item it takes, or several with blanks between; "": any
    factor: ClassVar[str] = ""  # what must be known of each item; "": see `scores`
    frozen: ClassVar[bool] = True  # leaves the encoder as it is, and so belongs to `all`
    needs_predictor: bool = False  # of an encoder with a predictor beside it, as few have: no part of `all`

    config: Any

    def __init__(self, config: Any) -> None:
        self.config = config
        refuse_impossible(f"{type(self).__module__.removeprefix('protocols.')}.", config)
        if hasattr(config, "check"):  # settings that contradict each other are told before any work
            config.check()

    def fit(self, train: Features, val: Features, seed: int) -> Predictor:
        """Choose on `val`, refit on both, return the predictor. Both are parts of the training split."""
        raise NotImplementedError

    def outcomes(self, x: Features) -> int:
        """Classes among which it decides."""
        return len(x.mask_classes) if self.scores == "masks" else x.num_classes

    def classes(self, output: Tensor) -> Tensor | None:
        """The predicted class of each test image [N], for the record's correctness bits; None where there is none."""
        return output.argmax(1)

    def score(self, output: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
        """Metrics, accuracies in percent, of the predictor's output. Who writes another has an own scorer."""
        return self.scorer(output, labels, num_classes)

    @property
    def controlled(self) -> bool:
        """Whether its headline is also given of changed test items, such as clips of one frame (`Kind.controls`)."""
        return isinstance(self.scorer, (scorers.Classification, scorers.Votes)) and not self.own_scorer

    @property
    def own_scorer(self) -> bool:
        """Whether the numbers come from the protocol's own code: the record and the table say so."""
        known = (*scorers.HARNESS, *map_scorers.MAPS, *world_scorers.WORLDS, *text_scorers.TEXTS)
        return type(self).score is not Protocol.score or type(self.scorer) not in known


def refuse_idle(config: Any, why: str, *names: str) -> None:
    """No setting is silently ignored: those `names` must have their usual values, as they have no effect `why`."""
    for name in names:
        if (value := getattr(config, name)) != getattr(type(config)(), name):
            raise UserError(f"{name}={value} has no effect {why}.")


def members(labels: Tensor, num_classes: int, draw: int) -> list[Tensor]:
    """The images of each class in an order that depends on `draw` alone; few-shot sets are the first ones of each."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix("lowshot", draw)))
    return [order[labels[order] == c] for c in range(num_classes)]


def given(labels: Tensor, num_classes: int, shots: int) -> str:
    """Images per class where a class has fewer than `shots`: `6`, or `6-10` where some have more; "" if all have."""
    counts = labels.bincount(minlength=num_classes).clamp(max=shots)
    low, high = int(counts.min()), int(counts.max())
    return "" if low == shots else f"{low}" if low == high else f"{low}-{high}"


def variants(module: Any) -> dict[str, Callable[[], Any]]:
    """The recipe functions of a protocol's file: public, without arguments, returning its config."""
    kind = typing.get_type_hints(find.defined(module, Protocol))["config"]
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if inspect.get_annotations(value).get("return") in (kind, kind.__name__)
    }


def expand(names: Iterable[str]) -> list[str]:
    """Each name once, with `all` as every frozen protocol of protocols/: features first, then tokens, then images."""
    order = ("features", "tokens", "images", "world")
    out: dict[str, None] = {}
    for name in names:
        known = find.names("protocols") if name == "all" else []
        kinds = {n: find.defined(find.module("protocols", n), Protocol) for n in known}
        usual = {n: k for n, k in kinds.items() if k.frozen and k.scores == "labels"}  # few sets have what others need
        usable = [n for n, k in usual.items() if not k.only and not k.needs_predictor]
        frozen = sorted(usable, key=lambda n: order.index(kinds[n].input))
        out |= dict.fromkeys(frozen if known else [name])
    return list(out)


def assign(names: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each protocol: `epochs=5` is for all, `linear.strengths=9` for `linear` and its variants."""
    out: dict[str, list[str]] = {name: [] for name in names}
    for text in overrides:
        titles = [(name, title) for name in names for title in (name, name.partition(":")[0])]
        own = {name: text.removeprefix(f"{title}.") for name, title in titles if text.startswith(f"{title}.")}
        for name in own or names:
            out[name].append(own.get(name, text))
    return out


def load(name: str, overrides: Sequence[str] = ()) -> Protocol:
    """`linear`, or a variant such as `linear:mae`, with `key=value` overrides of its settings."""
    base, _, variant = name.partition(":")
    with seal.shut(cache_folder() / "stores"):  # its file is run here for the first time
        module = find.module("protocols", base)
        cls = find.defined(module, Protocol)
        known = variants(module)
        if variant and variant not in known:
            hint = nearest(variant, known) if known else "It has none."
            raise UserError(f"Protocol '{base}' has no variant '{variant}'. {hint}")
        config = known[variant]() if variant else typing.get_type_hints(cls)["config"]()
        return cls(override(config, overrides))
