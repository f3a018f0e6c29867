"""Renders docs/crd-reference.md from manifests/crd/*.yaml; ``make docs`` runs it, and a test compares."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ("leaderleases", "leaderquorums")
TARGET: Final = ROOT / "docs" / "crd-reference.md"
HEAD: Final = """\
# The resources

Rendered from [`manifests/crd`](../manifests/crd) by `make docs`: do not edit. `kubectl explain` tells the same.
[Concepts](concepts.md) says what the words mean.
"""
TAIL: Final = """
## Not there yet

`spec.holders` may only be 1 in this version.
"""


def shown(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def kind_of(schema: dict[str, Any]) -> str:
    """Name the type of a field, with its enumeration or bounds."""
    kind = str(schema.get("type", "object"))
    if kind == "array":
        items = schema.get("items", {})
        limits = f", {schema.get('minItems', 0)} to {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {items.get('type', 'object')}s{limits}"
    if "additionalProperties" in schema:
        return f"map of {schema['additionalProperties'].get('type', 'object')}s"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("format") == "date-time":
        return "time"
    if "minimum" in schema and "maximum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    return kind


def default_of(schema: dict[str, Any], is_required: bool) -> str:
    """Say what a field is when it is not given."""
    if is_required:
        return "**required**"
    value = schema.get("default")
    return "" if value is None else f"`{value}`" if value != {} else "`{}`"


def rows(schema: dict[str, Any], path: str, *, has_default: bool) -> Iterator[str]:
    """Yield one line of a table for each field below ``schema``, depth first."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        cells = [f"`{here}`", kind_of(field)]
        if has_default:
            cells.append(default_of(field, name in required))
        yield f"| {' | '.join((*cells, shown(field.get('description', ''))))} |"
        inner, dots = (field["items"], "[].") if field.get("type") == "array" else (field, ".")
        yield from rows(inner, f"{here}{dots}", has_default=has_default)


def rules(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the sentence with which each rule of the API server refuses, depth first."""
    for rule in schema.get("x-kubernetes-validations", ()):
        message = rule.get("message") or shown(rule["messageExpression"])
        where = path.rstrip(".") or "the object"
        yield f"* `{where}`: {message}" if "message" in rule else f"* `{where}`: `{message}`"
    for name, field in schema.get("properties", {}).items():
        inner, dots = (field["items"], "[].") if field.get("type") == "array" else (field, ".")
        if inner is not field:
            yield from rules({k: v for k, v in field.items() if k.startswith("x-")}, f"{path}{name}.")
        yield from rules(inner, f"{path}{name}{dots}")


def render_kind(body: dict[str, Any]) -> Iterator[str]:
    """Yield the chapter about one definition."""
    spec = body["spec"]
    names, (version,) = spec["names"], spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    fields = schema["properties"]
    yield f"\n## {names['kind']}\n"
    (short,) = names["shortNames"]
    yield f"`{spec['group']}/{version['name']}`, scope {spec['scope'].lower()}, short name `{short}`.\n"
    yield f"{schema['description'].strip()}\n"
    yield f"### {names['kind']} spec\n"
    yield "| Field | Type | Default | Meaning |\n|---|---|---|---|"
    yield from rows(fields["spec"], "", has_default=True)
    yield f"\n### {names['kind']} status\n"
    yield f"{fields['status']['description']}\n"
    yield "| Field | Type | Meaning |\n|---|---|---|"
    yield from rows(fields["status"], "", has_default=False)
    yield f"\n### {names['kind']} columns\n"
    yield "| Column of `kubectl get` | Meaning |\n|---|---|"
    for column in version["additionalPrinterColumns"]:
        wide = " (`-o wide`)" if column.get("priority") else ""
        yield f"| {column['name']}{wide} | {shown(column['description'])} |"
    yield f"\n### What is refused of a {names['kind']}\n"
    yield "Besides wrong types, with these sentences; expressions name the value.\n"
    yield from rules(schema, "")


def render() -> str:
    """Return the page."""
    chapters = []
    for name in SOURCES:
        body = yaml.safe_load((ROOT / "manifests" / "crd" / f"{name}.yaml").read_text())
        chapters.append("\n".join(render_kind(body)) + "\n")
    return HEAD + "".join(chapters) + TAIL


if __name__ == "__main__":
    TARGET.write_text(render())
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}\n")
