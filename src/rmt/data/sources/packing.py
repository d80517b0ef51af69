"""`rmt shard`: an image folder packed into parquet shards, in parallel, verified, and restartable."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmt.atomic import replace_file, write_text
from rmt.data.images import BadImage, read_image
from rmt.data.randomness import PACK, permutation
from rmt.data.sources.folders import FolderSet
from rmt.data.sources.remote import INDEX
from rmt.data.splits import split_folders
from rmt.errors import RMTError
from rmt.output_folder import create_or_reopen

PLAN = "rmt-shard.json"
_ROW_GROUP = 100  # rows that a streaming reader fetches at a time, about 11 MB of ImageNet


@dataclass(frozen=True)
class Job:
    """One shard to be: which files in which order, and what each is labelled."""

    target: Path
    root: Path
    files: tuple[str, ...]  # below root
    labels: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass
class Packed:
    """What is in one shard, or in all of them."""

    images: int = 0
    bytes: int = 0  # of the images, as they were
    written: int = 0  # shards written by this call
    bad: dict[str, str] = field(default_factory=dict)  # left out: name -> reason

    def add(self, other: "Packed") -> None:
        self.images += other.images
        self.bytes += other.bytes
        self.written += other.written
        self.bad |= other.bad


def pack(
    folder: str | Path,
    out: str | Path,
    *,
    shard_images: int = 2_000,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
    console: Console | None = None,
) -> Packed:
    """Every image of `folder` (`train/CLASS/*` and `val/CLASS/*`, or class folders) into shards in `out`.

    Each image is decoded once: one that cannot be is left out and named. Files go in as they are, not encoded again.
    Each shard is read back and compared before it gets its name. Shards that are there and whole are kept, so a
    stopped call is simply made again. `shuffle` puts the training images in a random order, which streaming needs. The
    file `index.json` lists the shards, for servers that do not.

    Raises RMTError when `out` holds something else, for bad data, and where the disk refuses.
    """
    if shard_images < 1 or workers < 0 or seed < 0:
        raise RMTError("--shard-images must be at least 1, --workers and --seed at least 0")
    console = console or Console(stderr=True, highlight=False)
    source, folder = Path(folder).expanduser(), Path(out).expanduser()
    sources: dict[str, str] = {}
    jobs: list[Job] = []
    sets: dict[str, FolderSet] = {split: FolderSet(root) for split, root in split_folders(source).items()}
    if len({images.classes for images in sets.values()}) > 1:
        raise RMTError(f"{source}: train and val have different classes")
    for split, images in sets.items():
        order = np.arange(len(images))
        if shuffle and split == "train":
            order = permutation(len(images), PACK, seed)
        sources[split] = _fingerprint(images)
        jobs += _jobs(images, order, split, folder, shard_images)
    _keep_to({"shard_images": shard_images, "shuffle": shuffle, "seed": seed, "sources": sources}, folder)
    total = Packed()
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for packed in bar.track(_run(jobs, workers or os.cpu_count() or 1), total=len(jobs)):
            total.add(packed)
    sizes = {job.target.name: job.target.stat().st_size for job in jobs}
    write_text(folder / INDEX, json.dumps(sizes, indent=2) + "\n")
    return total


def _jobs(images: FolderSet, order: np.ndarray, split: str, out: Path, shard_images: int) -> Iterator[Job]:
    count = -(-len(order) // shard_images)
    for number in range(count):
        rows = order[number * shard_images : (number + 1) * shard_images].tolist()
        yield Job(
            target=out / f"{split}-{number:05d}-of-{count:05d}.parquet",
            root=images.root,
            files=tuple(str(images.path(row).relative_to(images.root)) for row in rows),
            labels=tuple(images.labels[rows].tolist()),
            classes=images.classes,
        )


def _fingerprint(images: FolderSet) -> str:
    """Of the names and labels of all files; their contents are compared shard by shard."""
    digest = hashlib.sha256(json.dumps(images.classes).encode())
    for index in range(len(images)):
        digest.update(os.fsencode(images.path(index).relative_to(images.root)) + b"\0")
    return digest.hexdigest()


def _keep_to(plan: dict, out: Path) -> None:
    """Writes the plan, or makes sure that the one that is there is the same."""
    if not create_or_reopen(out, PLAN, json.dumps(plan, indent=2) + "\n", "shards"):
        return
    path = out / PLAN
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RMTError(f"{path}: cannot be read ({error})") from None
    if before != plan:
        changed = [key for key in plan if not isinstance(before, dict) or before.get(key) != plan[key]]
        raise RMTError(f"{out}: it holds shards made otherwise (another {', '.join(changed)}); choose another folder")


def _run(jobs: Sequence[Job], workers: int) -> Iterator[Packed]:
    if workers == 1:
        yield from map(write_shard, jobs)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        for done in as_completed([pool.submit(write_shard, job) for job in jobs]):
            yield done.result()
    except BrokenProcessPool:
        raise RMTError("a process that wrote shards died, mostly for want of memory: use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def write_shard(job: Job) -> Packed:
    """Writes one shard and reads it back, or finds it there and whole."""
    there = check_shard(job.target) if job.target.exists() else None
    if there is not None:
        return there
    rows: list[dict] = []
    labels: list[int] = []
    bad: dict[str, str] = {}
    for file, label in zip(job.files, job.labels, strict=True):
        path = job.root / file
        try:
            read_image(data := _read(path), str(path))
        except BadImage as error:
            bad[error.name] = error.reason
            continue
        rows.append({"bytes": data, "path": file})
        labels.append(label)
    packed = Packed(len(rows), sum(len(row["bytes"]) for row in rows), 1, bad)
    schema = _schema(job.classes)
    table = pa.Table.from_pydict({"image": rows, "label": labels}, schema=schema)
    facts = {"sha256": _checksum(table), **asdict(packed), "written": 0}
    table = table.replace_schema_metadata({**schema.metadata, b"rmt": json.dumps(facts).encode()})
    with replace_file(job.target) as draft:
        # Images are compressed already, and no two are alike.
        pq.write_table(
            table, draft, compression="none", use_dictionary=False, write_statistics=False, row_group_size=_ROW_GROUP
        )
        if check_shard(draft) is None:
            raise RMTError(f"{job.target}: what was read back is not what was written; check the disk")
    return packed


def check_shard(path: Path) -> Packed | None:
    """What a shard says it holds, if it does hold that; None if it is damaged or not one of ours."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"rmt"])
        if facts.pop("sha256") != _checksum(table):
            return None
        return Packed(**facts)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


def _checksum(table: pa.Table) -> str:
    """SHA-256 over every image's bytes and label, in order."""
    digest = hashlib.sha256()
    for image, label in zip(table.column("image"), table.column("label"), strict=True):
        data = image["bytes"].as_buffer()
        digest.update(f"{len(data)} {label}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _schema(classes: Sequence[str]) -> pa.Schema:
    """Columns and metadata as `datasets` writes them, so that it shows class names and images."""
    import datasets

    names = datasets.ClassLabel(names=list(classes))
    return datasets.Features({"image": datasets.Image(), "label": names}).arrow_schema


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(str(path), f"cannot be read ({error.strerror})") from None
