"""A run that is stopped in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssl_bench.config.schema import Config
from ssl_bench.training.pretrain import pretrain
from ssl_bench.training.train import Trainer


def stopped(config: Config, root: Path, monkeypatch: pytest.MonkeyPatch, at: int = 2) -> None:
    """Pretrain until step `at`, where Ctrl-C comes."""
    step = Trainer.train_step

    def stop(self: Trainer) -> Any:
        if self.step == at:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, root)
