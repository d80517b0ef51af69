"""WebDataset tars (`KEY.jpg`, `KEY.cls` side by side), read through Hugging Face `datasets` like parquet shards.

`datasets` converts the tars once into an Arrow file in our cache folder and maps that into memory, so access is random,
every epoch exact and every sample seen; it takes the disk space of the images once more.
"""

import glob
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rmt.cache import VARIABLE, cache_folder
from rmt.data.sets import preview
from rmt.data.sources.shards import TableSet, first_line, quiet_datasets
from rmt.errors import RMTError

_SAFE = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif", "jp2", "cls", "txt", "json")


class TarSet(TableSet):
    """The samples of tars, in the order of the files given. Each has an image and `cls`, its class as a number.

    The classes are called by their numbers, or by the lines of a file `classes.txt` beside the tars. Raises `RMTError`
    as `TableSet` does, and for a tar whose samples hold anything but images and text.
    """

    def __init__(self, shards: Sequence[Path]):
        for shard in shards:
            _check(shard)
        super().__init__(shards, _open(tuple(shards)), _class_names(shards[0].parent / "classes.txt"))

    def name(self, index: int) -> str:
        url, key = (self._table.column(column)[int(index)].as_py() for column in ("__url__", "__key__"))
        return f"{url}[{key}]"


def _check(shard: Path) -> None:
    """Refuses tars that are cut off, and members that `datasets` would unpickle."""
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                kind = member.name.rpartition(".")[2].lower()
                if member.isfile() and kind not in _SAFE:
                    raise RMTError(
                        f"{shard}: {member.name} is of a kind not read here; there may be {preview(_SAFE, 20)}"
                    )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RMTError(f"{shard}: not a whole tar ({first_line(error)}); copy it again") from None


def _open(shards: tuple[Path, ...]):
    """The memory-mapped table with the columns image, label, __url__ and __key__."""
    import datasets

    folder = cache_folder() / "datasets"
    names = [glob.escape(str(shard.absolute())) for shard in shards]
    try:
        with quiet_datasets(datasets, bars=True):
            found = datasets.load_dataset(
                "webdataset", data_files={"train": names}, split="train", cache_dir=str(folder)
            )
    except Exception as error:  # what a broken tar raises, and wrapped in what, is the library's
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise RMTError(f"{folder}: {cause.strerror}, writing the cache; set {VARIABLE} elsewhere") from None
        raise RMTError(f"{shards[0].parent}: the tars cannot be read ({first_line(cause)})") from None
    images = [name for name, kind in found.features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1 or "cls" not in found.features:
        raise RMTError(
            f"{shards[0]}: each sample needs one image and a .cls; there are {preview(list(found.features))}"
        )
    if not str(getattr(found.features["cls"], "dtype", "")).startswith(("int", "uint")):
        raise RMTError(f"{shards[0]}: .cls must hold integers, not {found.features['cls']}")
    found = found.cast_column(images[0], datasets.Image(decode=False))
    return found.rename_columns({images[0]: "image", "cls": "label"}).data


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
