"""Read small XML files that may come from anywhere: no entities, bounded size and depth."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from rmt.data.files import read_file

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 50


class BadXml(ValueError):
    """An XML file that cannot be used; the message says why."""


def read_xml(path: Path) -> Element:
    """The root element of an XML file. Raises `BadXml`.

    A document type declaration is refused: it could define entities that expand to gigabytes or name other files.
    """
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise BadXml(f"elements nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise BadXml("a document type declaration, which could define entities; remove it")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(read_file(path, MAX_BYTES), True)
        return builder.close()
    except OSError as error:
        raise BadXml(error.strerror or "cannot be read") from None
    except expat.ExpatError as error:
        raise BadXml(f"broken at line {error.lineno}") from None
    except (AssertionError, LookupError, ValueError) as error:  # no element; an unknown encoding
        raise error if isinstance(error, BadXml) else BadXml("not an XML file") from None
