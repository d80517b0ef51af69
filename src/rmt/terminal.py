"""What is printed: text from files (class names, metadata, names of images and shards) cannot control a terminal."""

import sys
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, separators of lines and paragraphs
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that change the direction of the text after them: a name could look like another, or hide the line."""


def printable(text: str) -> str:
    """The text with every character that could control a terminal as an escape, such as `\\x1b` or `\\n`.

    These are control characters, undecodable bytes of file names (`\\xff`), separators of lines, and marks of
    direction. Letters of every script are kept.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(escape(character) if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _ESCAPED or character in _DIRECTION


def escape(character: str) -> str:
    """The character as Python writes it between quotes; an undecodable byte as in `os.fsencode`, `\\xff`."""
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode("ascii")


def short(name: str, most: int) -> str:
    """A name from a file, printable and of at most so many letters."""
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def lines(text: str) -> str:
    """`printable` for each line of a text."""
    return "\n".join(printable(line) for line in text.split("\n"))


def plural(count: float, noun: str) -> str:
    """The number and the noun, in the plural unless the number is 1: `1 image`, `2,000 images`, `0 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "tch")) else "s"
    return f"{int(count):,} {noun}{ending}" if float(count).is_integer() else f"{count:g} {noun}{ending}"


def say(*texts: str, **options: Any) -> None:
    """Print each text with `printable` lines. `options` are those of `print`."""
    for text in texts:
        print(lines(text), **options)


def complain(text: str, **options: Any) -> None:
    """`say` on stderr; nothing if that is closed, for which `print` would take stdout."""
    if sys.stderr is not None:
        say(text, file=sys.stderr, **options)


def log_to(console: "Console", *texts: str) -> None:
    """`say` on a console of rich, above its progress bars."""
    for text in texts:
        console.print(lines(text), markup=False)
