"""What a finished run may leave beside its encoder: what it has learned of actions on a world."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Kept(nn.Module):
    """A network with what is needed to make it again."""

    file: ClassVar[str]  # FILE.safetensors and FILE.json in the run's folder

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values, for FILE.json."""
        raise NotImplementedError
