"""Which weights and images an evaluation used, and whether the run may have trained on those images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmt.data.sets import EvaluatedPart, HoldOut
from rmt.data.sources.remote import is_url
from rmt.model import resolve_checkpoint
from rmt.terminal import plural


def run_hold_out(metadata: Mapping[str, Any], **paths: str | Path) -> HoldOut | None:
    """Returns how the run that wrote a model file held out images of its data; None if that is not known.

    `paths`: recipe fields and the paths that they must equal for files without digests of the data, which earlier
    versions wrote. Whether images were held out at all depends on the data.
    """
    recipe, digests = metadata.get("recipe"), metadata.get("data") or {}
    if not isinstance(recipe, dict) or not isinstance(digests, dict):
        return None
    known = tuple(str(digests[split]) for split in ("val", "test") if split in digests)
    if not known and not all(_same(recipe.get(key), path) for key, path in paths.items()):
        return None
    fraction, seed = recipe.get("holdout"), recipe.get("seed")
    if not isinstance(fraction, float) or not isinstance(seed, int):
        return None
    return HoldOut(fraction, seed, known)


def evaluation_facts(
    checkpoint: str | Path, metadata: Mapping[str, Any], data: str | Path, part: EvaluatedPart
) -> dict[str, Any]:
    """Returns what was evaluated, as JSON values: file, its epoch and weights ("raw" or "ema"; None if unknown), data,
    part, and where the file has digests of its run's data, whether these are the data, changed or not ("same",
    "changed"; None if unknown)."""
    metrics = metadata["metrics"]
    recorded = bool(metadata.get("data"))
    same_path = _same(metadata["recipe"].get("data"), data)
    state = {"held out": "same", "all": "changed" if same_path else None}.get(part) if recorded else None
    return {
        "run_data": state,
        "file": resolve_checkpoint(checkpoint).name,
        "epoch": metrics.get("epoch"),
        "weights": metrics.get("weights"),
        "data": str(data),
        "part": part,
    }


def evaluation_line(about: Mapping[str, Any], images: int) -> str:
    """Returns the same as one line, a warning if the run may have been trained on some of the images."""
    facts = [f"epoch {about['epoch']}"] if about["epoch"] is not None else []
    facts += [{"ema": "EMA weights", "raw": "raw weights"}[kind] for kind in [about["weights"]] if kind]
    weights = about["file"] + (f" ({', '.join(facts)})" if facts else "")
    count, data = plural(images, "image"), about["data"]
    on = {
        "val": f"the validation split of {data}, {count}",
        "test": f"the test split of {data}, {count}",
        "held out": f"the {count} that its run held out of {data}"
        + ("" if about.get("run_data") == "same" else ", if they have not changed since"),
        "listed": f"the {count} that {data} lists",
        "train": f"the {count} of {data} that the network was trained on: scores are optimistic",
        "all": f"all of the {count} of {data}: "
        + ("they have changed since the run, and " if about.get("run_data") == "changed" else "")
        + "no held-out part is known, so training images may be included and scores optimistic",
    }[about["part"]]
    return ("warning: " if about["part"] in ("train", "all") else "") + f"{weights} on {on}"


def unreadable_lines(bad: Mapping[str, str], most: int = 5, label: str = "skipped") -> list[str]:
    """Returns lines for the first few images that could not be read (name -> reason), and their number."""
    lines = [f"{label}: {name} ({reason})" for name, reason in list(bad.items())[:most]]
    return lines + ([f"… {len(bad)} unreadable images in all"] if len(bad) > most else [])


def _same(path: Any, other: str | Path) -> bool:
    """Whether two paths or URLs are the same."""
    if not isinstance(path, str) or not path or is_url(path) or is_url(str(other)):
        return bool(path) and path == str(other)
    return Path(path).expanduser().resolve() == Path(other).expanduser().resolve()
