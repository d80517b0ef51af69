"""One shard, here or at an address: its rows as an Arrow file, its labels and class names without its images."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmt.data.images import EXTENSIONS
from rmt.data.sources.remote import RemoteFile, read_text
from rmt.data.sources.shards import COLUMNS, first_line
from rmt.errors import RMTError

Shard = Path | RemoteFile

_SCHEMA = pa.schema({"bytes": pa.binary(), "name": pa.string(), "label": pa.int64()})
_ROWS = 256  # that go into the Arrow file at a time


def convert(shard: Shard, target: Path) -> None:
    """Writes the shard's rows as an Arrow file. Raises RMTError for a shard that is cut or holds other columns."""
    tar = is_tar(shard)
    local = shard if isinstance(shard, Path) else target.with_suffix(".download")
    if isinstance(shard, RemoteFile):
        shard.fetch(local)
    try:
        schema = _SCHEMA if tar else _SCHEMA.with_metadata(pq.read_schema(local).metadata)
        with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in _tar_rows(local) if tar else _parquet_rows(local):
                writer.write_batch(batch)
    except (pa.ArrowException, tarfile.TarError, EOFError, KeyError, ValueError) as error:
        kind = "tar" if tar else "parquet file"
        raise RMTError(f"{shard}: not a whole {kind} ({first_line(error)}); copy it again") from None
    finally:
        if isinstance(shard, RemoteFile):
            local.unlink()


def _parquet_rows(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        _check_columns(file, path)
        for batch in file.iter_batches(batch_size=_ROWS, columns=COLUMNS):
            image, label = batch.column("image"), batch.column("label").cast(pa.int64())
            yield pa.record_batch(
                [image.field("bytes").cast(pa.binary()), image.field("path").cast(pa.string()), label], schema=_SCHEMA
            )


def _tar_rows(path: Path) -> Iterator[pa.RecordBatch]:
    """The samples of a tar: members that share a name up to the first dot, an image and its class number."""
    names: list[str] = []
    images: list[bytes | None] = []
    labels: list[int | None] = []
    with tarfile.open(path) as tar:
        for member in tar:
            folder, slash, base = member.name.rpartition("/")
            key, _, kind = base.partition(".")
            if not member.isfile() or not (kind == "cls" or "." + kind.lower() in EXTENSIONS):
                continue
            name = folder + slash + key
            if not names or names[-1] != name:
                if len(names) == _ROWS:
                    yield pa.record_batch([images, names, labels], schema=_SCHEMA)
                    names, images, labels = [], [], []
                names.append(name)
                images.append(None)
                labels.append(None)
            content = tar.extractfile(member).read()  # type: ignore[union-attr]
            if kind == "cls":
                labels[-1] = int(content)
            else:
                images[-1] = content
    if names:
        yield pa.record_batch([images, names, labels], schema=_SCHEMA)


def _check_columns(file: pq.ParquetFile, where: Shard) -> None:
    absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if absent:
        raise RMTError(f"{where}: no column {' or '.join(absent)}; it has {', '.join(file.schema_arrow.names[:5])}")


@contextmanager
def _parquet(shard: Shard) -> Iterator[pq.ParquetFile | None]:
    """A parquet shard opened for parts of it; None where the server does not give parts."""
    if isinstance(shard, Path):
        with pq.ParquetFile(shard) as file:
            yield file
        return
    source = shard.open()
    try:
        opened = pq.ParquetFile(source)
    except (ValueError, pa.ArrowException):
        source.close()
        yield None
        return
    with source, opened as file:
        yield file


def label_column(shard: Shard) -> Any:
    """The labels of a parquet shard, read without its images; None where that cannot be: a tar, or no parts."""
    if is_tar(shard):
        return None
    with _whole(shard), _parquet(shard) as file:
        if file is None:
            return None
        _check_columns(file, shard)
        return file.read(columns=["label"]).column("label").combine_chunks()


def class_names(shard: Shard) -> tuple[str, ...] | None:
    """Of tars the lines of `classes.txt` beside them, () without one; of parquet the names in the metadata.

    None where the metadata cannot be read without the images; then `names_in` finds them in the Arrow file's.
    """
    if is_tar(shard):
        beside = str(shard).rpartition("/")[0] + "/classes.txt"
        if isinstance(shard, RemoteFile):
            text = read_text(beside)
        else:
            text = Path(beside).read_text(encoding="utf-8") if Path(beside).is_file() else None
        return tuple(line.strip() for line in (text or "").splitlines() if line.strip())
    with _whole(shard), _parquet(shard) as file:
        return None if file is None else names_in(file.schema_arrow.metadata)


def names_in(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """The names of the ClassLabel `label` in what `datasets` writes into a file's metadata; () where there is none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def is_tar(shard: Shard) -> bool:
    return str(shard).endswith(".tar")


@contextmanager
def _whole(shard: Shard) -> Iterator[None]:
    """Turns what a shard that is cut or missing raises into one line."""
    try:
        yield
    except (pa.ArrowException, FileNotFoundError) as error:
        raise RMTError(f"{shard}: not a whole parquet file ({first_line(error)}); copy it again") from None
