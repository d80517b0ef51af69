"""The images in a request: raw bytes, multipart/form-data or JSON with base64. Nothing in it is opened as path or URL.

Bytes are counted as they come, for the request and for all requests together, and a sender that is too slow is refused.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from rmt.serve.errors import Busy, Refusal
from rmt.serve.limits import Limits

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # or any client could fill the log with warnings
RAW = ("application/octet-stream", "image/")
MULTIPART = "multipart/form-data"
JSON = "application/json"
FIELD = "image"
"""Name of the form fields with images."""

Encoded = Annotated[str, Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})]


class JSONImages(BaseModel):
    """One image or several, as base64."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    images: Annotated[list[Encoded], FailFast()] = Field(min_length=1)  # or a million empty ones make as many errors


class Gone(Exception):
    """The client has closed the connection."""


class Budget:
    """Bytes that all requests hold together. Used by one thread, that of the event loop."""

    limit: int
    used: int

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, count: int) -> None:
        """Raises Busy when there are not so many left."""
        if self.used + count > self.limit:
            raise Busy
        self.used += count

    def give_back(self, count: int) -> None:
        self.used -= count


class Body:
    """The body of one request, whose bytes are taken from the budget until `release`."""

    request: Request
    limits: Limits
    budget: Budget
    size: int

    def __init__(self, request: Request, limits: Limits, budget: Budget) -> None:
        self.request, self.limits, self.budget = request, limits, budget
        self.size = 0

    async def images(self) -> list[bytes]:
        """Returns the bytes of each image, at least one. Raises Refusal or Gone."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        known = kind in (MULTIPART, JSON) or kind == RAW[0] or kind.startswith(RAW[1])
        if not known:
            raise Refusal(415, f"send an image as image/…, {RAW[0]}, {MULTIPART} or {JSON}")
        declared = self.request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.limits.max_body:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.limits.timeout):
                found = await self._form() if kind == MULTIPART else b"".join([part async for part in self._chunks()])
        except TimeoutError:
            text = f"the request did not come within {self.limits.timeout:g} s"
            raise Refusal(408, text, {"Connection": "close"}) from None
        if isinstance(found, bytes):
            found = await run_in_threadpool(decode_json, found) if kind == JSON else [found]
        if not found or not all(found):
            raise Refusal(422, "the request has no image" if not any(found) else "one of the images is empty")
        if len(found) > self.limits.max_images:
            raise Refusal(413, f"{len(found)} images: a request may have {self.limits.max_images}")
        return found

    def release(self) -> None:
        self.budget.give_back(self.size)
        self.size = 0

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.request.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            if self.size + len(part) > self.limits.max_body:
                raise self._too_large()
            self.budget.take(len(part))
            self.size += len(part)
            more = message.get("more_body", False)
            yield part

    async def _form(self) -> list[bytes]:
        parser = _InMemory(self.request.headers, self._chunks(), max_files=self.limits.max_images, max_fields=0)  # type: ignore[arg-type]
        try:
            form = await parser.parse()
        except MultiPartException as error:
            status = 413 if error.message.startswith("Too many files") else 422
            raise Refusal(status, _sentence(error.message)) from None
        except (ValueError, KeyError) as error:  # parts with broken headers
            raise Refusal(422, "the form cannot be read") from error
        files = []
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile) or name != FIELD:
                raise Refusal(422, f"send each image as a file in the form field {FIELD!r}")
            files.append(await part.read())
        return files

    def _too_large(self) -> Refusal:
        text = f"the request is larger than {self.limits.max_body / 2**20:.3g} MB"
        return Refusal(413, text, {"Connection": "close"})


class _InMemory(MultiPartParser):
    spool_max_size = 2**40  # files are written nowhere: the body's own limit bounds them


def _sentence(message: str) -> str:
    return "the form cannot be read: " + message[:1].lower() + message[1:].rstrip(".")


def decode_json(body: bytes) -> list[bytes]:
    """Returns the images in the JSON of `JSONImages`. Raises Refusal."""
    try:
        parsed = JSONImages.model_validate_json(body)
    except ValidationError:
        raise Refusal(422, 'the JSON must be {"images": [BASE64, …]}') from None
    try:
        return [base64.b64decode(text, validate=True) for text in parsed.images]
    except (binascii.Error, ValueError):
        raise Refusal(422, "an image is not valid base64") from None
