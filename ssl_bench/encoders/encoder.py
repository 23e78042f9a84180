"""A run, an untrained ViT, raw pixels, a library's model or a checkpoint file -> one `Encoder`.

Everything that decides a feature (token, norm, layers, size, interpolation, mean, std, weights) is in `entry`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from ssl_bench.config.schema import Size
from ssl_bench.data.items import RAW, Kind
from ssl_bench.errors import UserError
from ssl_bench.models.answers import Answerer
from ssl_bench.models.dynamics import Dynamics
from ssl_bench.models.kept import ActionPredictor, Kept
from ssl_bench.models.policy import Policy
from ssl_bench.models.texts import counts, pooled
from ssl_bench.models.timm_parts import without_compiler
from ssl_bench.rng import Rng
from ssl_bench.views.augment import AugmentConfig, augment
from ssl_bench.views.clouds import moments
from ssl_bench.views.plain import cells, plain

Network = TypeVar("Network", bound=nn.Module)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNTOLD = ("training", "fused_attn")  # change no result but in the last digit
FEATURES: dict[str, Callable[[Tensor], Tensor]] = {  # of the raw rows in items.RAW; that of `pixels` is all of an item
    "difference": lambda clips: (clips[:, 1:] - clips[:, :-1]).abs().mean(1),  # of neighbouring frames
    "logmel": lambda spectrograms: spectrograms.mean(-1, keepdim=True),  # over time
    "moments": moments,  # of a cloud's coordinates
    "counts": counts,  # of a text's tokens
}
PICTURES = ("image", "clip")  # kinds that an encoder knows by its frames; of others it has the item itself
LAYERS = 4  # the last blocks every encoder returns


class Backbone(Interface):
    """What the encoder needs of a network: `ViT` has it, and so have the adapters in networks.py."""

    num_prefix: int

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]: ...
    def parameters(self) -> Any: ...


@dataclass(frozen=True)
class Encoder:
    """A frozen network and how images, or clips of so many `frames`, enter it."""

    method: str  # the row's name
    model: Any  # Backbone, or None for raw pixels
    pooling: str  # the token it was made for: cls or mean
    has_cls: bool
    depth: int
    image_size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_sha256: str
    source: str
    evaluated: str = "encoder"  # which network of the run: "teacher (EMA)", "student", ...
    resize: int = 0  # shorter side before the centre crop; 0: straight to image_size
    interpolation: str = "bicubic"
    config: dict[str, Any] = field(default_factory=dict)  # of the pretraining, in the shape of `Config`
    recipe: str = ""
    identity: str = ""
    run: str = ""
    seed: int | None = None  # of the pretraining
    pretrain_data: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
    collapse: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)  # that pretrained it: see training/code.py
    frames: int = 0  # of a clip; 0: images
    kept: Kept | None = None  # what its run has left beside it: dynamics, a predictor, a policy
    item: Kind | None = None  # what it takes; None: images or clips of these frames

    @property
    def dynamics(self) -> Dynamics | None:
        """How latents move under actions, where its pretraining has learned that."""
        return self.kept if isinstance(self.kept, Dynamics) else None

    @property
    def predictor(self) -> ActionPredictor | None:
        """Of tokens, told what was done to the image."""
        return self.kept if isinstance(self.kept, ActionPredictor) else None

    @property
    def answerer(self) -> Answerer | None:
        """What answers questions about an image."""
        return self.kept if isinstance(self.kept, Answerer) else None

    @property
    def policy(self) -> Policy | None:
        return self.kept if isinstance(self.kept, Policy) else None

    @property
    def entry(self) -> dict[str, Any]:
        """What the record keeps of the encoder and its input."""
        size = list(self.image_size) if isinstance(self.image_size, tuple) else self.image_size
        return {
            "source": self.source, "evaluated": self.evaluated, "pooling": self.pooling, "has_cls": self.has_cls,
            "layers": min(LAYERS, self.depth), "norm": "final norm on every layer" if self.model else "none",
            "image_size": size, "resize": self.resize or size,
            "interpolation": self.interpolation, "antialias": True, "mean": list(self.mean), "std": list(self.std),
            "weights_sha256": self.weights_sha256, **({"frames": self.frames} if self.frames else {}),
            **({f"{self.kept.file}_sha256": sha256(self.kept)} if self.kept else {}),
            **({"item": self.item.facts} if self.item else {}),
            **({"raw": self.method} if self.method in RAW else {}),  # features are kept by this entry
        }  # fmt: skip

    def to(self, device: torch.device) -> Encoder:
        """The same encoder on a device, in eval mode."""
        for part in (self.model, self.kept):
            if part is not None:
                part.to(device).eval()
        return self

    @property
    def grid(self) -> tuple[int, ...]:
        """Of the tokens that `forward` gives."""
        if self.model is None:
            return self.item.shape[:1] if self.item and len(self.item.shape) == 2 else (4, 4)
        found: tuple[int, ...] = self.model.grid
        return found

    @property
    def varied(self) -> bool:
        """Whether `view` has random views of its items."""
        return self.item is None or self.item.varied

    @property
    def device(self) -> torch.device:
        return next(iter(self.model.parameters())).device if self.model is not None else torch.device("cpu")

    def prepare(self, images: Tensor) -> Tensor:
        """Stored items [B, *item.shape] -> the floats the network was made for: resize, centre crop, normalise."""
        return plain(self.seen(images), self.image_size, self.resize, self.interpolation, self.mean, self.std)

    def seen(self, images: Tensor) -> Tensor:
        """Stored items on the encoder's device, as views are made of them; `UserError` where it takes others."""
        if (has := told(images)) != (needs := told(self.item or self.frames)):
            raise UserError(
                f"'{self.source}' takes {needs}, and these are {has}: name another set, or another encoder."
            )
        x = images.to(self.device)
        return self.item.seen(x) if self.item else x

    def view(self, images: Tensor, rng: Rng, look: AugmentConfig) -> Tensor:
        """One random view of stored items, normalised; never mirrored where that would make others of them."""
        if not self.varied:
            raise UserError(f"No random views are made of {told(self.item or 0)}: leave out what trains on them.")
        look = look if self.item is None or self.item.mirrors else replace(look, flip=0.0)
        return augment(self.seen(images), rng, self.image_size, look, self.mean, self.std)

    def encode(self, images: Tensor, layers: int = LAYERS, want_tokens: bool = False) -> dict[str, Tensor]:
        """uint8 [B, C, H, W] -> "mean" and, where there is a CLS token, "cls" [B, L, D]; last "tokens" [B, T, D].

        Of films in segments, [B, S, T, C, H, W], each is encoded alone: their means, and the tokens of all in a row.
        """
        if images.ndim == 6:
            each = [self.encode(images[:, i], layers, want_tokens) for i in range(images.shape[1])]
            joined = {name: torch.stack([e[name] for e in each], 1) for name in each[0]}
            return {name: x.flatten(1, 2) if name == "tokens" else x.mean(1) for name, x in joined.items()}
        return self.forward(self.prepare(images), layers, want_tokens)

    def forward(self, x: Tensor, layers: int = LAYERS, want_tokens: bool = False) -> dict[str, Tensor]:
        """`encode` for images that are prepared already."""
        if self.model is None:
            raw = FEATURES[self.method](x) if self.method in RAW else x
            out = {"mean": raw.flatten(1)[:, None]}
            if want_tokens:
                out["tokens"] = x if x.ndim == 3 else cells(raw)  # a cloud's points; their order says nothing
            return out
        count = min(layers, self.depth)
        maps = self.model.layers(x, range(self.depth - count, self.depth))
        patches = [m[:, self.model.num_prefix :] for m in maps]
        if (share := self.item.counted(x) if self.item else None) is not None:  # padding is left out
            patches = [p * share[..., None] for p in patches]
            out = {"mean": torch.stack([pooled(p, share) for p in patches], 1)}
        else:
            out = {"mean": torch.stack([p.mean(1) for p in patches], 1)}
        if self.has_cls:
            out["cls"] = torch.stack([m[:, 0] for m in maps], 1)
        return {**out, "tokens": patches[-1]} if want_tokens else out


def told(what: Tensor | Kind | int) -> str:
    """What stored items are, or what is taken: a batch of them, their kind, or the frames of clips (0: images)."""
    if isinstance(what, Tensor):
        if what.ndim == 2:
            return f"sounds of {what.shape[1]:,} samples"
        if what.ndim == 3:
            return "clouds of points" if what.is_floating_point() else "pairs of texts"
        if what.ndim == 6:
            return f"films in {what.shape[1]} segments"
        what = what.shape[1] if what.ndim == 5 else 0
    if isinstance(what, int):
        return f"clips of {what} frames" if what else "images"
    return f"{what.noun} of {what.shape[0]:,} samples" if len(what.shape) == 1 else what.noun


def sha256(tensors: nn.Module | Mapping[str, Tensor]) -> str:
    """Of every name, shape and value, on any device."""
    digest = hashlib.sha256()
    for name, value in sorted((tensors.state_dict() if isinstance(tensors, nn.Module) else tensors).items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def architecture(model: Any) -> str:
    """Sixteen hex digits over what a network is besides its weights; "none" where there is no network.

    Every module's class and plain settings (heads, scale, epsilon, patch size, drop rates) and buffers that no file
    holds: two networks with the same weights and other heads are told apart. Which attention kernel runs is left out.
    """
    if model is None:
        return "none"
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        settings = {k: _plain(v) for k, v in vars(module).items() if k not in UNTOLD and not k.startswith("_")}
        told = {k: v for k, v in settings.items() if v is not None}
        digest.update(json.dumps([name, type(module).__qualname__, told], sort_keys=True, default=str).encode())
    state = model.state_dict()
    for name, value in model.named_buffers():
        if name not in state:
            digest.update(
                name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A setting as JSON has it; None for what is no setting."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return getattr(value, "__qualname__", None)


def check_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Say which weight is missing, left over or of another shape; nothing where all fit."""
    mine = model.state_dict()
    missing, extra = sorted(mine.keys() - weights.keys()), sorted(weights.keys() - mine.keys())
    shapes = [k for k in sorted(mine.keys() & weights.keys()) if mine[k].shape != weights[k].shape]
    if missing or extra or shapes:
        parts = [f"missing: {', '.join(missing[:5])}"] * bool(missing)
        parts += [f"left over: {', '.join(extra[:5])}"] * bool(extra)
        parts += [f"{k} is {list(weights[k].shape)} where {list(mine[k].shape)} is needed" for k in shapes[:3]]
        raise UserError(f"The weights in {source} do not fit the encoder; {'; '.join(parts)}.")


def fitted(make: Callable[[], Network], weights: dict[str, Tensor], source: str) -> Network:
    """The network with these weights, or which of them does not fit.

    It is made without memory first: no file makes us take more than it holds itself.
    """
    with without_compiler(), torch.device("meta"):
        check_weights(make(), weights, source)
    model = make()
    model.load_state_dict(weights)
    return model
