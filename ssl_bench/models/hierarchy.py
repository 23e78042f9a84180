"""A second level over any dynamics: many actions become one macro-action, and the latent moves by all of them at once.

HWM (2026, arXiv 2604.03208): both levels predict the same latents; the first is left as it is; a macro-action is what a
small MLP makes of all actions between two latents of the second level. Here macro-actions are standardised (BatchNorm
without weights), so that a planner may draw them from N(0, 1) and cut them at a bound, where HWM takes bounds or
percentiles of what was seen. Shapes: B windows, N macro-actions, K frames of each, M numbers of it, D of a latent, A
of the actions between two frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssl_bench.config.bounds import refuse_outside
from ssl_bench.models.dynamics import Dynamics, DynamicsConfig, RowNorm, forecast_loss


@dataclass(frozen=True)
class UpperConfig:
    """The second level."""

    every: int = 5  # frames of a macro-action (HWM: 10 single steps)
    macro: int = 8  # numbers of a macro-action
    hidden: int = 32  # of the MLP that makes it
    steps: int = 3  # macro-actions that its loss looks ahead
    dynamics: DynamicsConfig = DynamicsConfig(latent=0)  # its predictor; the latent is the first level's

    def check(self) -> None:
        self.dynamics.check()
        refuse_outside("upper.", self, {"every": 1, "macro": 1, "hidden": 1, "steps": 1})


class Hierarchy(Dynamics):
    """Dynamics, and a second level above them. Whoever knows of no levels plans and predicts with the first."""

    def __init__(self, config: DynamicsConfig, features: int, actions: int, above: UpperConfig) -> None:
        super().__init__(config, features, actions)
        above.check()
        self.above, h = above, above.hidden
        inputs = above.every * actions
        self.macro = nn.Sequential(
            nn.Linear(inputs, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, above.macro),
            RowNorm(above.macro, affine=False),
        )  # fmt: skip
        self.upper = Dynamics(above.dynamics, self.dim, above.macro)
        self.upper.project = nn.Identity()  # it begins at the first level's latents

    @property
    def facts(self) -> dict[str, Any]:
        above = {**vars(self.above), "dynamics": dict(vars(self.above.dynamics))}
        return {**super().facts, "upper": above}

    @property
    def lower(self) -> list[nn.Module]:
        """The parts of the first level."""
        return [part for name, part in self.named_children() if name not in ("macro", "upper")]

    def macros(self, actions: Tensor) -> Tensor:
        """[B, N, M] of the actions [B, N * K, A]."""
        found: Tensor = self.macro(actions.unflatten(1, (-1, self.above.every)).flatten(2))
        return found

    def upper_loss(self, z: Tensor, macros: Tensor) -> Tensor:
        """Squared error of every K-th latent [B, N + 1, D], one by one and rolled out; the targets get no gradient."""
        return forecast_loss(self.upper, z, macros, self.above.steps, 2.0)

    def upper_flops(self) -> float:
        """Forward FLOPs of `upper_loss` for one window."""
        a, seen = self.above, self.above.dynamics.history
        macro = 2.0 * (a.every * self.actions * a.hidden + a.hidden**2 + a.hidden * a.macro)
        rolled = sum(self.upper.flops(min(seen, k + 1))[1] for k in range(a.steps)) if a.steps > 1 else 0.0
        return a.steps * macro + self.upper.flops(min(seen, a.steps))[1] + rolled
