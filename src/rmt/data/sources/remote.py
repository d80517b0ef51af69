"""Shards at an address (`https://…`, `s3://…`, whatever fsspec opens): which there are, and how one comes here."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rmt.errors import RMTError

INDEX = "index.json"
"""Beside the shards of `rmt shard`: their names and sizes, for servers that do not list a folder."""

_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt; twice that before the third
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

T = TypeVar("T")


def is_url(data: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", data) is not None


@dataclass(frozen=True)
class RemoteFile:
    """One file at an address, and its size in bytes; 0 where the server does not say."""

    address: str
    size: int

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    def __str__(self) -> str:
        return self.address

    def fetch(self, path: Path) -> None:
        """Downloads the file to `path`. Raises RMTError after a few attempts, or when it comes cut."""
        _attempted(self.address, lambda: _system(self.address).get_file(_inside(self.address), str(path)))
        if self.size and path.stat().st_size != self.size:
            raise RMTError(f"{self.address}: {path.stat().st_size:,} of {self.size:,} bytes came; try again")

    def open(self) -> Any:
        """A seekable binary file that reads the parts asked for. Raises ValueError where the server gives no parts."""
        return _attempted(self.address, lambda: _system(self.address).open(_inside(self.address), "rb"))


def list_folder(address: str) -> list[RemoteFile]:
    """The files in a folder at an address and in the folders directly below it, by path.

    By its `index.json` where there is one, else by what the server lists. Raises RMTError when neither is to be had.
    """
    system, root = _system(address), _inside(address).rstrip("/")
    index = f"{root}/{INDEX}"
    if _attempted(address, lambda: system.exists(index)):
        try:
            entries = json.loads(_attempted(index, lambda: system.cat_file(index)))
            return [RemoteFile(f"{address.rstrip('/')}/{name}", int(size)) for name, size in sorted(entries.items())]
        except (ValueError, AttributeError, TypeError):
            raise RMTError(f"{address}/{INDEX}: not an index as `rmt shard` writes it") from None
    try:
        found = _attempted(address, lambda: system.find(root, maxdepth=2, detail=True))
    except RMTError:
        found = {}
    if not found:
        raise RMTError(
            f"{address}: no {INDEX} there and no listing of the folder; put the shards there with the {INDEX} that "
            "`rmt shard` writes"
        )
    return [RemoteFile(system.unstrip_protocol(path), int(info.get("size") or 0)) for path, info in found.items()]


def read_text(address: str) -> str | None:
    """The text of a small file; None when there is none."""
    system, path = _system(address), _inside(address)
    if not _attempted(address, lambda: system.exists(path)):
        return None
    return _attempted(address, lambda: system.cat_file(path)).decode("utf-8")


def _system(address: str) -> Any:
    """The file system behind an address; asked for anew each time, since no instance survives a fork."""
    import fsspec

    protocol = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address)[0]
    except ImportError:
        package = _PACKAGES.get(protocol, "a package for it")
        raise RMTError(f"{address}: reading {protocol}:// needs the package {package}: pip install {package}") from None
    except ValueError as error:
        raise RMTError(f"{address}: addresses of this kind cannot be read ({error})") from None


def _inside(address: str) -> str:
    import fsspec

    return fsspec.core.url_to_fs(address)[1]


def _attempted(what: str, do: Callable[[], T]) -> T:
    """What `do` returns; networks fail in passing, so it is tried again before that is an RMTError."""
    from aiohttp import ClientError  # comes with `datasets`, for http; other systems raise OSErrors

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return do()
        except FileNotFoundError:
            raise RMTError(f"{what}: no such file at this address") from None
        except PermissionError:
            raise RMTError(f"{what}: no permission to read it; are the credentials set?") from None
        except (OSError, ClientError) as error:
            if attempt == _ATTEMPTS:
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                raise RMTError(f"{what}: cannot be read after {_ATTEMPTS} attempts ({reason})") from None
        time.sleep(_PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
