"""Files at an address that fsspec opens (`https://…`, `s3://…`): list a folder, download a file, read parts of one."""

import contextlib
import errno
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from rmt.data.files import decode_text
from rmt.errors import RMTError

INDEX = "index.json"
"""Name of the file beside the shards of `rmt shard` with their names and sizes, for servers that list no folders."""

_ATTEMPTS = 3  # without a byte received in between
_PAUSE = 1.0  # seconds before the second attempt; twice that before the third
_IDLE = 30.0  # seconds without a byte after which a connection counts as broken; the whole transfer has no limit
_BLOCK = 2**20  # bytes
_TEXT_BYTES = 64 * 2**20  # the names and sizes of half a million shards
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_LOCAL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

T = TypeVar("T")


def is_url(data: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", data) is not None


@dataclass(frozen=True)
class RemoteFile:
    """One file at an address, and its size in bytes; 0 if the server does not say."""

    url: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def __str__(self) -> str:
        return self.url

    def download(self, path: Path, advance: Callable[[int], object] = lambda count: None) -> None:
        """Download the file to `path`. A broken connection is resumed where it broke, by a range request.

        Args:
            path: the file to write.
            advance: is called with the number of bytes of each block received.
        Raises:
            RMTError: three attempts in a row brought no byte, or the server sends more than `size` bytes.
            OSError: `path` cannot be written.
        """
        system, inside = _file_system(self.url)
        with open(path, "wb") as target:

            def receive() -> None:
                source, start = _open_at(system, inside, target.tell())
                with contextlib.closing(source):
                    target.seek(start)
                    target.truncate()
                    while block := source.read(_BLOCK):
                        target.write(block)
                        advance(len(block))
                        if self.size and target.tell() > self.size:
                            raise RMTError(f"{self.url}: sends more than its {self.size:,} bytes; is its index old?")
                if self.size and target.tell() < self.size:
                    raise ConnectionError(f"received {target.tell():,} of {self.size:,} bytes")

            _retry(self.url, receive, progress=target.tell)

    def read(self, most: int) -> bytes:
        """The bytes of a small file. Raises RMTError, also for one of more than `most` bytes."""
        data = _retry(self.url, lambda: _read_up_to(*_file_system(self.url), most + 1))
        if len(data) > most:
            raise RMTError(f"{self.url}: more than {most:,} bytes")
        return bytes(data)

    def open(self) -> Any:
        """A seekable binary file that reads parts on demand. Raises ValueError if the server does not send parts."""
        system, inside = _file_system(self.url)
        return _retry(self.url, lambda: system.open(inside, "rb"), impossible=(NotImplementedError,))


def list_folder(url: str) -> list[RemoteFile]:
    """The files in a folder at an address and in the folders directly below it, sorted by path.

    They are those of its `index.json` if there is one, else those that the server lists. Raises `RMTError` if there
    is neither.
    """
    folder = url.rstrip("/")
    system, inside = _file_system(folder)
    if (index := read_text(f"{folder}/{INDEX}")) is not None:
        return [RemoteFile(f"{folder}/{name}", size) for name, size in sorted(_read_index(index, url).items())]
    try:
        found = _retry(url, lambda: system.find(inside, maxdepth=2, detail=True))
    except RMTError:
        found = {}
    if not found:
        raise RMTError(
            f"{url}: no {INDEX} there and no listing of the folder; put the shards there with the {INDEX} that "
            "`rmt shard` writes"
        )
    return [RemoteFile(system.unstrip_protocol(path), int(info.get("size") or 0)) for path, info in found.items()]


def matching(url: str) -> list[RemoteFile]:
    """The files at an address with `*`, `?` or `[…]`, sorted. Raises `RMTError` if the server cannot list them."""
    system, inside = _file_system(url)
    # TypeError: what fsspec makes of an address with a bracket, such as http://[::1
    impossible = (ValueError, NotImplementedError, TypeError)
    found: dict[str, dict[str, Any]] = _retry(url, lambda: system.glob(inside, detail=True), impossible=impossible)
    files = ((path, info) for path, info in sorted(found.items()) if info.get("type") != "directory")
    return [RemoteFile(system.unstrip_protocol(path), int(info.get("size") or 0)) for path, info in files]


def remote_file(url: str) -> RemoteFile:
    """One file at an address, with its size. Raises `RMTError` if there is none."""
    system, inside = _file_system(url)
    return RemoteFile(url, int(_retry(url, lambda: system.info(inside)).get("size") or 0))


def _read_index(text: str, url: str) -> dict[str, int]:
    """Name and size in bytes of each file in an index. Raises RMTError for anything else."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise RMTError(f"{url}/{INDEX}: not an index as `rmt shard` writes it: a JSON object of names and sizes")
    for name, size in index.items():
        if type(size) is not int or not 0 <= size < 2**50:
            raise RMTError(f"{url}/{INDEX}: {name[:60]!r} has the size {str(size)[:40]}, not a number of bytes")
        odd = "\0" in name or ":" in name or name.startswith("/") or not _is_encodable(name)
        if odd or not 0 < len(name) <= 1024 or ".." in name.split("/"):
            raise RMTError(f"{url}/{INDEX}: {name[:60]!r} is not the name of a file in this folder")
    return index


def _is_encodable(name: str) -> bool:
    """Whether a name has no half of a surrogate pair, which JSON can write and no address can have."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(url: str) -> str | None:
    """The text of a small file; None if there is none."""
    system, path = _file_system(url)
    if not _retry(url, lambda: system.exists(path)):
        return None
    data = _retry(url, lambda: _read_up_to(system, path, _TEXT_BYTES + 1))
    if len(data) > _TEXT_BYTES:
        raise RMTError(f"{url}: more than {_TEXT_BYTES:,} bytes, which no such file needs")
    try:
        return decode_text(bytes(data))
    except UnicodeDecodeError:
        raise RMTError(f"{url}: not a text in UTF-8") from None


def _open_at(system: Any, path: str, start: int) -> tuple[Any, int]:
    """A binary file to read on from byte `start`, and where it really starts: 0 if an HTTP server ignores ranges."""
    if "http" not in system.protocol:
        file = system.open(path, "rb")
        file.seek(start)
        return file, start
    # block_size=0 is one request for all of the rest, and a size keeps fsspec from asking for it first.
    ranges = {"headers": {"Range": f"bytes={start}-"}} if start else {}
    file = system.open(path, "rb", block_size=0, size=1, **ranges)
    return file, start if file.r.status == HTTPStatus.PARTIAL_CONTENT else 0


def _read_up_to(system: Any, path: str, most: int) -> bytearray:
    """The first bytes of a file. A server may ignore the range that it is asked for, and send without an end."""
    source, _ = _open_at(system, path, 0)
    data = bytearray()
    with contextlib.closing(source):
        while len(data) < most and (block := source.read(min(_BLOCK, most - len(data)))):
            data += block
    return data


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path inside. Not kept, since no instance survives a fork."""
    options = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout  # comes with `datasets`, and takes a moment to import

        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_IDLE, sock_read=_IDLE)}}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError:
        protocol = url.partition("://")[0]
        package = _PACKAGES.get(protocol)
        needs = f"the package {package}: pip install {package}" if package else "a package of fsspec's that is missing"
        raise RMTError(f"{url}: reading {protocol}:// needs {needs}") from None
    except (ValueError, TypeError) as error:
        raise RMTError(f"{url}: addresses of this kind cannot be read ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _retry(
    url: str,
    read: Callable[[], T],
    progress: Callable[[], int] = lambda: 0,
    impossible: tuple[type[Exception], ...] = (ValueError, NotImplementedError),
) -> T:
    """What `read` returns. Network errors may be temporary: they are an `RMTError` after three attempts.

    An attempt that has changed `progress()` does not count. The errors `impossible` of an address that is none, such as
    one with a port of 99999, are an `RMTError` at once.
    """
    from aiohttp import ClientError  # comes with `datasets`, for http; other file systems raise OSError

    attempt, reached = 0, progress()
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise RMTError(f"{url}: no such file at this address") from None
        except PermissionError:
            raise RMTError(f"{url}: no permission to read it; are the credentials set?") from None
        except (OSError, ClientError) as error:
            if getattr(error, "errno", None) in _LOCAL_DISK:
                raise
            attempt = attempt + 1 if progress() == reached else 1
            reached = progress()
            if attempt == _ATTEMPTS:
                raise RMTError(f"{url}: cannot be read after {_ATTEMPTS} attempts ({_one_line(error)})") from None
        except impossible as error:
            raise RMTError(f"{url}: cannot be read ({_one_line(error)})") from None
        time.sleep(_PAUSE * 2 ** (attempt - 1))
