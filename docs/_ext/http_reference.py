"""Directives of the HTTP API: `http-paths`, read off the OpenAPI document, `http-schema`, an answer's fields, and
`http-errors`, the statuses of errors.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from generated_reference import FromCode
from sphinx.application import Sphinx


@cache
def document(network: str) -> dict[str, Any]:
    from rmt.serve.app import create_app
    from rmt.serve.hosted import Hosted

    return create_app(Hosted(network, device="cpu")).openapi()


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema in words: "list of Ranked", "number or null"."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(map(kind, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    if schema.get("type") == "object" and "additionalProperties" in schema:
        return f"object of {kind(schema['additionalProperties'])}"
    return schema.get("type", "any")


def limits(schema: dict[str, Any]) -> str:
    """The bounds of a number, of whichever alternative has them."""
    for part in [schema, *schema.get("anyOf", [])]:
        if {"minimum", "maximum"} <= part.keys():
            return f", {part['minimum']} to {part['maximum']}"
        if "minimum" in part:
            return f", {part['minimum']} or more"
    return ""


class Paths(FromCode):
    """Every path of the server of a network: what it answers, its options, and its refusals."""

    def lines(self, network: str) -> Iterator[str]:
        for path, methods in document(network)["paths"].items():
            for method, operation in methods.items():
                yield f"### `{method.upper()} {path}`"
                yield ""
                yield f"{operation['summary']}."
                yield ""
                for option in operation.get("parameters", []):
                    schema = option["schema"]
                    default = f"; default `{schema['default']}`" if "default" in schema else ""
                    texts = [part.get("description") for part in (option, schema, *schema.get("anyOf", []))]
                    text = next(filter(None, texts), "–")
                    yield f"`?{option['name']}=` ({kind(schema)}{limits(schema)}{default})"
                    yield f": {text}"
                    yield ""
                for status, response in operation["responses"].items():
                    if status != "200":
                        yield f"- {status}: {response['description']}"
                yield ""


class Schema(FromCode):
    """The fields of a model of `rmt.serve.answers`, and of those that it contains."""

    def lines(self, name: str) -> Iterator[str]:
        import rmt.serve.answers as answers

        whole = getattr(answers, name).model_json_schema()
        for title, schema in [(name, whole), *whole.get("$defs", {}).items()]:
            yield f"| `{title}` | type | meaning |"
            yield "|---|---|---|"
            for field, found in schema["properties"].items():
                yield f"| `{field}` | {kind(found)} | {found.get('description', '')} |"
            yield ""


class Errors(FromCode):
    """The statuses of errors, with their codes."""

    required_arguments = 0

    def lines(self) -> Iterator[str]:
        from rmt.serve.errors import CODES, MEANINGS

        yield "| status | `code` | meaning |"
        yield "|---|---|---|"
        for status, code in CODES.items():
            yield f"| {status} | `{code}` | {MEANINGS[status]} |"


def setup(app: Sphinx) -> dict:
    app.add_directive("http-errors", Errors)
    app.add_directive("http-paths", Paths)
    app.add_directive("http-schema", Schema)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
