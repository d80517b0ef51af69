"""A download over a network that breaks, stalls, or sends what nobody asked for."""

import functools
import http.server
import json
import re
import threading
import time

import fsspec
import pytest

from rmt.data.sources import remote
from rmt.data.sources.remote import RemoteFile, list_folder, matching
from rmt.errors import RMTError

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    monkeypatch.setattr(remote, "_BLOCK", 1000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, `sent` bytes a connection, and then breaks it or falls silent; notes the ranges asked for."""

    def __init__(self, *args, asked, sent=10**6, ranges=True, silent=0.1, extra=b""):
        self.asked, self.sent, self.ranges, self.silent, self.extra = asked, sent, ranges, silent, extra
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "") if self.ranges else None
        # Sent in one piece and read in blocks; the pause before a break lets the client read what was sent.
        body = (CONTENT + self.extra)[int(found[1]) if found else 0 :]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.sent])
        self.wfile.flush()
        if self.sent < len(body):
            time.sleep(self.silent)
        self.close_connection = True


@pytest.fixture
def serve():
    servers = []

    def start(**options) -> tuple[str, list[str | None]]:
        asked: list[str | None] = []
        handler = functools.partial(Server, asked=asked, **options)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/train.parquet", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_broken_connection_is_resumed_where_it_broke(serve, tmp_path):
    url, asked = serve(sent=3000)
    received = []
    RemoteFile(url, len(CONTENT)).download(tmp_path / "file", received.append)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert asked[0] is None and len(asked) >= 4  # more breaks than attempts without progress are allowed
    starts = [int(re.findall(r"\d+", text)[0]) for text in asked[1:]]
    assert starts == sorted(starts) and all(start > 0 for start in starts)
    assert sum(received) == len(CONTENT)


def test_a_server_without_ranges_is_read_from_the_start_again(serve, tmp_path):
    url, _ = serve(sent=3000, ranges=False)
    with pytest.raises(RMTError, match="after 3 attempts"):
        RemoteFile(url, len(CONTENT)).download(tmp_path / "file")
    url, _ = serve(ranges=False)
    RemoteFile(url, len(CONTENT)).download(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_without_a_byte_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_IDLE", 0.2)
    url, asked = serve(sent=6000, silent=3.0)
    begin = time.monotonic()
    RemoteFile(url, len(CONTENT)).download(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert time.monotonic() - begin < 3 and len(asked) == 2


def test_no_more_is_written_than_the_index_names(serve, tmp_path):
    url, _ = serve(extra=b"x" * 50_000)
    with pytest.raises(RMTError, match="sends more than its 10,240 bytes"):
        RemoteFile(url, len(CONTENT)).download(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size <= len(CONTENT) + 1000


def test_an_image_is_read_up_to_its_bound(serve, monkeypatch):
    """Also from a server that ignores the range it is asked for."""
    url, _ = serve(ranges=False, extra=b"x" * 50_000)
    read = []

    def open_at(*args):
        source, start = original(*args)
        receive = source.read
        source.read = lambda count: read.append(receive(count)) or read[-1]
        return source, start

    original = remote._open_at
    monkeypatch.setattr(remote, "_open_at", open_at)
    with pytest.raises(RMTError, match="more than 20,000 bytes"):
        RemoteFile(url, 0).read(20_000)
    assert sum(map(len, read)) == 20_001
    assert RemoteFile(url, 0).read(100_000) == CONTENT + b"x" * 50_000


def test_a_file_of_unknown_size_is_read_to_its_end(serve, tmp_path):
    url, _ = serve()
    RemoteFile(url, 0).download(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_store_that_fails_three_times_is_named(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/file", CONTENT)
    opened, calls = remote._open_at, []

    def fails(times):
        def open_at(*args):
            calls.append(args)
            if len(calls) <= times:
                raise ConnectionResetError("the peer has gone")
            return opened(*args)

        calls.clear()
        monkeypatch.setattr(remote, "_open_at", open_at)

    file = RemoteFile("memory://bucket/file", len(CONTENT))
    fails(2)
    file.download(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT and len(calls) == 3
    fails(3)
    with pytest.raises(RMTError, match=r"bucket/file: cannot be read after 3 attempts \(the peer has gone\)"):
        file.download(tmp_path / "file")
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999", "data://x", "reference://x", f"https://{'a' * 100}", "git://x", "http://[::1"]
)
def test_what_is_no_address_is_one_line(address):
    for read in (list_folder, matching, lambda address: RemoteFile(f"{address}/x.png", 0).read(10)):
        if read is matching and "[" not in address:
            continue
        with pytest.raises(RMTError) as error:
            read(address)
        assert str(error.value).startswith(address) and "\n" not in str(error.value)


def test_a_name_with_half_a_surrogate_pair_is_no_file_of_an_index(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"train\ud800.parquet": 5}))
    with pytest.raises(RMTError, match="is not the name of a file in this folder"):
        list_folder(f"file://{tmp_path}")
