"""Output to terminals and files of any encoding: characters that it lacks are replaced, not an error."""

import codecs
import sys
import unicodedata
from io import TextIOWrapper
from typing import TextIO

_PLAIN = {
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "·": "*",
    "•": "*",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "γ": "gamma",
}
_NAME = "rmt-plain"


def allow_any_encoding(*streams: TextIO | None) -> None:
    """Lets these streams, by default standard output and error, write what their encoding lacks in other characters."""
    codecs.register_error(_NAME, _replace)
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors=_NAME)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(character: str) -> str:
    found = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return found or "?"
