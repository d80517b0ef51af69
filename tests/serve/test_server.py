"""A real server on a real socket: slow and rude clients, and an end that answers what was accepted."""

import json
import socket
import threading
import time

import pytest
from helpers.served import classifier, picture

pytest.importorskip("fastapi")

from rmt.errors import RMTError
from rmt.serve import server as module
from rmt.serve.app import create_app
from rmt.serve.hosted import Hosted
from rmt.serve.limits import Limits
from rmt.serve.server import address, open_socket, serve

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


class Running:
    """A server in a thread."""

    def __init__(self, hosted, limits):
        self.listener = open_socket("127.0.0.1", 0)
        self.port, self.servers = self.listener.getsockname()[1], []
        self.app = create_app(hosted, limits)
        started = threading.Event()
        original = module._Server.__init__

        def remember(server, *args):
            original(server, *args)
            self.servers.append(server)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module._Server, "__init__", remember)
            self.thread = threading.Thread(target=serve, args=(self.app, self.listener, limits, started.set))
            self.thread.start()
            started.wait(20)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def stop(self):
        self.servers[0].should_exit = True


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    return Hosted(classifier(tmp_path_factory.mktemp("served") / "a.safetensors"), device="cpu")


@pytest.fixture(scope="module")
def running(hosted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HEADER_SECONDS", 0.3)
        patch.setattr(module, "HEADER_BYTES", 4096)
        patch.setattr(module, "KEEP_ALIVE_SECONDS", 0.3)
        server = Running(hosted, Limits(max_connections=6, timeout=0.5))
        yield server
        server.stop()
        server.thread.join()


def read_all(client):
    """Everything until the server closes the connection."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def answer(client):
    """The status and the JSON of one answer."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += client.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return int(head.split()[1]), json.loads(body[:length])


def test_an_answer_comes_and_the_connection_stays(running):
    with running.connect() as client:
        for _ in range(2):
            client.sendall(POST % len(picture()) + picture())
            assert answer(client)[0] == 200


def test_the_answer_to_head_has_no_body(running):
    with running.connect() as client:
        for _ in range(2):
            client.sendall(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            found = client.recv(65536)
            assert found.startswith(b"HTTP/1.1 200 OK\r\n") and found.endswith(b"\r\n\r\n")
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(client)[0] == 200  # a body would have been read as the beginning of this answer


@pytest.mark.parametrize(
    "start",
    [b"", b"POST /predict HTTP/1.1\r\nHost:", POST % 3 + b"x" * 3 + b"POST /pre"],
    ids=["nothing", "half", "next"],
)
def test_headers_that_do_not_come_cost_the_connection(running, start):
    with running.connect() as client:
        client.sendall(start)
        began = time.monotonic()
        read_all(client)
        assert time.monotonic() - began < 5


def test_headers_that_the_busy_server_has_not_read_yet_do_not_count_as_late(running):
    loop = running.servers[0].servers[0].get_loop()
    with running.connect() as client:
        time.sleep(0.1)  # the server waits for the headers now
        loop.call_soon_threadsafe(time.sleep, 0.6)
        time.sleep(0.05)
        client.sendall(POST % len(picture()) + picture())
        assert answer(client)[0] == 200


def test_a_body_that_comes_too_slowly_is_refused(running):
    with running.connect() as client:
        client.sendall(POST % 1000 + b"x" * 10)
        assert answer(client) == (
            408,
            {"error": {"code": "too_slow", "message": "the request did not come within 0.5 s"}},
        )


def test_headers_without_end_are_refused(running):
    with running.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(50):
                client.sendall(b"X-Long: " + b"a" * 1000)
        except (ConnectionResetError, BrokenPipeError):
            return
        assert b"400" in read_all(client)[:20]


def test_connections_beyond_the_limit_get_a_503(running):
    crowd = [running.connect() for _ in range(12)]
    try:
        refused = [
            client for client in crowd if b"503 Service" in (found := _now(client)) and b"Retry-After: 1" in found
        ]
        assert 6 <= len(refused) < 12
    finally:
        for client in crowd:
            client.close()


def _now(client):
    client.settimeout(0.1)
    try:
        return client.recv(4096)
    except (TimeoutError, ConnectionResetError):
        return b""


def test_dropped_connections_leave_nothing_behind(running):
    for cut in (30, 150, 2000):
        with running.connect() as client:
            client.sendall((POST % len(picture()) + picture())[:cut])
    time.sleep(0.2)
    with running.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = read_all(client).decode()
    assert "rmt_body_bytes 0.0" in text and "rmt_images_waiting 0.0" in text


def test_the_end_answers_what_was_accepted(hosted, monkeypatch):
    """Stopped while three requests wait for the network: all are answered, and the thread of the network ends."""
    gate, run = threading.Event(), hosted.predictor.run
    monkeypatch.setattr(hosted.predictor, "run", lambda batch, **o: (gate.wait(10), run(batch, **o))[1])
    server = Running(hosted, Limits(timeout=20))
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.sendall(POST % len(picture()) + picture())
    time.sleep(0.2)
    server.stop()
    time.sleep(0.2)
    with pytest.raises(ConnectionError):
        server.connect()
    gate.set()
    assert [answer(client)[0] for client in clients] == [200, 200, 200]
    for client in clients:
        client.close()
    server.thread.join(10)
    assert not server.thread.is_alive()


def test_a_port_in_use_is_one_line(running):
    with pytest.raises(RMTError, match=f"--port {running.port}: Address already in use; choose another port, or 0"):
        open_socket("127.0.0.1", running.port)
    with pytest.raises(RMTError, match="--host 203.0.113.1"):
        open_socket("203.0.113.1", 0)
    assert address(running.listener if running.listener.fileno() >= 0 else open_socket("::1", 0)).startswith("http://")
