"""What a run shows while it trains: a bar with the time left, and a line per validation."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_STEPS_BETWEEN = 20
_LOG_SECONDS = 30.0  # between two states of the bar where standard error is a file


class Progress:
    """The bar of one call of ``Trainer.run``, on standard error."""

    def __init__(self, step: int, last: int, *, shown: bool = True) -> None:
        """Start at ``step`` of ``last``; one of several processes shows it."""
        self._bar = tqdm(
            total=last,
            initial=step,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
            disable=not shown,
            mininterval=0.1 if sys.stderr.isatty() else _LOG_SECONDS,
        )
        self._steps, self._tokens, self._since = 0, 0, time.monotonic()
        self._shown = shown
        self.speed = 0.0
        """Target tokens a second, when last looked at."""

    def __enter__(self) -> Self:
        """Show the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar where it is and go to the next line."""
        self._bar.close()

    def advance(self, epoch: int, loss: float, tokens: int) -> None:
        """One step is done; every few, show the loss and the speed since they were last shown."""
        self._steps += 1
        self._tokens += tokens
        if self._steps == 1 or self._steps % _STEPS_BETWEEN == 0:
            self.speed = self._tokens / (time.monotonic() - self._since)
            self._bar.set_postfix_str(
                f"epoch {epoch}, loss {loss:.3f}, {self.speed:,.0f} target tokens/s",
                refresh=self._steps == 1,
            )
            self.restart_clock()
        self._bar.update()

    def restart_clock(self) -> None:
        """Count tokens from now on; what came between was no training."""
        self._tokens, self._since = 0, time.monotonic()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._shown:
            self._bar.write(line, file=sys.stderr)
