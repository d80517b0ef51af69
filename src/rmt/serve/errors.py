"""Refusals: what a client gets instead of an answer, as JSON with a code, one line, and no internals."""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_type",
    422: "not_usable",
    500: "internal",
    503: "busy",
}
"""Status -> the `code` of its JSON."""
MEANINGS = {
    400: "The request is not valid HTTP, or its headers are too large. This answer is plain text, not JSON.",
    401: "The token is missing or wrong.",
    403: "The server does not answer to this host name, or to pages of this origin.",
    404: "There is no such path.",
    405: "The path does not take this method.",
    408: "The request was sent too slowly.",
    413: "The request or an image is too large, or there are too many images.",
    415: "The content type is not one of those listed below.",
    422: "An option or an image cannot be used.",
    500: "An error of the server, which its log describes.",
    503: "The server has as much to do as it accepts. `Retry-After` has the seconds to wait.",
}
"""Status -> what it means, for the documentation."""


class Refusal(Exception):
    """A request that gets no answer: status, one line for its sender, further headers."""

    status: int
    message: str
    headers: dict[str, str]

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> Response:
        return error_response(self.status, self.message, self.headers)


class Busy(Refusal):
    """The server has as much to do as it accepts: status 503, with the seconds after which a retry may succeed."""

    def __init__(self, seconds: float = 1.0) -> None:
        wait = max(1, min(60, math.ceil(seconds)))
        text = f"the server has as much to do as it accepts: try again in {wait} s"
        super().__init__(503, text, {"Retry-After": str(wait)})


def error_body(status: int, message: str) -> dict[str, Any]:
    """The JSON value of a refusal."""
    return {"error": {"code": CODES.get(status, "error"), "message": message}}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_response(error_body(status, message), status, headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: half characters of a class name, which UTF-8 does not have, become escapes."""
    return Response(json.dumps(content, allow_nan=False), status, headers, media_type="application/json")
