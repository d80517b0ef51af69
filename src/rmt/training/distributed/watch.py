"""No process of a run waits for a dead one: each death is noticed at once, named, and ends the run.

Each process keeps a connection to the main one. The operating system closes it when a process ends, however it ends,
and TCP's own probes close it when a machine is gone. A process that fails says why before; the main process then says
it for all of them, in one line.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

_GRACE = 5.0  # seconds that the training thread has to end by itself once the run is over
_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a silent machine is gone after a minute


@dataclass(frozen=True)
class Meeting:
    """Where the main process listens, and the word that lets a process in."""

    host: str
    port: int
    word: str


class Watch:
    """Common part of both ends: the verdict, and how this process ends when its training thread hangs."""

    def __init__(self) -> None:
        self.verdict = ""  # why the run is over, "" while it is not
        self.speaks = False  # whether this process is the one to say so
        self._over = threading.Event()
        self._leaving = threading.Event()

    def wait_for_verdict(self, seconds: float = _GRACE) -> str:
        """Why the run is over, "" when nobody has ended within so many seconds."""
        self._over.wait(seconds)
        return self.verdict

    def _end(self, verdict: str, speak: bool) -> None:
        """The run is over: lets the training thread say so; ends the process if that hangs in a collective."""
        if self._leaving.is_set() or self._over.is_set():
            return
        self.verdict, self.speaks = verdict, speak
        self._over.set()
        if self._leaving.wait(_GRACE):
            return
        if speak:
            print(f"rmt: {verdict}", file=sys.stderr, flush=True)
        os._exit(1)


class MainWatch(Watch):
    """The main process's end: waits for all others to come in, then for any of them to go."""

    def __init__(self, host: str, others: int) -> None:
        super().__init__()
        self._server = socket.create_server(("", 0), backlog=max(others, 1))
        self.meeting = Meeting(host, self._server.getsockname()[1], secrets.token_hex(16))
        self._lock = threading.Lock()
        self._links: list[socket.socket] = []
        _in_background(self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                link, _ = self._server.accept()
                _in_background(partial(self._listen, link))

    def _listen(self, link: socket.socket) -> None:
        _probe(link)
        lines = link.makefile("r", encoding="utf-8")
        hello = _next(lines)
        if not hello or not secrets.compare_digest(str(hello.get("word")), self.meeting.word):
            link.close()
            return
        with self._lock:
            self._links.append(link)
        last = _next(lines)
        if last is not None and "bye" in last:
            return
        name = f"rank {hello['rank']} (pid {hello['pid']} on {hello['host']})"
        self._end(f"{name}: {last['failed']}" if last else f"{name} died without a word: killed, or its machine", True)

    def leave(self, failure: str = "") -> None:
        """This process ends; with a failure, so do the others. It says the failure itself."""
        self._leaving.set()
        with self._lock:
            for link in self._links:
                _send(link, {"failed": failure} if failure else {"bye": True})
                if failure:
                    with contextlib.suppress(OSError):
                        link.shutdown(socket.SHUT_WR)
        self._server.close()


class OtherWatch(Watch):
    """Any other process's end."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__()
        self._rank = rank
        self._link = socket.create_connection((meeting.host, meeting.port), timeout=60)
        self._link.settimeout(None)
        _probe(self._link)
        _send(self._link, dict(word=meeting.word, rank=rank, pid=os.getpid(), host=socket.gethostname()))
        _in_background(self._listen)

    def _listen(self) -> None:
        last = _next(self._link.makefile("r", encoding="utf-8"))
        if last is not None and "bye" in last:
            return
        # Without a last word the main process cannot speak any more; one of the others does it.
        speak = last is None and self._rank == 1
        self._end(last["failed"] if last else "rank 0 died without a word: killed, or its machine", speak)

    def leave(self, failure: str = "") -> None:
        """This process ends; the main one is told why, and says it."""
        self._leaving.set()
        _send(self._link, {"failed": failure} if failure else {"bye": True})


def _probe(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the other end is gone, and its own listener knows
        link.sendall((json.dumps(message) + "\n").encode())


def _next(lines: Any) -> dict[str, Any] | None:
    """The next message; None when the connection is closed or what came is none."""
    try:
        return json.loads(lines.readline())
    except (OSError, ValueError):
        return None


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True, name="rmt-watch").start()
