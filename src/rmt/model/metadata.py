"""The metadata of a model file, checked value by value: a file may come from anywhere."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 1
MAX_SIDE = 8192
"""Largest side of the images that a file may ask for, in pixels: 0.8 GB in float32."""
MAX_CLASSES = 100_000
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "random")

Check = Callable[[Any], bool]


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    kind = isinstance(value, int | float) and not isinstance(value, bool)
    return kind and low <= value <= high and (isinstance(value, int) or math.isfinite(value))


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any, longest: int = 1000) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest


def _is_list(value: Any, entry: Check, most: int, least: int = 0) -> bool:
    return isinstance(value, list) and least <= len(value) <= most and all(map(entry, value))


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def _side(least: int) -> Check:
    return lambda value: _is_whole(value, least, MAX_SIDE)


_FIELDS: dict[str, tuple[Check, str]] = {
    "task": (_is_text, "a word"),
    "model": (lambda value: _is_text(value, 200), "the name of a network"),
    "model_args": (lambda value: isinstance(value, dict) and len(value) <= 100, "an object"),
    "classes": (lambda value: _is_list(value, _is_text, MAX_CLASSES), "a list of names"),
    "preprocessing": (lambda value: isinstance(value, dict), "an object"),
}
_OPTIONAL: dict[str, tuple[Check, str]] = {
    "head": (_optional(lambda value: _is_text(value, 200)), "the name of a head"),
    "head_args": (_optional(lambda value: isinstance(value, dict) and len(value) <= 100), "an object"),
    "metrics": (_optional(lambda value: isinstance(value, dict)), "an object"),
    "recipe": (_optional(lambda value: isinstance(value, dict)), "an object"),
}
_MEAN = (lambda value: _is_list(value, lambda v: _is_number(v, -1e6, 1e6), 1024, 1), "a list of numbers")
_PREPROCESSING: dict[str, tuple[Check, str]] = {
    "size": (lambda value: _is_list(value, _side(1), 2, 2), f"two whole numbers from 1 to {MAX_SIDE}"),
    "mean": _MEAN,
    "std": (lambda value: _MEAN[0](value) and all(v > 0 for v in value), "a list of positive numbers"),
    "interpolation": (_one_of(*_INTERPOLATIONS), f"one of {', '.join(_INTERPOLATIONS)}"),
    "crop_pct": (lambda value: _is_number(value, 0.05, 1), "a number from 0.05 to 1"),
    "pad_to": (_side(0), f"a whole number from 0 to {MAX_SIDE}"),
    "short_side": (_side(0), f"a whole number from 0 to {MAX_SIDE}"),
    "long_side": (_side(0), f"a whole number from 0 to {MAX_SIDE}"),
    "inference": (_one_of("whole", "sliding"), "whole or sliding"),
    "zero_is_ignored": (lambda value: isinstance(value, bool), "true or false"),
    "category_ids": (
        lambda value: _is_list(value, _optional(lambda v: _is_whole(v, -(2**63), 2**63 - 1)), MAX_CLASSES),
        "a list of whole numbers",
    ),
}
_METRICS: dict[str, tuple[Check, str]] = {
    "epoch": (lambda value: _is_whole(value, 0, 2**53), "a whole number"),
    "weights": (_one_of("raw", "ema"), "raw or ema"),
}


def metadata_problem(metadata: Any) -> str | None:
    """Returns what is wrong with the metadata of a model file, as the end of a sentence about it; None if nothing is.

    An optional entry of None is as if it were not there, and so is a value of None in `preprocessing` and `metrics`.
    """
    if not isinstance(metadata, dict):
        return "is not a readable model file: its `rmt` metadata is not a JSON object"
    if metadata.get("format") != FORMAT or isinstance(metadata["format"], bool):
        return f"is of format {repr(metadata.get('format'))[:40]}, this version reads format {FORMAT}"
    again = "; write it again with rmt.save_checkpoint"
    for key, (check, wanted) in _FIELDS.items():
        if not check(metadata.get(key)):
            return f"has no valid `{key}` in its metadata ({wanted}){again}"
    for key, (check, wanted) in _OPTIONAL.items():
        if not check(metadata.get(key)):
            return f"has no valid `{key}` in its metadata ({wanted}){again}"
    for part, fields in (("preprocessing", _PREPROCESSING), ("metrics", _METRICS)):
        values = metadata.get(part) or {}
        for key, (check, wanted) in fields.items():
            if values.get(key) is not None and not check(values[key]):
                return f"has no valid `{part}.{key}` in its metadata ({wanted}){again}"
    for key in metadata["preprocessing"].keys() - _PREPROCESSING:
        return f"has a `preprocessing.{key[:40]}` in its metadata that this version does not know: update rmt-vision"
    return _relations(metadata) or _unprintable(metadata)


def _relations(metadata: Mapping[str, Any]) -> str | None:
    preprocessing, classes = metadata["preprocessing"], metadata["classes"]
    ids = preprocessing.get("category_ids")
    if ids and classes and len(ids) != len(classes):
        return f"has {len(ids)} `category_ids`, and its `classes` are {len(classes)}"
    mean, std = preprocessing.get("mean"), preprocessing.get("std")
    if mean and std and len(mean) != len(std):
        return f"has a `mean` of {len(mean)} and a `std` of {len(std)} channels in its metadata"
    return None


def _unprintable(metadata: Mapping[str, Any]) -> str | None:
    """JSON can spell half of a character beyond 16 bits, which no file or terminal takes."""
    try:
        json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "has a text with half a character (a lone surrogate) in its metadata"
    except RecursionError:
        return "has metadata that are nested too deeply"
    return None
