"""Log lines: for people, or one JSON object a line for machines. No text, key or address."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from pythonjsonlogger.json import JsonFormatter

from server.settings import Settings


class _Lines(JsonFormatter):
    """Time in UTC with milliseconds, level, logger, message, and what a line adds."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        del datefmt
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up(settings: Settings) -> None:
    """Log to standard error as the settings say."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        form = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(_Lines(form, rename_fields=names, json_ensure_ascii=False))
    else:
        form = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(logging.Formatter(form))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # A log that cannot be written, its disk full, is no reason for more lines that cannot be.
    logging.raiseExceptions = False
