"""The record of the data of a run, in its folder: written at the start, compared when the run is resumed."""

from collections.abc import Callable, Mapping
from typing import Any

from rmt.data.fingerprint import differences, require_same_number, write_record
from rmt.errors import RMTError
from rmt.training.module import TrainingData
from rmt.training.run_folder import RunFolder


def record_data(folder: RunFolder, data: TrainingData) -> dict[str, str]:
    """Writes the record of the data; returns the digest of the images of each split, for the weight files."""
    return write_record(folder.data, data.classes, _splits(data))


def require_same_data(folder: RunFolder, data: TrainingData, accept_changes: bool, log: Callable[[str], None]) -> None:
    """Raises RMTError that names how the data differ from those that the run was trained on so far.

    With `accept_changes` the differences are printed instead, unless the number of classes is another. Runs of earlier
    versions have no record, and nothing is compared.
    """
    if not folder.data.exists():
        return
    require_same_number(folder.data, data.classes)
    found = "; ".join(differences(folder.data, data.classes, _splits(data)))
    if found and not accept_changes:
        raise RMTError(
            f"the data differ from those of {folder.path}: {found}; restore them, or pass --accept-changes to resume "
            "with them"
        )
    if found:
        log(f"data changed: {found}")


def _splits(data: TrainingData) -> Mapping[str, Any]:
    splits: dict[str, Any] = {"train": data.train, "val": data.val}
    test = getattr(data, "test", data.val)
    return splits if test is data.val else {**splits, "test": test}
