"""Parts through the engines of this machine, several at once, and what shows how far it is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from server.bulk.formats import Format, Part
from server.bulk.journal import Account, Journal
from server.bulk.translator import CorpusTranslator, Decoding
from server.settings import Settings

# The next part must wait in the engines' line when one ends.
PARTS_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, and with what."""

    settings: Settings
    decoding: Decoding
    source: Path
    file_format: Format
    journal: Journal


class Stopped(Exception):
    """A signal ended the run; the same command goes on."""


class Progress:
    """A bar over bytes (or row groups), with sentences a second and the time left."""

    def __init__(self, parts: list[Part], missing: list[Part], unit: str) -> None:
        """Show it; what was done before counts as done, but not for the speed."""
        total = sum(part.end - part.start for part in parts)
        left = sum(part.end - part.start for part in missing)
        self._bar = tqdm(
            total=total, initial=total - left, unit=unit, unit_scale=True, dynamic_ncols=True
        )
        self.account = Account()

    def advance(self, part: Part, account: Account) -> None:
        """A part is done."""
        self.account.add(account)
        seconds = self._bar.format_dict["elapsed"] or 1e-9
        self._bar.set_postfix_str(f"{self.account.texts / seconds:,.0f} texts/s", refresh=False)
        self._bar.update(part.end - part.start)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def run_here(
    job: Job,
    missing: list[Part],
    done: Callable[[Part, Account], None],
    loaded: Callable[[], None] = lambda: None,
) -> None:
    """Translate the missing parts in this process.

    Args:
        job: what to do.
        missing: the parts to do.
        done: told of each part.
        loaded: called when the model is there, before the first part.

    Raises:
        Stopped: SIGINT or SIGTERM came.
        DragomanError: a part cannot be read, or the model failed.
    """
    translator = CorpusTranslator(job.settings, job.decoding)
    loaded()
    asyncio.run(_run(translator, job, missing, done))


async def _run(
    translator: CorpusTranslator,
    job: Job,
    missing: list[Part],
    done: Callable[[Part, Account], None],
) -> None:
    loop = asyncio.get_running_loop()
    translator.start()
    queue: Iterator[Part] = iter(missing)

    async def work() -> None:
        for part in queue:
            done(part, await translate_part(translator, job, part))

    whole = asyncio.gather(*(work() for _ in range(PARTS_AT_ONCE)))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, whole.cancel)
    try:
        await whole
    except asyncio.CancelledError as error:
        raise Stopped from error
    finally:
        await translator.close()


async def translate_part(translator: CorpusTranslator, job: Job, part: Part) -> Account:
    """Read, translate and keep one part."""
    rows = await asyncio.to_thread(job.file_format.read, job.source, part)
    translations, account = await translator.translate(rows.texts)
    await asyncio.to_thread(job.journal.write, part, rows, translations, account)
    return account
