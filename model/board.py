"""A run's curves in TensorBoard, where it is installed and asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.config import ConfigError

_STEPS_BETWEEN = 20


class Board:
    """Writes events that ``tensorboard --logdir FOLDER`` shows."""

    def __init__(self, folder: Path) -> None:
        """Open the folder for more events.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an extra of its own
        except ImportError as error:
            msg = "--tensorboard needs what pip install 'dragoman[tensorboard]' brings"
            raise ConfigError(msg) from error
        self._writer: Any = SummaryWriter(str(folder))  # torch leaves it untyped

    def step(self, step: int, loss: float, learning_rate: float, tokens_per_second: float) -> None:
        """A step is done; every few are written."""
        if step % _STEPS_BETWEEN == 0:
            self._writer.add_scalar("train/loss", loss, step)
            self._writer.add_scalar("train/learning_rate", learning_rate, step)
            self._writer.add_scalar("train/target_tokens_per_second", tokens_per_second, step)

    def validation(self, record: dict[str, Any]) -> None:
        """The scores of a validation, as the log has them."""
        for measure in ("nll", "bleu", "chrf"):
            for name, value in record[measure].items():
                self._writer.add_scalar(f"{measure}/{name}", value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
