"""What a teacher's blocks become as targets: data2vec's average, which methods of all kinds of items share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def make_targets(outputs: list[Tensor], instance_norm: bool) -> Tensor:
    """Block outputs [B, N, D] each -> targets [B, N, D]: normalise each, average, LayerNorm (no affine anywhere).

    A layer is normalised over its tokens (instance norm, data2vec 2.0) or over its channels (1.0, Point2Vec).
    """
    width = outputs[0].shape[-1:]
    layers = [F.instance_norm(y.float().mT).mT if instance_norm else F.layer_norm(y.float(), width) for y in outputs]
    return F.layer_norm(torch.stack(layers).mean(0), width)
