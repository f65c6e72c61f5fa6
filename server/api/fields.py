"""The fields of a request, wherever callers of these APIs put them: JSON, a form, the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from server.errors import InvalidRequest

# Beside texts.
_OTHER_FIELDS = 100
_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Fields:
    """What a request says."""

    json: Mapping[str, Any] | None
    """Of a JSON body; None = it had none, and everything is text."""
    texts: Mapping[str, list[str]]
    """Of a form and of the address, each as often as it was given."""

    def first(self, name: str) -> object:
        """A field, the first one if it was given often; None = it was not."""
        if self.json is not None:
            return self.json.get(name)
        return next(iter(self.texts.get(name, ())), None)

    def every(self, name: str) -> object:
        """A field that may be a list; None = it was not given."""
        return self.json.get(name) if self.json is not None else self.texts.get(name)


async def fields_of(request: Request, most_texts: int, most_bytes: int) -> Fields:
    """The fields of a request.

    Args:
        request: its body has been read.
        most_texts: as many may a form hold, and some fields beside.
        most_bytes: as large may one be.

    Raises:
        InvalidRequest: the body is not what its content type says; or a form that holds files, or
            more fields.
        HTTPException: 400, the JSON is no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return Fields(_json(await request.body()), {})
    most = most_texts + _OTHER_FIELDS
    query: bytes = request.scope["query_string"]
    try:
        found = _pairs(query, most)
        if kind == _URLENCODED:
            found += _pairs(await request.body(), most)
        elif kind == _MULTIPART:
            async with request.form(max_files=0, max_fields=most, max_part_size=most_bytes) as form:
                found += [(name, str(part)) for name, part in form.multi_items()]
    except (MultiPartException, ValueError) as error:  # the latter are python-multipart's, too
        raise InvalidRequest("body", "is not the form that its type says") from error
    texts: dict[str, list[str]] = {}
    for name, text in found:
        texts.setdefault(name, []).append(text)
    return Fields(None, texts)


def _pairs(encoded: bytes, most: int) -> list[tuple[str, str]]:
    """Names and values of a urlencoded form; in UTF-8, escaped or, as curl sends them, not.

    Raises:
        ValueError: it is none, or has more than ``most`` fields.
    """
    return parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=most)


def checked(model: type[_Model], values: Mapping[str, Any]) -> _Model:
    """The values as the model has them; those that are None count as not given.

    Raises:
        InvalidRequest: names the first that is not what it should be, and repeats nothing of it.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"][:1]) or "body"
        raise InvalidRequest(name, first["msg"]) from None


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        # Knows no bottomless nesting, and no half characters.
        found = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest("body", "is no JSON") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "Invalid JSON format")
    return found
