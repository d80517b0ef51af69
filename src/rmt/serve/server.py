"""The process around the application: connections with limits, and an end that finishes what was accepted."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rmt.errors import RMTError
from rmt.serve.limits import Limits

HEADER_SECONDS = 20.0
HEADER_BYTES = 64 * 2**10
KEEP_ALIVE_SECONDS = 15
_TOO_MANY = b'{"error": {"code": "busy", "message": "there are too many connections now"}}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TOO_MANY), _TOO_MANY)
)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with the limits that it lacks: of connections, of the time and size of request headers, and
    of the time for which a client may leave an answer unread."""

    max_connections = 2048  # of a subclass that `serve` makes
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(_BUSY)
            transport.close()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # after a refusal: what still comes is not parsed
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_headers()
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        self._header_bytes = -HEADER_BYTES  # what follows in the same piece of data may be of the body
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._header_bytes -= len(body)
        super().on_body(body)

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(HEADER_SECONDS, self.transport.abort)  # if the client does not read the last answer

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _headers_are_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def open_socket(host: str, port: int) -> socket.socket:
    """A listening address. Raises RMTError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        text = f"--host {host} --port {port}: {reason}; choose another port, or 0 for any that is free"
        raise RMTError(text) from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, listener: socket.socket, limits: Limits, on_start: Callable[[], None]) -> None:
    """Answers requests until SIGTERM or Ctrl-C; then finishes those that were accepted. A second Ctrl-C ends at once.

    Args:
        app: of `create_app`.
        listener: of `open_socket`.
        limits: of connections and times.
        on_start: called once, when requests are answered.
    """
    connections = min(limits.max_connections, _raise_open_files(limits.max_connections + 256) - 256)
    protocol = type("LimitedConnection", (Connection,), {"max_connections": max(1, connections)})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=1024,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(2 * limits.timeout) + 5,
    )
    _Server(config, on_start).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        with super().capture_signals():
            yield
            if self.force_exit:
                logging.getLogger("uvicorn.error").disabled = True  # what is cancelled by a second Ctrl-C is no error
            else:
                self._captured_signals.clear()  # the end was asked for, and nothing was lost: exit code 0


def _raise_open_files(wanted: int) -> int:
    """Allow this process so many open files, if it may; returns how many it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft
