"""What every request passes first: where it comes from, its token, the headers of its answer, the counters."""

import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmt.serve.errors import Refusal
from rmt.serve.metrics import Metrics

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "draw", "download", "server")},
}
"""Path -> file of the page and its type."""
OPEN = ("/health", "/openapi.json", *PAGE)
"""Paths that need no token."""
_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }.items()
]


class Guard:
    """ASGI middleware.

    Args:
        app: the application behind it.
        metrics: what is counted.
        hosts: names in the Host header that are answered; any name if empty. Another name may be that of a page of
            somebody else, which has let its name point to this machine.
        token: what the header `Authorization: Bearer …` must have, unless empty.
    """

    app: ASGIApp
    metrics: Metrics
    hosts: frozenset[str]

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: Sequence[str] = (), token: str = "") -> None:
        self.app, self.metrics, self.hosts = app, metrics, frozenset(host.lower() for host in hosts)
        self.token: bytes = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope.get("method") == "HEAD":  # is answered as GET; the ASGI server, which knows the method, sends no body
            scope = {**scope, "method": "GET"}
        began, status = time.monotonic(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                further = [header for header in _HEADERS if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *further]}
            try:
                await send(message)
            except RuntimeError as error:
                if "is closed" not in str(error):  # of uvloop: the connection was lost a moment ago
                    raise

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self.app(scope, receive, send_with_headers)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send_with_headers)
        finally:
            self.metrics.request(scope["path"], status, time.monotonic() - began)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            raise Refusal(403, "this server does not answer to that host name: see --allowed-hosts")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise Refusal(403, "requests from pages of other sites are not answered")
        if self.token and path not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self.token)
            if scheme.lower() != "bearer" or not right:
                raise Refusal(401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _netloc(origin: str) -> str:
    """The host and port of an Origin header; nothing for one that is broken."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
