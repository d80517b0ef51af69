"""Parts of the OpenAPI document that FastAPI cannot derive: bodies of three kinds, and the refusals of each path."""

from typing import Any

from pydantic import BaseModel, create_model

from rmt.serve.answers import Error
from rmt.serve.bodies import FIELD, JSON, MULTIPART, RAW, JSONImages
from rmt.serve.errors import MEANINGS

_FORM = {
    "type": "object",
    "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
    "required": [FIELD],
}
IMAGES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image as it is, or one or several as a form or as base64 in JSON.",
        "content": {
            RAW[0]: {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            MULTIPART: {"schema": _FORM},
            JSON: {"schema": JSONImages.model_json_schema()},
        },
    }
}
"""For `openapi_extra` of a path that takes images."""


def refusals(*statuses: int, token: bool = True) -> dict[int | str, dict[str, Any]]:
    """For `responses` of a path: 401 if the path needs a token, 403, and these."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in (*([401] if token else []), 403, *statuses):
        found[status] = {"model": Error, "description": MEANINGS[status]}
    if 503 in found:
        seconds = {"description": "seconds after which a retry may succeed", "schema": {"type": "integer"}}
        found[503]["headers"] = {"Retry-After": seconds}
    return found


def answers_of(result: type[BaseModel]) -> dict[str, Any]:
    """For `responses[200]`: a result per image, in order; an error in the place of one that cannot be used."""
    version = (int, ...)
    model = create_model(f"{result.__name__}s", version=version, results=(list[result | Error], ...))  # type: ignore[valid-type]
    return {"model": model, "description": "a result for each image, in order"}
