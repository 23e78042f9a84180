"""TensorBoard and Weights & Biases: the rows of metrics.jsonl, drawn live by a program made for it."""

from __future__ import annotations

from typing import Any

from ssl_bench.config.schema import Config, to_dict
from ssl_bench.errors import UserError
from ssl_bench.training.run_folder import Run


class Trackers:
    """What `run.tensorboard` and `run.wandb` ask for, in the process that writes; no other is imported."""

    def __init__(self, config: Config, run: Run, writes: bool = True) -> None:
        self.board = _board(run) if writes and config.run.tensorboard else None
        self.wandb = _wandb(config, run) if writes and config.run.wandb != "off" else None

    def add(self, step: int, row: dict[str, Any]) -> None:
        """One row of numbers; what is not a number stays in metrics.jsonl."""
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Everything on disk, or sent."""
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def _board(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("run.tensorboard=true needs TensorBoard: pip install 'ssl-bench[tensorboard]'.") from error
    return SummaryWriter(str(run.folder / "tensorboard"))


def _wandb(config: Config, run: Run) -> Any:
    """The run of the same name in the project $WANDB_PROJECT (default: ssl-bench); a restart goes on in it."""
    import os

    mode: Any = config.run.wandb
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"run.wandb={config.run.wandb} needs a package: pip install 'ssl-bench[wandb]'.") from error
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssl-bench"), name=run.name, id=run.name, resume="allow",
            dir=str(run.folder), mode=mode, config=to_dict(config),
        )  # fmt: skip
    except wandb.errors.Error as error:
        raise UserError(f"Weights & Biases cannot start: {error}. Use run.wandb=offline, or wandb login.") from error
