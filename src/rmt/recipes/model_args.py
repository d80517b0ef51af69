"""The text of `--model-args`: keywords of a network's constructor, as `key=value,…` or as a JSON object."""

import ast
import json
import re
from typing import Any

#: Keywords that follow from other options, and the option to use instead.
_ELSEWHERE = {
    "drop_path_rate": "use --drop-path",
    "num_classes": "it follows from the data",
    "in_chans": "images are read as RGB",
    "img_size": "it follows from the size of the images",
    "features_only": "it follows from the task",
    "out_indices": "it follows from the task",
    "pretrained": "use --weights",
    "checkpoint_path": "use --weights",
    "pretrained_cfg": "use --weights",
    "pretrained_cfg_overlay": "use --weights",
    "cache_dir": "use --weights",
}
_TOKEN = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[-+]?\.?\d[\w.+-]*|[A-Za-z_][\w./-]*|.""", re.DOTALL)
_CONSTANTS = {"true": "True", "false": "False", "null": "None", "True": "True", "False": "False", "None": "None"}


def parse_model_args(text: str) -> dict[str, Any]:
    """Returns the keywords in `text`: `decay=paper,decomposed=[true,true,true,false]`, or a JSON object; {} if empty.

    Values are those of JSON: numbers, true, false, null, lists and objects; words need no quotes. Those of Python
    (True, None, tuples) are accepted, too.

    Raises:
        ValueError: one line, for text that is neither, for a keyword given twice, and for one that another option sets.
    """
    text, equals = text.strip(), "="
    if text.startswith("{") and text.endswith("}"):
        text, equals = text[1:-1].strip(), ":"
    keywords: dict[str, Any] = {}
    for part in _split(text) if text else []:
        key, found, value = part.partition(equals)
        key = key.strip().strip("\"'")
        if not found or not key.isidentifier() or not value.strip():
            raise ValueError(f"has {part.strip()[:40]!r} where key=value is expected, e.g. phases=none,decay=paper")
        if key in keywords:
            raise ValueError(f"sets {key} twice")
        if key in _ELSEWHERE:
            raise ValueError(f"cannot set {key}: {_ELSEWHERE[key]}")
        keywords[key] = _value(key, value)
    return keywords


def format_model_args(keywords: dict[str, Any]) -> str:
    """Returns the text that `parse_model_args` reads as these keywords."""
    return ",".join(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in keywords.items())


def _split(text: str) -> list[str]:
    """The parts between the commas outside of brackets and quotes."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _value(key: str, text: str) -> Any:
    literal = "".join(map(_quote_word, _TOKEN.findall(text.strip())))
    try:
        return json.loads(json.dumps(ast.literal_eval(literal), allow_nan=False))  # tuples become lists
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"sets {key} to {text.strip()[:40]!r}, which is no number, word or list") from None


def _quote_word(token: str) -> str:
    if token[0].isalpha() or token[0] == "_":
        return _CONSTANTS.get(token, repr(token))
    return token
