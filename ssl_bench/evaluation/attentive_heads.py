"""The heads of attentive probes: V-JEPA's, V-JEPA 2's, CAPI's, AIM's, efficient probing's.

Shapes: B images, T tokens, D width, C classes. protocols/attentive.py trains many of one kind at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.models.vit import blocks


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
        self.mean, self.var = nn.Buffer(torch.zeros(dim)), nn.Buffer(torch.ones(dim))  # of ep's BatchNorm

    def forward(self, x: Tensor, bare: bool = False) -> Tensor:
        """With `bare` what goes into the BatchNorm [B, D]."""
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
        if bare:
            return z
        if self.kind == "ep":  # BatchNorm without affine
            mean, var = (z.mean(0), z.var(0, correction=0)) if self.training else (self.mean, self.var)
            z = (z - mean) / (var + 1e-6).sqrt()
        if self.mlp is not None:
            z = self.query + z
            z = z + self.mlp(z)
        return self.classify(z)
