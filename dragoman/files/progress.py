"""How far a file is: a bar where tqdm is installed, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[], object]]:
    """What counts one segment more, on a bar that begins with what was done before."""
    try:
        from tqdm import tqdm  # noqa: PLC0415  may not be installed
    except ModuleNotFoundError:
        yield lambda: None
        return
    with tqdm(total=total, initial=done, unit="segment", disable=None) as bar:
        yield bar.update
