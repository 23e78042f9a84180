"""What fine-tuning trains, and its rates: a copy of the encoder, or the kept predictor on the frozen encoder.

Shapes: B images, N patch tokens, D width.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ssl_bench.config.schema import sides
from ssl_bench.encoders.encoder import Encoder
from ssl_bench.errors import UserError
from ssl_bench.models.kept import ActionPredictor

Pooling = Literal["mean", "cls"]


class Classifier(nn.Module):
    """A copy of the encoder's network with a fresh norm and head."""

    depth: int  # blocks that are trained

    def __init__(self, encoder: Any, drop_path: float, pooling: Pooling, num_classes: int) -> None:
        super().__init__()
        if encoder.model is None or (pooling == "cls" and not encoder.has_cls):
            raise UserError(f"'{encoder.method}' cannot be fine-tuned with pooling={pooling}.")
        self.net, self.depth, self.pooling = copy.deepcopy(encoder.model), encoder.depth, pooling
        self.blocks = [getattr(self.net, "model", self.net).blocks[i] for i in range(self.depth)]
        add_drop_path(self.blocks, drop_path)
        with torch.no_grad():
            empty = torch.zeros(1, len(encoder.mean), *sides(encoder.image_size), device=encoder.device)
            width = self.features(empty).shape[1]
        self.fc_norm, self.head = fresh_head(width, num_classes)
        self.net.requires_grad_(True)  # positions too, even fixed sin-cos ones: MAE's fine-tuning trains them

    def features(self, images: Tensor) -> Tensor:
        tokens = self.net.layers(images, [self.depth - 1], norm=False)[0]
        return tokens[:, 0] if self.pooling == "cls" else tokens[:, self.net.num_prefix :].mean(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.features(images)))


class PredictorClassifier(nn.Module):
    """The predictor that the encoder's run has kept, asked for every token of an image to which nothing was done.

    It sees all tokens of the frozen encoder; the mean of its predictions gets a fresh norm and head. `learned`: from
    its weights; `fresh`: the same network untrained.
    """

    depth: int

    def __init__(self, encoder: Encoder, drop_path: float, start: Literal["learned", "fresh"], num_classes: int):
        super().__init__()
        kept = kept_predictor(encoder)
        fresh = start == "fresh"
        self.net = ActionPredictor.of(encoder.model, kept.facts) if fresh else copy.deepcopy(kept)
        self.frozen = (encoder.model,)  # in a tuple: no part of what is trained, or set to training
        self.depth, self.actions = kept.predictor.depth, kept.facts["actions"]
        add_drop_path(list(self.net.predictor.blocks), drop_path)
        self.fc_norm, self.head = fresh_head(kept.facts["out"], num_classes)

    def features(self, images: Tensor) -> Tensor:
        (vit,) = self.frozen
        with torch.no_grad():
            tokens = vit(images)[:, vit.num_prefix :]
        every = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        unchanged = tokens.new_zeros(len(tokens), self.actions)
        found: Tensor = self.net(tokens, every, every[:, None], unchanged)
        return found[:, 0].mean(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.features(images)))


def kept_predictor(encoder: Encoder) -> ActionPredictor:
    """What the encoder's run has kept beside it; `UserError` where it has not."""
    if encoder.predictor is None:
        raise UserError(
            f"'{encoder.method}' has no predictor beside its encoder. Only runs of iwm keep one, and not those from "
            "before it was kept: pretrain iwm into a new --root, or with another seed, and evaluate that run."
        )
    return encoder.predictor


def add_drop_path(blocks: list[nn.Module], rate: float) -> None:
    """Stochastic depth that grows linearly to `rate` at the last block, in place of what pretraining had."""
    able = [hasattr(block, "drop_path1") for block in blocks]
    if rate and not all(able):
        raise UserError("The blocks of this network have no drop path: set drop_path=0.")
    for i, block in enumerate(blocks if all(able) else ()):
        block.drop_path1 = block.drop_path2 = DropPath(rate * i / max(1, len(blocks) - 1))


def fresh_head(width: int, num_classes: int) -> tuple[nn.LayerNorm, nn.Linear]:
    norm, head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)
    return norm, head


def layer_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks, i + 1 for block i, depth + 1 for the rest."""
    for prefix in ("net.", "model.", "predictor."):
        name = name.removeprefix(prefix)
    if name.startswith(("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "registers", "mask_token")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


def param_groups(model: nn.Module, depth: int, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """One group per layer and kind, with `lr_scale` = layer_decay ^ (depth + 1 - layer)."""
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token", "reg_token", "registers"))
            layer, wd = layer_of(name, depth), 0.0 if plain else weight_decay
            scale = layer_decay ** (depth + 1 - layer)
            fresh = {"params": [], "lr_scale": scale, "weight_decay": wd, "layer": layer}
            group = groups.setdefault((layer, wd), fresh)
            group["params"].append(parameter)
    return list(groups.values())
