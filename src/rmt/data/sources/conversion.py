"""One shard, a parquet file or a WebDataset tar, local or remote: its rows as an Arrow file, its labels alone."""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmt.data.files import valid_name
from rmt.data.images import EXTENSIONS, MAX_BYTES
from rmt.data.sets import preview
from rmt.data.sources.remote import RemoteFile, read_text
from rmt.data.split_names import split_of
from rmt.errors import RMTError

Shard = Path | RemoteFile

_SCHEMA = pa.schema({"bytes": pa.binary(), "label": pa.int64(), "key": pa.string()})
_BATCH_ROWS = 256  # rows that are in memory at a time
_FEW_ROWS = 16  # of a parquet file, where one value may be repeated in every row at no cost
_CLASS_BYTES = 1024
_EXPANSION, _EXPANSION_FREE = 20, 64 * 2**20
"""Encoded images hardly compress: those of a shard may take so many times its bytes, and so many more."""


def convert(shard: Shard, target: Path, advance: Callable[[int], object], labelled: bool = True) -> None:
    """Write the rows of a shard to the Arrow file `target`, downloading a remote shard first.

    The columns are `bytes` (the encoded image, null where a row has none), `label` (int64; null in a shard without
    labels) and `key` (the name of the sample in a tar, else null). The file keeps the metadata of a parquet shard.
    Nothing in a shard is executed, unpickled or extracted to a path that the shard chooses.

    Args:
        shard: the shard.
        target: the file to write.
        advance: is called with the number of bytes downloaded, or for a local shard converted, as they come.
        labelled: every image must have a label.
    Raises:
        RMTError: the shard is missing, truncated, or has other contents.
        OSError: `target` cannot be written.
    """
    local = shard if isinstance(shard, Path) else target.with_suffix(".download")
    try:
        if isinstance(shard, RemoteFile):
            shard.download(local, advance)
        with _shard_errors(shard):
            metadata = None if is_tar(shard) else _checked(pq.read_schema(local), shard, labelled).metadata
        with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, _SCHEMA.with_metadata(metadata)) as writer:
            most = _EXPANSION * local.stat().st_size + _EXPANSION_FREE
            for batch in _batches(shard, local, labelled):
                most -= batch.nbytes
                if most < 0:
                    raise RMTError(
                        f"{shard}: its images take more than {_EXPANSION} times its size: not those of files"
                    )
                writer.write_batch(batch)
                if isinstance(shard, Path):
                    advance(batch.nbytes)
    finally:
        if isinstance(shard, RemoteFile):
            local.unlink(missing_ok=True)


def read_labels(shard: Shard, *, labelled: bool = True) -> pa.Table | None:
    """Read the column `label` of a parquet shard without its images, with the shard's metadata.

    Unless `labelled`, a shard without that column has labels that are null.

    None for a tar, for a server that does not send parts of a file, and for a shard that cannot be read: `convert`
    then says why.
    """
    if is_tar(shard):
        return None
    try:
        with open(shard, "rb") if isinstance(shard, Path) else shard.open() as source, pq.ParquetFile(source) as file:
            schema = pa.schema({"label": pa.int64()}, _checked(file.schema_arrow, shard, labelled).metadata)
            if _has_labels(file.schema_arrow):
                return file.read(columns=["label"]).cast(schema)
            return pa.table([pa.nulls(file.metadata.num_rows, pa.int64())], schema=schema)
    except RMTError:
        raise
    except Exception:  # what a server without range requests raises depends on fsspec's implementation
        return None


def class_names(shard: Shard, metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """Names of the classes; () if the data have none.

    They are the lines of `classes.txt` beside a tar, or above its folder if that is of a split, or the `ClassLabel` of
    the column `label` that Hugging Face `datasets` writes into the metadata of a parquet file.
    """
    if is_tar(shard):
        url = str(shard if isinstance(shard, RemoteFile) else shard.absolute())
        folder = url.rpartition("/")[0]
        above, _, name = folder.rpartition("/")
        is_part = bool(split_of(name) or name == "data") and not above.endswith("/")  # in s3://data it is the bucket
        folders = [folder, above] if is_part else [folder]
        text = next(filter(None, (read_text(f"{where}/classes.txt") for where in folders)), "")
        return _distinct(tuple(line.strip() for line in text.splitlines() if line.strip()), f"classes.txt of {shard}")
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = tuple(valid_name(str(name)) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return _distinct(names, f"the metadata of {shard}")


def _distinct(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The names. Raises `RMTError` if two classes have the same, which would make them one in every table."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RMTError(f"{where}: classes of the same name: {preview(twice)}; rename one")
    return names


def is_tar(shard: Shard) -> bool:
    return shard.name.endswith(".tar")


def size_of(shard: Shard) -> int:
    """Size in bytes; 0 if the server does not say. Raises `RMTError` for a missing file."""
    with _shard_errors(shard):
        return shard.stat().st_size if isinstance(shard, Path) else shard.size


def _batches(shard: Shard, path: Path, labelled: bool) -> Iterator[pa.RecordBatch]:
    with _shard_errors(shard):
        if is_tar(shard):
            samples = _tar_samples(shard, path, labelled)
            while rows := list(islice(samples, _BATCH_ROWS)):
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)
            return
        # The buffer has pages read one by one: a row group may be as large as the file.
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            # The sizes of row groups, not those of their columns: at an unknown compression or encryption of a column
            # pyarrow ends the process. What a file leaves out here is counted as it is read.
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
            most = _EXPANSION * path.stat().st_size + _EXPANSION_FREE
            bomb = RMTError(f"{shard}: decompresses to more than {_EXPANSION} times its size: not image files")
            if sum(sizes) > most:
                raise bomb
            unpacked = 0
            wanted = ["image", "label"] if _has_labels(file.schema_arrow) else ["image"]
            for batch in file.iter_batches(_FEW_ROWS, columns=wanted):
                image, count = batch["image"], len(batch)
                if (unpacked := unpacked + batch.nbytes) > most:
                    raise bomb
                if pa.types.is_struct(image.type):
                    image = pc.struct_field(image, "bytes")
                try:
                    label = batch["label"].cast(pa.int64()) if len(wanted) == 2 else pa.nulls(count, pa.int64())
                except pa.ArrowInvalid:
                    raise RMTError(f"{shard}: a label beyond 64 bits, which is not the number of a class") from None
                yield pa.record_batch([image.cast(pa.binary()), label, pa.nulls(count, pa.string())], schema=_SCHEMA)


def _tar_samples(shard: Shard, path: Path, labelled: bool) -> Iterator[dict[str, object]]:
    """The samples of a tar: neighbouring members that share a name up to the first dot, an image and its class.

    Unless `labelled` the class may be absent, and samples without an image are left out.
    """
    unpacked, most = 0, _EXPANSION * path.stat().st_size + _EXPANSION_FREE
    with tarfile.open(path) as tar:
        for key, members in groupby(tar, lambda member: _key_and_kind(member)[0]):
            images: list[bytes] = []
            labels: list[bytes] = []
            for member in members:
                kind = _key_and_kind(member)[1]
                if kind == "cls" and member.size > _CLASS_BYTES:  # a sparse member may claim any size
                    raise RMTError(f"{shard}: sample {key}: .cls has {member.size:,} bytes, not the number of a class")
                if f".{kind}" in EXTENSIONS and member.size > MAX_BYTES:
                    raise RMTError(f"{shard}: sample {key}: an image of {member.size:,} bytes, above {MAX_BYTES:,}")
                if kind != "cls" and f".{kind}" not in EXTENSIONS:
                    continue
                try:
                    file = tar.extractfile(member)
                except (KeyError, RecursionError):
                    raise RMTError(f"{shard}: {member.name} is a link to {member.linkname}, no member of it") from None
                if file is not None:
                    content = file.read(MAX_BYTES + 1)  # that of a link may be larger than the link's own size
                    unpacked += len(content)
                    if unpacked > most:
                        raise RMTError(f"{shard}: its links unpack to more than {_EXPANSION} times its size")
                    (labels if kind == "cls" else images).append(content)
            if not images and not (labels and labelled):
                continue
            if not labelled and not labels:
                labels = [b""]
            if len(images) != 1 or len(labels) != 1:
                raise RMTError(f"{shard}: sample {key}: each sample needs one image and a .cls")
            if not re.fullmatch(rb"-?[0-9]{1,18}", labels[0].strip()) and (labelled or labels[0]):
                raise RMTError(f"{shard}: sample {key}: .cls must hold the number of a class, not {labels[0][:20]!r}")
            yield {"bytes": images[0], "label": int(labels[0]) if labels[0] else None, "key": key}


def _key_and_kind(member: tarfile.TarInfo) -> tuple[str, str]:
    folder, slash, base = member.name.rpartition("/")
    key, _, kind = base.partition(".")
    return folder + slash + key, kind.lower()


def _has_labels(schema: pa.Schema) -> bool:
    return "label" in schema.names and pa.types.is_integer(schema.field("label").type)


def _checked(schema: pa.Schema, shard: Shard, labelled: bool) -> pa.Schema:
    """The schema of a parquet shard. Raises `RMTError` unless it has images and, if `labelled`, integer labels."""
    needed = ("image", "label") if labelled else ("image",)
    if absent := [name for name in needed if name not in schema.names]:
        raise RMTError(f"{shard}: no column {' or '.join(absent)}; it has {preview(schema.names)}")
    if twice := [name for name in ("image", "label") if schema.names.count(name) > 1]:
        raise RMTError(f"{shard}: more than one column {' and '.join(twice)}; write it with one")
    image = schema.field("image").type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise RMTError(f"{shard}: the column image must hold the bytes of image files, not {image}")
    if labelled and not _has_labels(schema):
        raise RMTError(f"{shard}: the column label must hold integers, not {schema.field('label').type}")
    return schema


@contextmanager
def _shard_errors(shard: Shard) -> Iterator[None]:
    """Turn what reading a missing or damaged shard raises into an `RMTError` of one line."""
    try:
        yield
    except FileNotFoundError:
        raise RMTError(f"{shard}: no such file") from None
    except PermissionError:
        raise RMTError(f"{shard}: no permission to read it") from None
    except (pa.ArrowException, tarfile.TarError, OSError, EOFError, ValueError) as error:
        kind = "tar" if is_tar(shard) else "parquet file"
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise RMTError(f"{shard}: not a whole {kind} ({reason}); copy it again") from None
