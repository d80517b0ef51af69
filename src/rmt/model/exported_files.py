"""The metadata of exported files, read without the libraries that run them: ONNX, OpenVINO's XML, PyTorch's .pt2.

All carry the JSON of model files (`checkpoints.py`) under the key `rmt`, with one more entry, `exported`. Reading it
neither runs code of the file nor takes more memory than `MAX_BYTES`.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from rmt.errors import RMTError

MAX_ONNX = 2**31  # protobuf's own limit
MAX_BYTES = 16 * 2**20
"""Of the metadata."""
SUFFIXES = (".onnx", ".xml", ".pt2")
_CUT = "it was cut off or is not such a file; export it again with rmt export"


def exported_metadata(path: Path) -> str:
    """The JSON text under `rmt` of an exported file, whose suffix is one of `SUFFIXES`.

    Raises:
        RMTError: the file cannot be read, or was written by another tool.
    """
    readers = {".onnx": _of_onnx, ".xml": _of_openvino, ".pt2": _of_pt2}
    try:
        text = readers[path.suffix](path)
    except (ValueError, OverflowError, expat.ExpatError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        # RuntimeError: a compression that Python lacks, or an archive with a password
        raise RMTError(f"{path} is not a readable {path.suffix} file ({error}): {_CUT}") from error
    if text is None:
        raise RMTError(f"{path} has no `rmt` metadata, so rmt export did not write it; export the model file again")
    return text


def _of_onnx(path: Path) -> str | None:
    """The entry `rmt` of `metadata_props` (field 14 of ModelProto). Other fields are skipped, not read."""
    found, size = None, path.stat().st_size
    if size > MAX_ONNX:
        raise ValueError(f"{size:,} bytes, and a protobuf message has at most {MAX_ONNX:,}")
    with path.open("rb") as file:
        for number, length in _fields(file, size):
            if number != 14:
                file.seek(length, 1)
                continue
            end = file.tell() + length
            entry = {}
            for part, count in _fields(file, end):
                if count > MAX_BYTES:
                    raise ValueError(f"metadata of {count:,} bytes")
                entry[part] = file.read(count)
            if entry.get(1) == b"rmt":
                found = entry.get(2, b"").decode()
    return found


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(number, length) of each length-delimited field of a protobuf message up to position `end`, at its content, which
    the caller reads or skips. Numbers (varint, 32 and 64 bits) are skipped."""
    while file.tell() < end:
        number, kind = divmod(_varint(file), 8)
        if kind == 0:
            _varint(file)
            continue
        length = {1: 8, 5: 4}.get(kind) or (_varint(file) if kind == 2 else -1)
        if length < 0 or number == 0 or file.tell() + length > end:
            raise ValueError("a field goes beyond the end")
        if kind == 2:
            yield number, length
        else:
            file.seek(length, 1)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the end is missing")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("not a protobuf message")


def _of_openvino(path: Path) -> str | None:
    """The attribute `value` of the element `rmt` inside `rt_info` of OpenVINO's XML."""
    found: list[str] = []
    parents: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if parents == ["net", "rt_info"] and tag == "rmt":
            found.append(attributes.get("value", ""))
        parents.append(tag)

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, lambda tag: parents.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    with path.open("rb") as file:
        parser.ParseFile(file)
    if found and len(found[0]) > MAX_BYTES:
        raise ValueError(f"metadata of {len(found[0]):,} bytes")
    return found[0] if found else None


def _of_pt2(path: Path) -> str | None:
    """The file `extra/rmt` of the archive. Loading the rest would run code, see `inference/exported`."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("/extra/rmt"):
                if entry.file_size > MAX_BYTES:
                    raise ValueError(f"metadata of {entry.file_size:,} bytes")
                return archive.read(entry).decode()
    return None
