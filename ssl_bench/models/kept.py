"""What a finished run may leave beside its encoder: what it has learned of actions on a world, or on an image.

The JEPA predictor that is told what was done to an image (IWM, arXiv 2403.00504) is here as a run keeps it; what acts
on trajectories is in dynamics.py. Shapes: B images, n context tokens, T blocks of m target tokens, A numbers of an
action.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_bench.models.predictor import Predictor
from ssl_bench.models.vit import ViT, init_weights


class Kept(nn.Module):
    """A network with what is needed to make it again."""

    file: ClassVar[str]  # FILE.safetensors and FILE.json in the run's folder

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for FILE.json."""
        raise NotImplementedError


def action_mlp(actions: int, dim: int) -> nn.Sequential:
    """Actions [B, A] -> what joins the mask tokens [B, dim]."""
    mlp = nn.Sequential(nn.Linear(actions, dim), nn.GELU(), nn.Linear(dim, dim))
    init_weights(mlp)
    return mlp


class ActionPredictor(Kept):
    """The predictor and what tells it the action. `objective`: the settings that it was trained by, as plain values."""

    file = "predictor"

    def __init__(self, predictor: Predictor, action: nn.Sequential, heads: int, objective: dict[str, Any]) -> None:
        super().__init__()
        self.predictor, self.action = predictor, action
        self.heads, self.objective = heads, objective

    @staticmethod
    def of(vit: ViT, facts: dict[str, Any]) -> ActionPredictor:
        """A fresh one for the tokens of `vit`, as `facts` describe it."""
        dim, heads = facts["dim"], facts["heads"]
        predictor = Predictor(vit, dim, facts["depth"], heads, facts["out"])
        return ActionPredictor(predictor, action_mlp(facts["actions"], dim), heads, facts["objective"])

    @property
    def facts(self) -> dict[str, Any]:
        p, first = self.predictor, self.action[0]
        shape = {"dim": p.embed.out_features, "depth": p.depth, "heads": self.heads, "out": p.head.out_features}
        return {**shape, "actions": first.in_features, "objective": self.objective}

    def forward(self, context: Tensor, keep: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
        """Context tokens [B, n, D] at `keep` [B, n] -> target tokens [B, T, m, D] at `targets` [B, T, m]."""
        found: Tensor = self.predictor(context, keep, targets, self.action(actions))
        return found

    def target(self, tokens: Tensor) -> Tensor:
        """What it was trained to predict of the evaluated encoder's patch tokens [B, N, D], as the objective says."""
        tokens = F.instance_norm(tokens.float().mT).mT if self.objective["instance_norm"] else tokens.float()
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.objective["target_norm"] else tokens
