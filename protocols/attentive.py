"""`attentive`: a small attention head on the frozen patch tokens of the last layer.

Definition (default, after V-JEPA v1: Bardes et al. 2024, arXiv 2404.08471; jepa/evals/image_classification_frozen):
LayerNorm on tokens, one learned query, cross-attention with query, key and value maps, a residual MLP of width 4 D,
a linear classifier (the repository's output map of the attention is never applied there, and is left out). AdamW,
cosine to 0, gradients clipped to 1 per head. Learning rate x weight decay heads train in one pass (they share no
parameter); the head with the highest accuracy on the validation part wins, and is trained again on both parts. The
others are run on the test images as trained without the validation part, only to show what choosing there would have
printed. Tokens are those of the images without augmentation, so that they are computed once; the official recipes
augment. CLS and register tokens are not read.

Variants name the published head (they differ in more than the name): `vjepa2`, `capi`, `aim`, `ep`.

Changes: 1 first version. 2 the rates of `capi` follow the batch (per 256 images), as published. 3 `ep` reads the tokens
as they are and ends in BatchNorm, as published (it had standardised tokens and LayerNorm); all others as before.
4 `vjepa2` decays biases and norms too, as published; the winner alone is trained again: all others as before but for
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from ssl_bench.config.schema import bounded, later
from ssl_bench.errors import UserError
from ssl_bench.evaluation.attentive_heads import Head
from ssl_bench.evaluation.linear_heads import StackedAdamW
from ssl_bench.evaluation.protocol import Features, Predictor, Protocol, refuse_idle
from ssl_bench.models.vit import explicit_attention
from ssl_bench.rng import mix
from ssl_bench.screen import paced
from ssl_bench.training.method import warmup_cosine


@dataclass(frozen=True)
class AttentiveConfig:
    head: Literal["vjepa", "vjepa2", "capi", "aim", "ep"] = "vjepa"
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = bounded((1e-3, 0.05), least=0)
    epochs: int = 10
    batch_size: int = 128
    warmup: float = bounded(0.0, below=1)  # share of training
    beta2: float = bounded(0.999, least=0, below=1)
    clip: float = bounded(1.0, least=0)  # norm of each head's gradient; 0: none
    num_heads: int = 0  # of the attention; 0: one per 64 dimensions, at least one
    queries: int = 32  # of `ep`
    lr_per_256: bool = False  # learning rates are for 256 images and grow with the batch
    decay_all: bool = later(False)  # weight decay on biases and norms too

    def check(self) -> None:
        refuse_idle(self, f"with head={self.head}", "num_heads" if self.head == "ep" else "queries")


def vjepa2() -> AttentiveConfig:
    """V-JEPA 2 (vjepa2/configs/eval/vitl/in1k.yaml): 3 self-attention blocks on the tokens, then a query; 20 heads.

    Left out: a 21st head with decaying weight decay, and the warm-up's start at 2e-4 (here 0).
    """
    lrs = (5e-4, 1e-3, 1.5e-3, 2e-3)
    return AttentiveConfig(
        "vjepa2", lrs, (8e-3, 4e-3, 2e-3, 1e-3, 5e-4), epochs=20, warmup=0.25, clip=0.0, decay_all=True
    )


def capi() -> AttentiveConfig:
    """CAPI (capi/eval_classification.py): one query without a query map, no norm, residual or MLP; 30 heads.

    On the encoder's patch tokens, as there; its "predictor pooling" takes CLS's place in linear probes, not here.
    """
    lrs = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    return AttentiveConfig("capi", lrs, (5e-4, 1e-3, 5e-2), 20, warmup=0.1, beta2=0.95, clip=0.0, lr_per_256=True)


def aim() -> AttentiveConfig:
    """AIM (ml-aim AttentionPoolingClassifier): tokens standardised (by 256 images), one query, maps without bias."""
    return AttentiveConfig("aim", clip=0.0)


def ep() -> AttentiveConfig:
    """Efficient probing (arXiv 2506.10178; poolings/ep.py): 32 queries on raw tokens, a slice of values each."""
    return AttentiveConfig("ep", clip=0.0)


class Probes(Predictor):
    """Heads, their parameters stacked [H, ...], trained on `x`: all, or the one of index `only`."""

    def __init__(self, config: AttentiveConfig, x: Features, seed: int, only: int | None = None) -> None:
        super().__init__()
        assert x.tokens is not None
        unit = min(config.batch_size, len(x)) / 256 if config.lr_per_256 else 1.0
        self.config, grid = config, [(lr * unit, wd) for lr in config.lrs for wd in config.weight_decays]
        self.names = [f"lr={lr:g}/wd={wd:g}" for lr in config.lrs for wd in config.weight_decays]
        if only is not None:
            grid, self.names = [grid[only]], [self.names[only]]
        self.tried = self  # the heads that `candidates` shows
        first = x.tokens.batch(torch.arange(min(256, len(x))).numpy()).to(x.device)
        self.statistics = first.mean((0, 1)), first.std((0, 1)) + 1e-6
        dim, torch_seed = first.shape[2], mix("attentive", seed)
        heads = config.num_heads or max(1, dim // 64)
        if config.head != "ep" and dim % heads:
            raise UserError(f"attentive.num_heads={heads} must divide the {dim} dimensions of a token: set another.")
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed)
            self.model = Head(config.head, dim, heads, config.queries, x.num_classes).to(first.device)
        explicit_attention(self.model, True)  # vmap has no rule for the fused kernel
        stacked, self.buffers = stack_module_state([self.model] * len(grid))
        self.parameters = {k: v.detach().clone().requires_grad_() for k, v in stacked.items()}
        self.train(x, torch.tensor(grid, device=first.device), torch_seed)

    def tokens(self, x: Features, rows: Tensor) -> Tensor:
        assert x.tokens is not None
        tokens = x.tokens.batch(rows.numpy()).to(x.device)
        return (tokens - self.statistics[0]) / self.statistics[1] if self.config.head == "aim" else tokens

    def logits(self, x: Tensor, bare: bool = False) -> Tensor:
        """[H, B, C], or [H, B, D] before the BatchNorm."""
        run = vmap(lambda p, t: functional_call(self.model, p, (t, bare)), in_dims=(0, None))
        return run(self.parameters | self.buffers, x)

    def train(self, x: Features, grid: Tensor, seed: int) -> None:
        c, generator = self.config, torch.Generator().manual_seed(seed)
        size = min(c.batch_size, len(x))
        total, step = c.epochs * (len(x) // size), 0
        adam = StackedAdamW(self.parameters, grid, c.beta2, c.clip, c.decay_all)
        for _ in paced(f"training {len(grid)} attentive head{'s' * (len(grid) > 1)}", range(c.epochs), c.epochs):
            for rows in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(size):
                at, step = step / total, step + 1
                factor = warmup_cosine(at, c.warmup, 0.0, 1.0, 0.0)
                y = x.labels[rows].to(grid.device)
                logits = self.logits(self.tokens(x, rows))
                loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(grid)), reduction="sum") / size
                gradients = torch.autograd.grad(loss, list(self.parameters.values()))
                adam.step(gradients, factor)
        self.model.eval()
        if c.head == "ep":
            self.measure(x)

    @torch.no_grad()
    def measure(self, x: Features) -> None:
        """The BatchNorm's statistics: exact ones of all images, in place of running ones."""
        mean: Any = 0.0
        square: Any = 0.0
        for rows in torch.arange(len(x)).split(256):
            z = self.logits(self.tokens(x, rows), bare=True).double()
            mean, square = mean + z.sum(1) / len(x), square + z.square().sum(1) / len(x)
        self.buffers = {"mean": mean.float(), "var": (square - mean**2).float()}

    @torch.no_grad()
    def all(self, x: Features) -> Tensor:
        """[H, N, C]."""
        parts = [self.logits(self.tokens(x, rows)).cpu() for rows in torch.arange(len(x)).split(256)]
        return torch.cat(parts, 1).nan_to_num(-1e9)

    def predict(self, x: Features) -> Tensor:
        return self.all(x)[0]

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        yield from ((n, z.argmax(1)) for n, z in zip(self.tried.names, self.tried.all(x), strict=True))


class Attentive(Protocol):
    version = 4
    input = "tokens"
    votes = True
    config: AttentiveConfig

    def fit(self, train: Features, val: Features, seed: int) -> Probes:
        probe = Probes(self.config, train, seed)
        logits, truth = probe.all(val), val.labels
        ranked = [
            (float((z.argmax(1) == truth).double().mean()), -float(F.cross_entropy(z, truth)), i)
            for i, z in enumerate(logits)
        ]
        accuracy, _, best = max(ranked)
        final = Probes(self.config, train + val, seed, best)
        final.tried = probe
        final.selected = {"head": probe.names[best], "val_top1": 100 * accuracy, "candidates": len(ranked)}
        return final
