"""Any number of texts over one call: what is sent, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dragoman import results
from dragoman.errors import DragomanError, error_of_code
from dragoman.options import check_text
from dragoman.results import Translation
from dragoman.v1 import translation_pb2


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of one item."""

    id: str
    translation: Translation | None
    error: DragomanError | None
    """Why there is none."""


class Feed:
    """The messages of a bulk call, made as the connection takes them.

    gRPC reads them in a thread of its own, where nobody hears of an error: it is kept here.
    """

    def __init__(
        self, options: translation_pb2.BulkOptions, items: Iterable[tuple[str, str]]
    ) -> None:
        """Set the options and the (id, text) items."""
        self._options = options
        self._items = items
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[translation_pb2.TranslateBulkRequest]:
        """The options, then the items, up to one that is faulty."""
        yield translation_pb2.TranslateBulkRequest(options=self._options)
        try:
            for name, text in self._items:
                yield item_message(name, text)
        except Exception as error:  # noqa: BLE001  whatever the caller's items raise, they get
            self.error = error


def item_message(name: str, text: str) -> translation_pb2.TranslateBulkRequest:
    """The message of an item.

    Raises:
        InvalidRequestError: the wire cannot carry it.
    """
    check_text("item.id", name)
    check_text("item.text", text)
    item = translation_pb2.BulkItem(id=name, text=text)
    return translation_pb2.TranslateBulkRequest(item=item)


def result(message: translation_pb2.TranslateBulkResponse) -> BulkResult:
    """Our result of the wire's."""
    if message.WhichOneof("outcome") == "error":
        return BulkResult(
            message.id, None, error_of_code(message.error.code, message.error.message)
        )
    return BulkResult(message.id, results.translation(message.translation, message.model), None)
