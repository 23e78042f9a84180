"""`attentive`: a small attention head on the frozen patch tokens of the last layer.

Definition (default, after V-JEPA v1: Bardes et al. 2024, arXiv 2404.08471; jepa/evals/image_classification_frozen):
LayerNorm on tokens, one learned query, cross-attention with query, key and value maps, a residual MLP of width 4 D,
a linear classifier (the repository's output map of the attention is never applied there, and is left out). AdamW,
cosine to 0, gradients clipped to 1 per head. Learning rate x weight decay heads train in one pass (they share no
parameter); the head with the highest accuracy on the validation part wins; all are trained again on both parts. Tokens
are those of the images without augmentation, so that they are computed once; the official recipes augment. CLS and
register tokens are not read.

Variants name the published head (they differ in more than the name): `vjepa2`, `capi`, `aim`, `ep`.

Changes: 1 first version. 2 the rates of `capi` follow the batch (per 256 images), as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ssl_bench.backbone import blocks, explicit_attention
from ssl_bench.heads import StackedAdamW
from ssl_bench.method import warmup_cosine
from ssl_bench.protocol import Features, Predictor, Protocol
from ssl_bench.rng import mix


@dataclass(frozen=True)
class AttentiveConfig:
    head: Literal["vjepa", "vjepa2", "capi", "aim", "ep"] = "vjepa"
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (1e-3, 0.05)
    epochs: int = 10
    batch_size: int = 128
    warmup: float = 0.0  # share of training
    beta2: float = 0.999
    clip: float = 1.0  # norm of each head's gradient; 0: none
    num_heads: int = 0  # of the attention; 0: one per 64 dimensions, at least one
    queries: int = 32  # of `ep`
    lr_per_256: bool = False  # learning rates are for 256 images and grow with the batch


def vjepa2() -> AttentiveConfig:
    """V-JEPA 2 (vjepa2/configs/eval/vitl/in1k.yaml): 3 self-attention blocks on the tokens, then a query; 20 heads."""
    lrs = (5e-4, 1e-3, 1.5e-3, 2e-3)
    return AttentiveConfig("vjepa2", lrs, (8e-3, 4e-3, 2e-3, 1e-3, 5e-4), epochs=20, warmup=0.25, clip=0.0)


def capi() -> AttentiveConfig:
    """CAPI (capi/eval_classification.py): one query without a query map, no norm, residual or MLP; 30 heads.

    On the encoder's patch tokens, as there; its "predictor pooling" takes CLS's place in linear probes, not here.
    """
    lrs = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    return AttentiveConfig("capi", lrs, (5e-4, 1e-3, 5e-2), 20, warmup=0.1, beta2=0.95, clip=0.0, lr_per_256=True)


def aim() -> AttentiveConfig:
    """AIM (ml-aim AttentionPoolingClassifier): tokens standardised per dimension, one query, maps without bias."""
    return AttentiveConfig("aim", clip=0.0)


def ep() -> AttentiveConfig:
    """Efficient probing (arXiv 2506.10178; poolings/ep.py): 32 queries on raw tokens, each for one slice of values."""
    return AttentiveConfig("ep", clip=0.0)


class Head(nn.Module):
    """Tokens [B, T, D] -> logits [B, C].

    With one learned query the key and value maps need not be applied to every token: q . (W_k x) = (W_k^T q) . x, and
    the attention's sum of W_v x is W_v of the sum. Exact, and about T times cheaper (the key's bias cancels).
    """

    def __init__(self, kind: str, dim: int, heads: int, queries: int, num_classes: int) -> None:
        super().__init__()
        self.kind, self.slices = kind, math.gcd(queries, dim) if kind == "ep" else heads
        vjepa, bias = kind.startswith("vjepa"), kind not in ("aim", "ep")
        self.query = nn.Parameter(torch.randn(*((self.slices, dim) if kind == "ep" else (1, dim))) * 0.02)
        self.q = nn.Linear(dim, dim) if vjepa else None
        self.k = nn.Linear(dim, dim, bias=False) if kind != "ep" else None
        self.v = nn.Linear(dim, dim, bias=bias)
        self.before = blocks(dim, 3, heads) if kind == "vjepa2" else None
        self.gain = nn.Parameter(torch.ones(dim)) if vjepa else 1.0
        self.shift = nn.Parameter(torch.zeros(dim)) if vjepa else 0.0
        mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp = mlp if vjepa else None
        self.classify = nn.Linear(dim, num_classes, bias=kind != "aim")

    def forward(self, x: Tensor) -> Tensor:
        b, _, d = x.shape
        for block in self.before or ():
            x = block(x)
        x = F.layer_norm(x, (d,)) if self.mlp is not None else x
        width = d
        look: Tensor = self.query  # ep: queries against raw tokens
        if self.k is not None:
            q, width = self.q(self.query) if self.q is not None else self.query, d // self.slices
            look = torch.einsum("ae,aed->ad", q.view(self.slices, width), self.k.weight.view(self.slices, width, d))
        attention = (x @ (look * self.gain).T / math.sqrt(width)).softmax(1)  # [B, T, slices]
        pooled = (attention.transpose(1, 2) @ x) * self.gain + self.shift  # [B, slices, D]
        z = torch.einsum("bad,aed->bae", pooled, self.v.weight.view(self.slices, -1, d)).reshape(b, d)
        z = z if self.v.bias is None else z + self.v.bias
        if self.kind == "ep":
            z = F.layer_norm(z, (d,))  # the paper's BatchNorm without affine keeps state, which a stacked head cannot
        if self.mlp is not None:
            z = self.query + z
            z = z + self.mlp(z)
        return self.classify(z)


class Probes(Predictor):
    """All heads, their parameters stacked [H, ...], trained on `x`."""

    def __init__(self, config: AttentiveConfig, x: Features, seed: int) -> None:
        super().__init__()
        assert x.tokens is not None
        unit = min(config.batch_size, len(x)) / 256 if config.lr_per_256 else 1.0
        self.config, grid = config, [(lr * unit, wd) for lr in config.lrs for wd in config.weight_decays]
        self.names = [f"lr={lr:g}/wd={wd:g}" for lr in config.lrs for wd in config.weight_decays]
        self.chosen = 0
        first = x.tokens.batch(torch.arange(min(256, len(x))).numpy())
        self.statistics = first.mean((0, 1)), first.std((0, 1)) + 1e-6
        dim, torch_seed = first.shape[2], mix("attentive", seed)
        heads = config.num_heads or max(1, dim // 64)
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed)
            self.model = Head(config.head, dim, heads, config.queries, x.num_classes).to(first.device)
        explicit_attention(self.model, True)  # vmap has no rule for the fused kernel
        stacked, _ = stack_module_state([self.model] * len(grid))
        self.parameters = {k: v.detach().clone().requires_grad_() for k, v in stacked.items()}
        self.train(x, torch.tensor(grid, device=first.device), torch_seed)

    def tokens(self, x: Features, rows: Tensor) -> Tensor:
        assert x.tokens is not None
        tokens = x.tokens.batch(rows.numpy())
        return (tokens - self.statistics[0]) / self.statistics[1] if self.config.head in ("aim", "ep") else tokens

    def logits(self, x: Tensor) -> Tensor:
        """[H, B, C]."""
        return vmap(lambda p, t: functional_call(self.model, p, (t,)), in_dims=(0, None))(self.parameters, x)

    def train(self, x: Features, grid: Tensor, seed: int) -> None:
        c, generator = self.config, torch.Generator().manual_seed(seed)
        size = min(c.batch_size, len(x))
        total, step = c.epochs * (len(x) // size), 0
        adam = StackedAdamW(self.parameters, grid, c.beta2, c.clip)
        for _ in range(c.epochs):
            for rows in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(size):
                at, step = step / total, step + 1
                factor = warmup_cosine(at, c.warmup, 0.0, 1.0, 0.0)
                y = x.labels[rows].to(grid.device)
                logits = self.logits(self.tokens(x, rows))
                loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(grid)), reduction="sum") / size
                gradients = torch.autograd.grad(loss, list(self.parameters.values()))
                adam.step(gradients, factor)

    @torch.no_grad()
    def all(self, x: Features) -> Tensor:
        """[H, N, C]."""
        self.model.eval()
        parts = [self.logits(self.tokens(x, rows)).cpu() for rows in torch.arange(len(x)).split(256)]
        return torch.cat(parts, 1).nan_to_num(-1e9)

    def predict(self, x: Features) -> Tensor:
        return self.all(x)[self.chosen]

    def candidates(self, x: Features) -> Iterator[tuple[str, Tensor]]:
        yield from ((n, z.argmax(1)) for n, z in zip(self.names, self.all(x), strict=True))


class Attentive(Protocol):
    version = 2
    input = "tokens"
    config: AttentiveConfig

    def fit(self, train: Features, val: Features, seed: int) -> Probes:
        probe = Probes(self.config, train, seed)
        logits, truth = probe.all(val), val.labels
        ranked = [
            (float((z.argmax(1) == truth).double().mean()), -float(F.cross_entropy(z, truth)), i)
            for i, z in enumerate(logits)
        ]
        accuracy, _, best = max(ranked)
        final = Probes(self.config, train + val, seed)
        final.chosen = best
        final.selected = {"head": final.names[best], "val_top1": 100 * accuracy, "candidates": len(ranked)}
        return final
