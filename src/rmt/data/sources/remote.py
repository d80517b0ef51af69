"""Files at an address that fsspec opens (`https://…`, `s3://…`): list a folder, download a file, read parts of one."""

import errno
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from rmt.errors import RMTError

INDEX = "index.json"
"""Name of the file beside the shards of `rmt shard` with their names and sizes, for servers that list no folders."""

_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt; twice that before the third
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

    def download(self, path: Path) -> None:
        """Download the file to `path`. Raises `RMTError` after three attempts, or if it arrives truncated."""
        system, inside = _file_system(self.url)
        _retry(self.url, lambda: system.get_file(inside, str(path)))
        if self.size and path.stat().st_size != self.size:
            raise RMTError(f"{self.url}: received {path.stat().st_size:,} of {self.size:,} bytes; try again")

    def open(self) -> Any:
        """A seekable binary file that reads parts on demand. Raises ValueError if the server does not send parts."""
        system, inside = _file_system(self.url)
        return _retry(self.url, lambda: system.open(inside, "rb"))


def list_folder(url: str) -> list[RemoteFile]:
    """The files in a folder at an address and in the folders directly below it, sorted by path.

    They are those of its `index.json` if there is one, else those that the server lists. Raises `RMTError` if there
    is neither.
    """
    folder = url.rstrip("/")
    system, inside = _file_system(folder)
    if (index := read_text(f"{folder}/{INDEX}")) is not None:
        try:
            return [RemoteFile(f"{folder}/{name}", int(size)) for name, size in sorted(json.loads(index).items())]
        except (ValueError, AttributeError, TypeError):
            raise RMTError(f"{url}/{INDEX}: not an index as `rmt shard` writes it") from None
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


def read_text(url: str) -> str | None:
    """The text of a small file; None if there is none."""
    system, path = _file_system(url)
    if not _retry(url, lambda: system.exists(path)):
        return None
    return _retry(url, lambda: system.cat_file(path)).decode("utf-8")


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path inside. Not kept, since no instance survives a fork."""
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        protocol = url.partition("://")[0]
        package = _PACKAGES.get(protocol, "a package for it")
        raise RMTError(f"{url}: reading {protocol}:// needs the package {package}: pip install {package}") from None
    except ValueError as error:
        raise RMTError(f"{url}: addresses of this kind cannot be read ({error})") from None


def _retry(url: str, read: Callable[[], T]) -> T:
    """What `read` returns. Network errors may be temporary, so they are an `RMTError` only after three attempts."""
    from aiohttp import ClientError  # comes with `datasets`, for http; other file systems raise OSError

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return read()
        except FileNotFoundError:
            raise RMTError(f"{url}: no such file at this address") from None
        except PermissionError:
            raise RMTError(f"{url}: no permission to read it; are the credentials set?") from None
        except (OSError, ClientError) as error:
            if getattr(error, "errno", None) in _LOCAL_DISK:
                raise
            if attempt == _ATTEMPTS:
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                raise RMTError(f"{url}: cannot be read after {_ATTEMPTS} attempts ({reason})") from None
        time.sleep(_PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
