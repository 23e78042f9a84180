"""A run, an untrained ViT, raw pixels, a library's model or a checkpoint file -> one `Encoder`.

Everything that decides a feature (token, norm, layers, size, interpolation, mean, std, weights) is in `entry`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from typing import Protocol as Interface

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from ssl_bench import checkpoint, runs
from ssl_bench.backbone import ViT
from ssl_bench.config import Config, DataConfig, ViTConfig, identity, to_dict, vit
from ssl_bench.data import Dataset
from ssl_bench.errors import UserError, nearest
from ssl_bench.lean import without_compiler
from ssl_bench.rng import mix
from ssl_bench.stored import from_dict

Network = TypeVar("Network", bound=nn.Module)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LAYERS = 4  # the last blocks every encoder returns


class Backbone(Interface):
    """What the encoder needs of a network: `ViT` has it, and so have the adapters in official.py."""

    num_prefix: int

    def layers(self, images: Tensor, indices: Iterable[int], norm: bool = True) -> list[Tensor]: ...
    def parameters(self) -> Any: ...


@dataclass(frozen=True)
class Encoder:
    """A frozen network and how images enter it."""

    method: str  # the row's name
    model: Any  # Backbone, or None for raw pixels
    pooling: str  # the token it was made for: cls or mean
    has_cls: bool
    depth: int
    image_size: int
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

    @property
    def entry(self) -> dict[str, Any]:
        """What the record keeps of the encoder and its input."""
        return {
            "source": self.source, "evaluated": self.evaluated, "pooling": self.pooling, "has_cls": self.has_cls,
            "layers": min(LAYERS, self.depth), "norm": "final norm on every layer" if self.model else "none",
            "image_size": self.image_size, "resize": self.resize or self.image_size,
            "interpolation": self.interpolation, "antialias": True, "mean": list(self.mean), "std": list(self.std),
            "weights_sha256": self.weights_sha256,
        }  # fmt: skip

    def to(self, device: torch.device) -> Encoder:
        """The same encoder on a device, in eval mode."""
        if self.model is not None:
            self.model.to(device).eval()
        return self

    @property
    def device(self) -> torch.device:
        return next(iter(self.model.parameters())).device if self.model is not None else torch.device("cpu")

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> the float image the network was made for: resize, centre crop, normalise."""
        x = images.to(self.device).float() / 255
        x = resize_crop(x, self.resize or self.image_size, self.image_size, self.interpolation)
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def encode(self, images: Tensor, layers: int = LAYERS, want_tokens: bool = False) -> dict[str, Tensor]:
        """uint8 [B, C, H, W] -> "mean" and, where there is a CLS token, "cls" [B, L, D]; last "tokens" [B, T, D]."""
        return self.forward(self.prepare(images), layers, want_tokens)

    def forward(self, x: Tensor, layers: int = LAYERS, want_tokens: bool = False) -> dict[str, Tensor]:
        """`encode` for images that are prepared already."""
        if self.model is None:
            out = {"mean": x.flatten(1)[:, None]}
            return {**out, "tokens": _pixel_patches(x)} if want_tokens else out
        count = min(layers, self.depth)
        maps = self.model.layers(x, range(self.depth - count, self.depth))
        patches = [m[:, self.model.num_prefix :] for m in maps]
        out = {"mean": torch.stack([p.mean(1) for p in patches], 1)}
        if self.has_cls:
            out["cls"] = torch.stack([m[:, 0] for m in maps], 1)
        return {**out, "tokens": patches[-1]} if want_tokens else out


def resize_crop(x: Tensor, resize: int, size: int, mode: str) -> Tensor:
    """Shorter side to `resize` (antialiased), then the centre `size` x `size`. Does nothing at the right size."""
    height, width = x.shape[-2:]
    if min(height, width) != resize:
        scale = resize / min(height, width)
        x = F.interpolate(x, size=(round(height * scale), round(width * scale)), mode=mode, antialias=True).clamp(0, 1)
    top, left = (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2
    return x[..., top : top + size, left : left + size]


def _pixel_patches(x: Tensor) -> Tensor:
    """[B, C, H, W] -> 4 x 4 grid cells as tokens [B, 16, C*H*W/16], for probes that read tokens."""
    patch = x.shape[-1] // 4
    return F.unfold(x, patch, stride=patch).transpose(1, 2)


def sha256(model: nn.Module) -> str:
    """Of every name, shape and value, on any device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
    return digest.hexdigest()


def resolve(source: str | None, root: Path, seed: int = 0, data: Dataset | None = None) -> Encoder:
    """A run's name or folder (None: the newest finished one), `random:vit_tiny_patch8@48`, `pixels`, `timm:...`, ...

    `seed` initialises `random`; `data` gives it and `pixels` their size, mean and std.
    """
    kind, colon, name = (source or "").partition(":")
    if source == "pixels":
        return pixels(data)
    if kind == "random" and colon:
        if (Path(root) / name / "config.json").exists():  # the same ViT as that run, untrained
            config = runs.Run(Path(root) / name).config()
            return untrained(config.backbone, config.data.image_size, seed, data)
        backbone, _, size = name.partition("@")
        if size and not size.isdigit():
            raise UserError(f"'{source}': write the image size as digits, for example random:vit_tiny_patch8@48.")
        return untrained(vit(backbone), int(size or (data.image_size if data else 48)), seed, data)
    if colon:
        known = ("random", "timm", "hf", "hub", "file")
        if kind not in known:
            raise UserError(f"Unknown kind of encoder '{kind}:'. {nearest(kind, known)} Or name a run, or pixels.")
        from ssl_bench.official import resolve as foreign  # imports this module

        return foreign(kind, name)
    return from_run(runs.find_run(Path(root), source))


def from_run(run: runs.Run) -> Encoder:
    """The network a finished run left in encoder.safetensors; strict, its checksum verified."""
    config = run.config()
    path = run.folder / "encoder.json"
    if not path.exists():
        state = run.status().get("state", "not started")
        raise UserError(f"Run {run.name} has no encoder yet (state: {state}). Run the same pretrain command again.")
    meta = _meta(run)
    payload = (run.folder / "encoder.safetensors").read_bytes()
    if checkpoint.sha256(payload) != meta["weights_sha256"]:
        raise UserError(f"{run.folder}/encoder.safetensors is damaged: its checksum is not that of encoder.json.")
    shape = (from_dict(ViTConfig, meta["backbone"]), meta["image_size"], meta["channels"])
    try:
        model = fitted(lambda: ViT(*shape), load(payload), str(run.folder / "encoder.safetensors"))
    except (SafetensorError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"The encoder in {run.folder} cannot be read: {str(error)[:200]}.") from error
    facts = run.read_json("provenance.json")
    status = run.status()
    return Encoder(
        config.method, model.eval(), meta["pooling"], model.config.class_token, model.config.depth, meta["image_size"],
        tuple(meta["mean"]), tuple(meta["std"]), meta["weights_sha256"], run.name, meta["evaluated"],
        config=to_dict(config), recipe=config.recipe, identity=identity(config), run=run.name, seed=config.seed,
        pretrain_data=facts.get("data", {"name": config.data.name, "fingerprint": ""}),
        compute=run.compute(),
        collapse={"flag": bool(status.get("collapsed")), "reason": status.get("collapse_reason") or "", "rankme": None},
    )  # fmt: skip


def _meta(run: runs.Run) -> dict[str, Any]:
    """encoder.json, which may come from anybody: every value of its type and of a size that is possible."""
    meta = run.read_json("encoder.json")
    kinds = {"backbone": dict, "image_size": int, "channels": int, "pooling": str, "evaluated": str}
    wrong = [k for k, kind in {**kinds, "weights_sha256": str}.items() if type(meta.get(k)) is not kind]
    for key in ("mean", "std"):
        if not all(type(v) in (int, float) and abs(v) < 1e6 for v in meta.get(key) or [None]):
            wrong.append(key)
    if not wrong and not (0 < meta["image_size"] <= 4096 and 0 < meta["channels"] <= 64):
        wrong = ["image_size", "channels"]
    depth = 0 if wrong else meta["backbone"].get("depth", 0)
    if not wrong and type(depth) is int and depth > 1000:
        wrong = ["backbone.depth"]
    if wrong:
        raise UserError(f"{run.folder}/encoder.json is damaged: its {', '.join(wrong)} cannot be.")
    return meta


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


def random_source(backbone: ViTConfig, image_size: int) -> str:
    """How records name an untrained ViT: `random:96x4_patch8@48`."""
    return f"random:{backbone.embed_dim}x{backbone.depth}_patch{backbone.patch_size}@{image_size}"


def untrained(backbone: ViTConfig, image_size: int, seed: int, data: Dataset | None = None) -> Encoder:
    """The row `random`: the shared ViT as it is before the first step, from `seed`."""
    config = Config("random", {}, seed=seed, backbone=backbone, data=DataConfig(image_size=image_size))
    if image_size % backbone.patch_size:
        raise UserError(f"Images of {image_size} pixels are not divisible by the patch size {backbone.patch_size}.")
    with torch.random.fork_rng():
        torch.manual_seed(mix("random", seed))
        model = ViT(backbone, image_size, data.channels if data else 3)
    mean, std = (data.mean, data.std) if data else IMAGENET
    return _reference(
        Encoder(
            "random", model.eval(), "mean", backbone.class_token, backbone.depth, image_size, mean, std, sha256(model),
            random_source(backbone, image_size), "untrained", seed=seed,
        ), config, data,
    )  # fmt: skip


def pixels(data: Dataset | None) -> Encoder:
    """The row `pixels`: the normalised image itself as the feature. Nothing here is random but the probe."""
    mean, std = (data.mean, data.std) if data else IMAGENET
    size = data.image_size if data else 48
    config = Config("pixels", {}, data=DataConfig(image_size=size))
    encoder = Encoder("pixels", None, "mean", False, 1, size, mean, std, "none", "pixels", "raw pixels")
    made = _reference(encoder, config, data)
    return replace(made, config={**made.config, "backbone": {}})


def _reference(encoder: Encoder, config: Config, data: Dataset | None) -> Encoder:
    """Identity and config of a row without pretraining, in the shape a run has them: tables treat them alike."""
    if data:
        config = replace(config, data=DataConfig(data.name, encoder.image_size))
    none = {"flag": False, "reason": "", "rankme": None}
    return replace(encoder, config=to_dict(config), identity=identity(config), collapse=none)
