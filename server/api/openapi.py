"""The OpenAPI document of the REST APIs: what each front says of its paths, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
Paths = Mapping[str, Json]

_VERSION = "0.3.0"


def document(paths: Paths) -> Json:
    """An OpenAPI 3.1 document of these paths."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dragoman",
            "version": _VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The REST APIs of other translation services, on Dragoman's engine.",
        },
        "paths": dict(paths),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "deepl": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "DeepL-Auth-Key KEY",
                },
            }
        },
    }


def operation(summary: str, answer: Json, refusal: Json, refused: str, **more: object) -> Json:
    """A path's operation.

    Args:
        summary: one line.
        answer: schema of what it answers.
        refusal: schema of an error's body.
        refused: statuses of errors, with blanks between.
        more: other members of an Operation Object.
    """
    ok = {"description": "The answer.", "content": {"application/json": {"schema": answer}}}
    bad = {"description": "An error.", "content": {"application/json": {"schema": refusal}}}
    return {
        "summary": summary,
        "responses": {"200": ok, **dict.fromkeys(refused.split(), bad)},
        **more,
    }


def body(schema: Json, *media_types: str) -> Json:
    """A Request Body Object, of one schema in each of some media types."""
    return {"required": True, "content": {name: {"schema": schema} for name in media_types}}


def fields(required: str, **properties: Json) -> Json:
    """An object's schema; the names of required properties have blanks between."""
    return {"type": "object", "properties": properties, "required": required.split()}


def listed(items: Json) -> Json:
    """The schema of a list."""
    return {"type": "array", "items": items}


TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
WHOLE: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
