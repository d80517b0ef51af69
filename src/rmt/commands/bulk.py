"""What the commands over many images share: which word is the checkpoint, and writing a file of answers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rmt.errors import RMTError
from rmt.terminal import complain, plural, say

if TYPE_CHECKING:
    from rmt.inference.bulk.work import Work

BulkEngine = Literal["local", "ray"]
ANSWERS = (".parquet", ".csv", ".jsonl")


def is_answers(output: Path | None) -> bool:
    """Whether `--output` names a file of answers."""
    return output is not None and output.suffix.lower() in ANSWERS and not output.is_dir()


def checkpoint_and_images(words: tuple[str, ...], command: str) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint, which is the package's own network if the first word names images, and the words for images.

    Raises RMTError if no images are named.
    """
    from rmt.data.images import EXTENSIONS
    from rmt.data.sources.collection import SHARDS
    from rmt.data.sources.remote import is_url
    from rmt.model import read_metadata
    from rmt.model.shipped import DEFAULT

    if not words:
        raise RMTError(f"name at least one image: rmt {command} [CHECKPOINT] IMAGE…")
    first, folder = words[0], os.path.isdir(words[0])
    is_run = folder and any(os.path.exists(os.path.join(first, name)) for name in ("best.safetensors", "recipe.json"))
    named = not folder and (first.lower().endswith((*EXTENSIONS, *SHARDS)) or is_url(first) or first == "-")
    pattern = not os.path.exists(first) and any(character in first for character in "*?")
    if named or pattern or (folder and not is_run and not words[1:]):
        classes = ", ".join(read_metadata(DEFAULT)["classes"])
        complain(f"no checkpoint given: {DEFAULT} is used, which knows {classes}")
        return Path(DEFAULT), words
    if not words[1:]:
        raise RMTError(f"name at least one image: rmt {command} CHECKPOINT IMAGE…")
    return Path(first), words[1:]


def write_answers_file(work: "Work", words: tuple[str, ...], output: Path, *, engine: BulkEngine, replicas: int) -> int:
    """Writes the file of answers for the images that the words name, and says what it has; the exit code is 1 if an
    image could not be read."""
    from rmt.data.sources.collection import open_collection
    from rmt.inference.bulk.job import write_answers
    from rmt.inference.bulk.stream import check_counts
    from rmt.output_folder import require_permission

    check_counts(work.batch_size, work.workers, replicas)
    if replicas and engine == "local":
        raise RMTError("--replicas is the number of networks on Ray: add --engine ray")
    require_permission(output)
    collection = open_collection(words)
    if engine == "ray":
        from rmt.inference.bulk.ray_engine import RayEngine

        report = write_answers(work, collection, output, engine=RayEngine(replicas))
    else:
        report = write_answers(work, collection, output)
    before = f"{plural(report.before, 'image')} of an earlier call, " if report.before else ""
    line = f"{output}: {before}{plural(report.images, 'image')} by {report.model}, {report.rate:,.1f} images/s"
    say(line + (f"; {len(report.bad):,} could not be read" if report.bad else ""))
    return 1 if report.bad else 0
