"""One frozen config says everything about a run: dataclasses, typed `key.sub=value` overrides, identity.

A field's trailing comment is its documentation: `ssl-bench show` prints it as the reason for the value.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from ssl_bench.config.bounds import Bounds, refuse_negative, refuse_outside
from ssl_bench.config.sound import MelConfig
from ssl_bench.errors import UserError, nearest

SIZES = {  # embed_dim, depth, num_heads, mlp_ratio: timm's names
    "toy": (64, 2, 2, 4.0),
    "micro": (64, 4, 2, 4.0),
    "mini": (192, 6, 3, 4.0),
    "vit_tiny": (192, 12, 3, 4.0),
    "vit_small": (384, 12, 6, 4.0),
    "vit_base": (768, 12, 12, 4.0),
    "vit_large": (1024, 24, 16, 4.0),
    "vit_huge": (1280, 32, 16, 4.0),
    "vit_giant": (1408, 40, 16, 48 / 11),
    "vit_gigantic": (1664, 48, 16, 64 / 13),
}

HEADS = {dim: heads for dim, _, heads, _ in SIZES.values()}  # what is usual for a width


def later(value: Any) -> Any:
    """A field that came after the first records: at this default it is left out of what is written and hashed."""
    return field(default=value, metadata={"later": True})


def bounded(value: Any, **bounds: Any) -> Any:
    """A field of a protocol's settings whose default does not say what is possible: `Bounds` of config/bounds.py."""
    return field(default=value, metadata={"bounds": Bounds(**bounds)})


# Of clips, sincos is V-JEPA's with even channels for time, row and column, sincos_half gives half of them to the time;
# sincos_1d is VideoMAE's table over the flattened index (models/positions.py, models/rotary.py).
# centres, of clouds of points alone: an MLP of each group's centre, added before every block (models/groups.py).
Positions = Literal["sincos", "learned", "sincos_half", "sincos_1d", "rope", "rope_tiled", "centres"]


@dataclass(frozen=True)
class ViTConfig:
    """The shared backbone."""

    embed_dim: int = 192  # width of a token
    depth: int = 12  # number of transformer blocks
    num_heads: int = 3  # attention heads per block; must divide embed_dim
    mlp_ratio: float = 4.0  # hidden width of a block's MLP / embed_dim
    patch_size: int = 16  # pixels per patch side, which must divide data.image_size, or points of a group; texts: 1
    class_token: bool = True  # prepend a learned CLS token
    reg_tokens: int = 0  # learned register tokens after CLS (Darcet et al. 2024)
    pos_embed: Positions = "sincos"  # fixed sin-cos, learned, or rotary: rope (V-JEPA 2.1's), rope_tiled (V-JEPA 2's)
    drop_path: float = 0.0  # stochastic depth of the last block, growing linearly from 0
    layer_scale: float = 0.0  # initial LayerScale; 0 means none
    drop_path_uniform: bool = later(False)  # the same stochastic depth in every block (DINOv2, CAPI)
    tubelet: int = later(2)  # frames per token of a clip
    causal: bool = later(False)  # of texts: no token sees a later one
    rope_grid: int = later(0)  # rotary positions are spread as on so many patches a side (V-JEPA 2.1: 16); 0: as is

    def check(self) -> None:
        least = {"embed_dim": 1, "depth": 1, "num_heads": 1, "patch_size": 1, "reg_tokens": 0, "layer_scale": 0}
        least |= {"tubelet": 1, "rope_grid": 0}
        if self.rope_grid and not self.pos_embed.startswith("rope"):
            raise UserError(f"backbone.rope_grid has no effect with backbone.pos_embed={self.pos_embed}: leave it out.")
        refuse_outside("backbone.", self, {**least, "mlp_ratio": 0, "drop_path": 0}, {"drop_path": 1})
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise UserError(
                f"backbone.embed_dim={self.embed_dim} must be divisible by backbone.num_heads={self.num_heads} "
                "and, for 2-D sin-cos positions, by 4."
            )


Size = int | tuple[int, int]  # pixels: a square's side, or height and width


def sides(size: Size | list[int]) -> tuple[int, int]:
    """Height and width in pixels; a list is what JSON has of a pair."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def as_size(height: int, width: int) -> Size:
    """The inverse of `sides`, as `data.image_size` is typed."""
    return height if height == width else (height, width)


def vit(name: str, **changes: Any) -> ViTConfig:
    """The config of a timm-style name: `vit("vit_small_patch4")`, sizes as in `SIZES`."""
    size, _, patch = name.partition("_patch")
    if size not in SIZES or (patch and not patch.isdigit()) or patch.strip("0") == "" != patch:
        raise UserError(f"Unknown backbone '{name}'. {nearest(size, SIZES)} Write it as e.g. vit_small_patch4.")
    dim, depth, heads, ratio = SIZES[size]
    if patch:
        changes = {**changes, "patch_size": int(patch)}
    return ViTConfig(embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=ratio, **changes)


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    name: str = "clothing48"  # a name of `ssl-bench list datasets`, folder:, parquet: or webdataset:PATH, hf:NAME
    image_size: Size = 48  # pixels: side or HEIGHTxWIDTH; sounds: mel bands x frames; clouds: points; texts: tokens
    val_fraction: float = 0.1  # share of the training split held out for monitoring and for choosing hyperparameters
    channels: int = later(3)  # 1: grey, 3: colour, 4: colour with alpha, or four bands as they are
    background: tuple[int, int, int] = later((255, 255, 255))  # red, green, blue behind transparent pixels
    frames: int = later(8)  # of a stored clip
    mel: MelConfig = later(MelConfig())  # of sounds
    frame_step: int = later(0)  # a clip has every so many-th frame of a film's middle; 0: evenly from first to last

    def __post_init__(self) -> None:
        kind, colon, path = self.name.partition(":")  # a folder is one set, with a slash at its end or without
        place, mark, rest = path.partition("#")
        if colon and place.strip("/"):
            object.__setattr__(self, "name", kind + colon + place.rstrip("/") + mark + rest)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides(self.image_size)

    def check(self) -> None:
        if not all(0 < side <= 4096 for side in self.size):
            raise UserError(f"data.image_size={size_text(self.image_size)} must lie between 1 and 4096.")
        self.mel.check()
        if not 0 < self.frames <= 1024:
            raise UserError(f"data.frames={self.frames} must lie between 1 and 1024.")
        if not 0 <= self.frame_step <= 1024:
            raise UserError(f"data.frame_step={self.frame_step} must lie between 0 (evenly over the film) and 1024.")
        if self.channels not in (1, 3, 4):
            raise UserError(f"data.channels={self.channels} must be 1 (grey), 3 (colour) or 4 (as they are).")
        if not all(0 <= value <= 255 for value in self.background):
            raise UserError(f"data.background={self.background} needs three values from 0 to 255, as in 255,255,255.")
        if self.channels == 4 and self.background != (255, 255, 255):
            raise UserError("data.background has no effect with data.channels=4, which keeps the alpha: leave it out.")
        if not 0 < self.val_fraction < 0.5:
            raise UserError(f"data.val_fraction={self.val_fraction} must lie between 0 and 0.5.")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, and every schedule as a function of the fraction of training done."""

    lr: float = 1e-3  # peak learning rate, absolute (recipes apply their paper's batch rule)
    lr_start: float = 0.0  # learning rate at the start of the warm-up
    lr_end: float = 0.0  # learning rate at the end of the cosine
    warmup: float = 0.05  # share of training spent in linear warm-up
    weight_decay: float = 0.05  # AdamW's decoupled decay, none on biases, norms and other 1-D tensors
    weight_decay_end: float | None = None  # cosine from weight_decay to here; none: constant
    decay_all: bool = False  # also decay biases and norms (MoCo v3 does)
    beta1: float = 0.9  # AdamW
    beta2: float = 0.999  # AdamW; masked prediction often uses 0.95
    clip: float = 0.0  # gradient clipping norm; 0 means none
    clip_mode: Literal["global", "tensor"] = "global"  # one norm for all, or per parameter tensor (DINO, iBOT)

    def check(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"optim.warmup={self.warmup} is a share of training and must lie in [0, 1).")
        if self.lr <= 0:
            raise UserError(f"optim.lr={self.lr} must be positive.")
        least = dict.fromkeys(("lr_start", "lr_end", "weight_decay", "beta1", "beta2", "clip"), 0.0)
        refuse_outside("optim.", self, least, {"beta1": 1, "beta2": 1})
        if self.weight_decay_end is not None:
            refuse_outside("optim.", self, {"weight_decay_end": 0})
        if self.clip == 0 and self.clip_mode != "global":
            raise UserError("optim.clip_mode has no effect while optim.clip is 0: set optim.clip, or leave it.")


BUDGETS = ("steps", "epochs", "images", "flops", "hours")


@dataclass(frozen=True)
class BudgetConfig:
    """How much training. Give exactly one of steps, epochs, images, flops and hours; the others stay 0."""

    batch_size: int = 128  # images per optimizer step, over all processes
    steps: int = 0  # optimizer steps
    epochs: float = 0  # passes over the training part
    images: float = 0  # images drawn, each counted once per step however many views are cut from it
    flops: float = 0  # training FLOPs by the method's own count, 2 per multiply-add
    hours: float = 0  # on this machine: its rate is measured before the first step, and kept for restarts
    accumulate: int = 1  # micro-batches per step; losses over a batch (contrastive ones) see only their micro-batch

    def check(self) -> None:
        given = [k for k in BUDGETS if getattr(self, k) != 0]
        if len(given) != 1:
            raise UserError(f"The budget needs exactly one of {', '.join(BUDGETS)}; it has {given or 'none'}.")
        if getattr(self, given[0]) < 0:
            raise UserError(f"budget.{given[0]}={getattr(self, given[0]):g} must be positive.")
        if self.batch_size < 1 or self.accumulate < 1 or self.batch_size % self.accumulate:
            raise UserError(
                f"budget.batch_size={self.batch_size} must be positive and a multiple of accumulate={self.accumulate}."
            )


@dataclass(frozen=True)
class RunConfig:
    """What must not change the result: never part of the identity."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1
    devices: int = 1  # processes on this machine, one per GPU (torchrun and srun bring their own)
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"  # of several processes; auto: FSDP2 from ViT-L on, else DDP
    threads: int = 0  # CPU threads of a process; 0: all cores it may use, shared by the processes on this machine
    log_every: int = 10  # steps between lines of metrics.jsonl
    checkpoint_minutes: float = 5.0  # minutes between checkpoints
    checkpoint_steps: int = 0  # steps between checkpoints; 0: by time only
    nan_skips: int = 0  # steps with a non-finite loss or gradient that may be skipped (and recorded) before a stop
    store: Literal["auto", "decoded", "encoded"] = "auto"  # images as uint8, or packed as they are; auto: by their size
    workers: int = 0  # threads that decode an encoded store's images; 0: all cores it may use
    bad_limit: float = 0.001  # share of unreadable images above which a data set is refused
    tensorboard: bool = False  # also write TensorBoard event files (needs the extra `tensorboard`)
    wandb: Literal["off", "offline", "online"] = "off"  # Weights & Biases, in the run folder or sent (extra `wandb`)
    keep_old: bool = later(False)  # keep what other code has made, and go on from it: --keep-old

    def check(self) -> None:
        least = dict.fromkeys(
            ("threads", "checkpoint_minutes", "checkpoint_steps", "nan_skips", "workers", "bad_limit"), 0
        )
        refuse_outside("run.", self, {"log_every": 1, **least})


@dataclass(frozen=True)
class Config:
    """Everything about one pretraining run. `objective` is the method's own dataclass."""

    method: str
    objective: Any
    recipe: str = ""  # where the values started from
    method_version: int = later(1)  # of the method's code: raised where its numbers can change; the code sets it
    seed: int = 0  # initialisation, order, augmentation, masks and dropout all derive from it
    precision: Literal["bf16", "fp32"] = "bf16"  # autocast of forward passes; fp32 where a device lacks bf16
    monitor_points: int = 10  # collapse and quality checks over the run
    backbone: ViTConfig = field(default_factory=ViTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def check(self) -> Config:
        """Raise `UserError` where the values cannot work together; return self."""
        if "#views=" in self.data.name:
            raise UserError(
                f"'{self.data.name}': #views= says how evaluations see films, and training sees one clip of each: "
                "leave it out here, and name the set with it in --eval-data or `ssl-bench eval --data`."
            )
        refuse_outside("", self, {"monitor_points": 0})
        for part in (self.backbone, self.data, self.optim, self.budget, self.run, self.objective):
            if hasattr(part, "check"):
                part.check()
        refuse_negative("objective.", self.objective)
        if self.backbone.drop_path_uniform and not self.backbone.drop_path:
            raise UserError("backbone.drop_path_uniform has no effect while backbone.drop_path is 0: set both or none.")
        on_grid = self.backbone.pos_embed != "centres"  # groups of points overlap: their number need not divide
        if on_grid and any(side % self.backbone.patch_size for side in self.data.size):
            raise UserError(
                f"data.image_size={size_text(self.data.image_size)} is not divisible by "
                f"backbone.patch_size={self.backbone.patch_size}. "
                f"Choose one of {_divisors(math.gcd(*self.data.size))} as patch size, or another image size."
            )
        return self


def _divisors(n: int) -> list[int]:
    return [d for d in range(2, n // 2 + 1) if n % d == 0]


def size_text(size: Size | list[int]) -> str:
    """48, or 32x96, as it is typed."""
    return "x".join(map(str, size)) if isinstance(size, (tuple, list)) else str(size)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, JSON-ready; a later field at its default is left out, as in what was written before it."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any) -> Any:
    if not is_dataclass(value):
        return value
    known = [(f, getattr(value, f.name)) for f in fields(value)]
    return {f.name: _plain(found) for f, found in known if not (f.metadata.get("later") and found == f.default)}


def identity(config: Config) -> str:
    """Twelve hex digits over every field that changes the result (all but `run` and the recipe's name)."""
    values = to_dict(config)
    del values["run"], values["recipe"]
    values["budget"] = {
        k: v for k, v in values["budget"].items() if v or k not in BUDGETS
    }  # kinds not given say nothing
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
