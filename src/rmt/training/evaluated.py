"""What an evaluation scored, in words: which weights, and on which images; where known, none that were learned from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmt.data.sets import HoldOut, Part
from rmt.data.sources.remote import is_url
from rmt.model import resolve_checkpoint


def own_hold_out(metadata: Mapping[str, Any], **places: str | Path) -> HoldOut | None:
    """How the run behind a model file divided data that are the same as those at `places` (recipe field to place).

    None when its recipe names others. Whether they were divided at all is for the reader of the data to see.
    """
    recipe = metadata.get("recipe")
    if not isinstance(recipe, dict) or not all(_same(recipe.get(key), place) for key, place in places.items()):
        return None
    fraction, seed = recipe.get("holdout"), recipe.get("seed")
    if not isinstance(fraction, float) or not isinstance(seed, int):
        return None
    return HoldOut(fraction, seed)


def judged(checkpoint: str | Path, metadata: Mapping[str, Any], data: str | Path, part: Part) -> dict[str, Any]:
    """What was scored, as JSON values: file, its epoch and weights ("raw" or "ema"; None if not said), data, part."""
    metrics = metadata.get("metrics") or {}
    return {
        "file": resolve_checkpoint(checkpoint).name,
        "epoch": metrics.get("epoch"),
        "weights": metrics.get("weights"),
        "data": str(data),
        "part": part,
    }


def judged_line(about: Mapping[str, Any], images: int) -> str:
    """The same in a line, which warns where images of the training may be among them."""
    facts = [f"epoch {about['epoch']}"] if about["epoch"] is not None else []
    facts += [{"ema": "averaged weights (EMA)", "raw": "raw weights"}[kind] for kind in [about["weights"]] if kind]
    weights = about["file"] + (f" ({', '.join(facts)})" if facts else "")
    count, data = f"{images:,} images", about["data"]
    on = {
        "val": f"the validation split of {data}, {count}",
        "held out": f"the {count} that its run held out of {data}, if that is as it was then",
        "listed": f"the {count} that {data} lists",
        "train": f"the {count} of {data}, from which the network has learned: they flatter it",
        "all": f"all {count} of {data}, where no held-out part is known: those it has learned from flatter it",
    }[about["part"]]
    return ("warning: " if about["part"] in ("train", "all") else "") + f"{weights} on {on}"


def unreadable_lines(bad: Mapping[str, str], most: int = 5) -> list[str]:
    """Returns lines for the first few images that an evaluation could not read (name -> reason), and their number."""
    lines = [f"passed over: {name} ({reason})" for name, reason in list(bad.items())[:most]]
    return lines + ([f"… {len(bad)} unreadable images in all"] if len(bad) > most else [])


def _same(place: Any, other: str | Path) -> bool:
    """Whether two places are one, however written."""
    if not isinstance(place, str) or not place or is_url(place) or is_url(str(other)):
        return bool(place) and place == str(other)
    return Path(place).expanduser().resolve() == Path(other).expanduser().resolve()
