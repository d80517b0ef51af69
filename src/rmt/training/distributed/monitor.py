"""Ends a run as soon as one of its processes fails or dies, with one line that names the process.

Collectives do not return when another process dies: NCCL waits until its timeout. So each process keeps one more TCP
connection to the main process (rank 0). The operating system closes it when the process ends, however it ends, and TCP
keepalive closes it about a minute after a machine stops answering. A process that ends by itself first sends the
reason. The main process prints it for all; when the main process is the one that died, rank 1 prints.
"""

import os
import secrets
import socket
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait

from rmt.terminal import complain
from rmt.training.distributed.processes import broadcast_from_main, rank, world_size

_GRACE = 5.0  # seconds that the training thread has to end by itself after another process has failed
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, probes


class Monitor:
    """Watches the connections to the other processes from a background thread. All processes create theirs together.

    Args:
        address: the main process's machine, as the others reach it.

    Attributes:
        failure: why another process has ended the run; "" while none has.
        reports: whether this process is the one that prints `failure`.
    """

    failure: str
    reports: bool

    def __init__(self, address: str) -> None:
        self.failure = ""
        self.reports = False
        self._failed = threading.Event()
        self._leaving = threading.Event()
        self._rank = rank()
        self._name = f"rank {self._rank} (pid {os.getpid()} on {socket.gethostname()})"
        self._peers: dict[Connection, str] = {}  # of the main process all others, of the others the main process
        listener = None
        if self._rank == 0:
            key = secrets.token_bytes()
            listener = Listener(("", 0), backlog=world_size(), authkey=key)
            _, port = listener.address
            broadcast_from_main(lambda: (port, key))
        else:
            port, key = broadcast_from_main(lambda: (0, b""))
            connection = Client((address, port), authkey=key)
            connection.send(self._name)
            self._add(connection, "rank 0")
        threading.Thread(target=self._watch, args=(listener,), daemon=True, name="rmt-monitor").start()

    def wait_for_failure(self) -> str:
        """Why another process has ended the run; "" if none has within a few seconds."""
        self._failed.wait(_GRACE)
        return self.failure

    def leave(self, failure: str = "") -> None:
        """Tells the others that this process ends: the run is complete, or has failed here, so that they end too."""
        self._leaving.set()
        for connection in list(self._peers):
            with suppress(OSError):  # that process has ended already
                connection.send(failure and f"{self._name}: {failure}")

    def _add(self, connection: Connection, name: str) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):  # Linux has all, other systems some
                    s.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._peers[connection] = name

    def _watch(self, listener: Listener | None) -> None:
        while listener and len(self._peers) < world_size() - 1:
            with suppress(AuthenticationError, EOFError, OSError):  # something else connected to the port
                connection = listener.accept()
                self._add(connection, connection.recv())
        peers = dict(self._peers)
        while peers:
            for connection in peers.keys() & wait(list(peers)):
                name, reports = peers.pop(connection), self._rank == 0
                try:
                    failure = connection.recv()
                except (EOFError, OSError):
                    failure = f"{name} died without a message: it was killed, or its machine failed"
                    reports = self._rank <= 1
                if failure:
                    self._end(failure, reports)
                    return

    def _end(self, failure: str, reports: bool) -> None:
        """Lets the training thread end the process, or ends it here if that thread waits in a collective."""
        if self._leaving.is_set():
            return
        self.failure, self.reports = failure, reports
        self._failed.set()
        if self._leaving.wait(_GRACE):
            return
        if self._rank == 0:
            self.leave(failure)
        if reports:
            complain(f"rmt: {failure}", flush=True)
        os._exit(1)
