"""What a self-supervised method is: views of a batch, a loss on them, and what happens after the step."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ssl_bench import find
from ssl_bench.config.overrides import resolve
from ssl_bench.config.schema import Config, DataConfig, Size, sides
from ssl_bench.data import registry
from ssl_bench.data.items import Kind, of_kind
from ssl_bench.errors import UserError
from ssl_bench.models.kept import Kept
from ssl_bench.models.vit import ViT
from ssl_bench.rng import Rng
from ssl_bench.views.augment import AugmentConfig
from ssl_bench.views.crops import mirrored, set_by_hand

Views = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class DataInfo:
    """What a method may know of the data set before it sees an image."""

    item: Kind
    num_classes: int = 0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is seen of an item."""
        size: Size = self.item.facts["image_size"]
        return sides(size)


class Method(nn.Module):
    """Base of every objective. `encoder` is what protocols evaluate: teacher, EMA or student, as the paper does.

    Everything that must survive a restart is a parameter or a buffer: `state_dict()` is the whole state.
    `at` is the fraction of training done, 0 to 1; every schedule is a function of it.
    `version` is part of a run's identity: a new one is trained anew, and never averaged with the old.
    """

    version: ClassVar[int] = 1  # raised whenever a number could change, with the reason under "Changes"
    family: ClassVar[str] = ""  # JEPA, generative, self-distillation, contrastive, redundancy, supervised
    paper: ClassVar[str] = ""  # title, year, arXiv number
    sees: ClassVar[str] = ""  # the views, in a few words
    evaluated: ClassVar[str] = "encoder"  # which network protocols get: "teacher (EMA)", "student", ...
    uses_labels: ClassVar[bool] = False  # only then does the loop put "labels" among the views
    kinds: ClassVar[tuple[str, ...]] = ("image",)  # of items that it takes
    pooling: ClassVar[str] = "mean"  # the token the encoder was made for: cls or mean (of the patch tokens)
    fewest: ClassVar[int] = 1  # images of a micro-batch, over all processes, from which on the loss says something

    encoder: ViT

    def __init__(self, config: Config, info: DataInfo) -> None:
        super().__init__()
        refuse_kind(config.method, self.kinds, info.item.name)
        _refuse_views(config, info.item)
        self.config = config
        self.info = info
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(info.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(info.std).view(-1, 1, 1), persistent=False)

    def make_vit(self, **changes: Any) -> ViT:
        """A fresh shared transformer for this run's items."""
        return ViT(replace(self.config.backbone, **changes), self.info.item)

    def views(self, images: Tensor, rng: Rng, at: float) -> Views:
        """What the objective looks at, from what `item.seen` gives of stored items. Runs without gradient."""
        raise NotImplementedError

    def forward(self, views: Views, at: float) -> dict[str, Tensor]:
        """`{"loss": scalar, ...}` and anything worth logging."""
        raise NotImplementedError

    def before_step(self, at: float) -> None:
        """Change gradients before clipping: DINO deletes those of its last layer at first."""

    def after_step(self, at: float) -> None:
        """Move the teacher, the centre, the queue. Called after the optimizer's step."""

    def forget(self) -> None:
        """A step was skipped: drop what `forward` put aside for `after_step`. Modules with a `forget` do so here."""
        for module in self.modules():
            forget: Any = getattr(module, "forget", None)
            if module is not self and forget is not None:
                forget()

    def param_groups(self) -> list[dict[str, Any]]:
        """Trained parameters with `weight_decay_scale` and `lr_scale`; no decay on biases, norms and 1-D tensors.

        A group with `clip` false is left out of clipping, one with `lr_constant` true has the peak rate always.
        """
        decay: list[Tensor] = []
        rest: list[Tensor] = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                (decay if parameter.ndim > 1 or self.config.optim.decay_all else rest).append(parameter)
        return [
            {"params": decay, "lr_scale": 1.0, "weight_decay_scale": 1.0},
            {"params": rest, "lr_scale": 1.0, "weight_decay_scale": 0.0},
        ]

    def judged(self, encoder: ViT, x: Tensor) -> Tensor:
        """Features [B, D] by whose spread a collapse is seen, of normalised items: as a rule what protocols get."""
        return encoder.pool(encoder(x), self.pooling)

    def kept(self) -> Kept | None:
        """What a finished run leaves beside its encoder: how its latents move under actions, a predictor."""
        return None

    def flops(self) -> float:
        """Training FLOPs per image and step, forward and backward, teacher included; 2 per multiply-add."""
        raise NotImplementedError


def as_now(config: Config) -> Config:
    """The config with its method's version as the code is now: that of what is trained from here on."""
    return replace(config, method_version=find.defined(find.module("methods", config.method), Method).version)


def refuse_kind(method: str, kinds: Sequence[str], kind: str) -> None:
    """`UserError` where a method does not take items of a kind."""
    if kind not in kinds:
        raise UserError(f"'{method}' takes {' and '.join(kinds)} items, and these are {of_kind(kind).noun}.")


def configured(method: str, recipe: str, settings: Sequence[str]) -> Config:
    """What a user asks for: a recipe with settings, checked, of the method as its code is now."""
    given = next((text.partition("=")[2] for text in settings if text.startswith("data.name=")), "")
    name, kinds = given or DataConfig.name, find.defined(find.module("methods", method), Method).kinds
    if registry.named(given) and "image" not in kinds:  # what shows pictures is for methods of images too
        refuse_kind(method, kinds, registry.kind(given))
    return as_now(resolve(find.recipe(method, recipe or usual(method, registry.kind(name)))(), settings))


def usual(method: str, kind: str) -> str:
    """The recipe of a method where none is named: its own for that kind of items, if it has one."""
    own = of_kind(kind).recipe
    return own if own in find.recipes(find.module("methods", method)) else Kind.recipe


def _refuse_views(config: Config, item: Kind) -> None:
    """`UserError` where a view does to an item what makes another one of it, or what its kind does not have."""
    hint = f" --recipe {item.recipe} does so." if item.recipe not in (config.recipe, Kind.recipe) else ""
    if views := mirrored(config.objective) if registry.directed(config.data.name) or not item.mirrors else {}:
        mend = " ".join(f"objective.{name}.flip=0" for name in views)
        if item.mirrors:
            raise UserError(
                f"'{config.data.name}' names directions, which mirrored clips turn round: set {mend}.{hint}"
            )
        raise UserError(f"Turned round, {item.noun} are others: set {mend}.{hint}")
    own = {"sound": "sound", "cloud": "points"}  # settings that one kind alone reads
    idle = [name for name, kind in own.items() if item.name != kind]
    if item.name == "points":
        idle += [f.name for f in fields(AugmentConfig) if f.name not in own]
    if found := set_by_hand(config.objective, *idle):
        mend = " and ".join(f"objective.{name}" for name in found)
        raise UserError(f"{mend} has no effect on {item.noun}: leave it out.{hint}")


def frozen_copy(module: Module) -> Module:
    """A teacher: the same weights, no gradient, in eval mode."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, after the optimizer's step: parameters, and the running
    statistics of a tokenizer's BatchNorm, which a teacher never sees a batch of.
    """
    mine, theirs = (
        [p.detach() for p in (*m.parameters(), *(b for n, b in m.named_buffers() if "running_" in n))]
        for m in (teacher, student)
    )
    torch._foreach_lerp_(mine, theirs, 1.0 - momentum)


def cosine(at: float, start: float, end: float) -> float:
    """Half a cosine from `start` at 0 to `end` at 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * at))


def linear(at: float, start: float, end: float) -> float:
    """A straight line from `start` at 0 to `end` at 1."""
    return start + (end - start) * at


def warmup_cosine(at: float, warmup: float, start: float, peak: float, end: float) -> float:
    """Linear from `start` to `peak` over the first `warmup` of training, then half a cosine to `end`."""
    if at < warmup:
        return linear(at / warmup, start, peak)
    return cosine((at - warmup) / (1 - warmup), peak, end)
