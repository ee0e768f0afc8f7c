"""`docs/spec.md` and the JSON Schema for editors, both made from the spec's models, so that they cannot drift (`make docs`).

TOML knows no null, so a key that may be left out is an optional key of its type here.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from migrate.spec import COUNTRY, COUNTRY_OR_ALL, NAME, Spec
from migrate.spec.values import Section

_TITLE = "The spec"
_INTRODUCTION = """\
A spec is a TOML file in `plans/`: one migration, as an operator asks for it. `plans/clover.toml` is one with comments to start
from, and `migrate doctor SPEC` checks one against the stores that it names. Unknown keys are refused. All problems of keys are
reported together, each with its place; once there are none, so are all between sections. This page is made from the code by
`make docs`.

- **Sizes** are written as `512`, `16MiB` or `4GB` (B, KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB), **rates** as `200MB/s`,
  **durations** as `90s`, `15m`, `2h`, `14d` or `1h30m`, **shares** as `1%` or `0.5%`. **Times** have an offset:
  `2026-11-22T00:00:00Z`.
- **References** name a secret and never hold it: `env:NAME`, `profile:NAME` (of the AWS configuration) or `file:PATH`. What each
  must hold stands at the key.
- **Names** have lower-case letters, digits and hyphens.
- What decides who, what and where is part of a plan's digest. `run`, `routing`, `privacy`, `time_zone`, a store's `credentials`,
  `timeout` and `concurrency_max`, and each `max_age` are not: a plan that is planned again takes them on.
"""
_FORMATS = {
    "size": "size",
    "rate": "rate",
    "duration": "duration",
    "share": "share",
    "reference": "reference",
    "date-time": "time",
}
_PATTERNS = {NAME: "name", COUNTRY: "country", COUNTRY_OR_ALL: "country or `*`"}
_SIZES = (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_DURATIONS = (("d", 86400), ("h", 3600), ("m", 60))


def json_schema() -> dict[str, Any]:
    """The spec's JSON Schema (draft 2020-12), as an editor wants it."""
    schema = Spec.model_json_schema()
    for node in (schema, *schema["$defs"].values()):
        for key, meaning in _meanings().get(str(node.get("title")), {}).items():
            node["properties"][key].setdefault("description", meaning)
    schema = _tidy(schema)
    assert isinstance(schema, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": _TITLE, **schema}


@cache
def _meanings() -> dict[str, dict[str, str]]:
    """What stands under each key of each table's class, by class. pydantic would read it each time that a spec is loaded."""
    found: dict[str, dict[str, str]] = {}
    for module in {each.__module__ for each in _tables()}:
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
            if isinstance(node, ast.ClassDef):
                found[node.name] = {
                    key.target.id: inspect.cleandoc(text.value.value)
                    for key, text in pairwise(node.body)
                    if isinstance(key, ast.AnnAssign)
                    and isinstance(key.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                    and isinstance(text.value.value, str)
                }
    return found


def _tables(parent: type[Section] = Section) -> Iterator[type[Section]]:
    for each in parent.__subclasses__():
        yield each
        yield from _tables(each)


def schema_text() -> str:
    """The JSON Schema as a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(node: Any) -> Any:
    """Without what only Python needs: null for a key that is left out, titles made from names."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    options = [item for item in node.get("anyOf", ()) if item != {"type": "null"}]
    if len(options) == 1 and len(options) < len(node["anyOf"]):
        node = {**{key: value for key, value in node.items() if key != "anyOf"}, **options[0], **_described(node)}
    tidied: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            tidied[key] = {name: _tidy(item) for name, item in value.items()}
        elif key == "default":
            if value is not None and not isinstance(value, dict):
                tidied[key] = f"{value / 10_000:g}%" if node.get("format") == "share" else value
        elif key == "title" and isinstance(value, str):
            continue
        else:
            tidied[{"ge": "minimum", "le": "maximum"}.get(key, key)] = _tidy(value)
    return tidied


def _described(node: dict[str, Any]) -> dict[str, Any]:
    return {"description": node["description"]} if "description" in node else {}


def markdown() -> str:
    """`docs/spec.md`."""
    schema = json_schema()
    parts = [f"# {_TITLE}\n", _INTRODUCTION]
    parts += [_section(path, node, schema["$defs"]) for path, node in _sections("", schema, schema["$defs"])]
    return "\n".join(parts)


def _sections(path: str, node: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table of the spec, with its path, in the order of the keys."""
    yield path, node
    for key, field in node["properties"].items():
        below = f"{path}.{key}" if path else key
        inner, suffix = _inner(field, definitions)
        if inner is not None:
            yield from _sections(below + suffix, inner, definitions)


def _inner(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The table that a key holds, and how its path goes on: `.NAME` in a table of tables, `[]` in an array of tables."""
    for node, suffix in (
        (field, ""),
        (field.get("additionalProperties"), ".NAME"),
        (field.get("patternProperties"), ".NAME"),
        (field.get("items"), "[]"),
    ):
        if not isinstance(node, dict):
            continue
        if suffix == ".NAME" and "$ref" not in node and len(node) == 1:
            node = next(iter(node.values()))
        found = definitions.get(str(node.get("$ref", "")).rpartition("/")[2])
        if found is not None and "properties" in found:
            return found, suffix
    return None, ""


def _section(path: str, node: dict[str, Any], definitions: dict[str, Any]) -> str:
    heading = f"## `{_heading(path)}`" if path else "## The top level"
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in node["properties"].items():
        cells = (
            f"`{key}`",
            _type(field, definitions),
            _default(key, field, node),
            _cell(field.get("description") or _meaning(field, definitions)),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([heading, "", node["description"], "", *rows, ""])


def _heading(path: str) -> str:
    return f"[[{path.removesuffix('[]')}]]" if path.endswith("[]") else f"[{path}]"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _meaning(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A table without words of its own is described by what it holds."""
    inner, _ = _inner(field, definitions)
    return str((inner or _resolved(field, definitions)).get("description", ""))


def _resolved(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    name = str(field.get("$ref", "")).rpartition("/")[2]
    found: dict[str, Any] = definitions.get(name, field)
    return found


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    node = _resolved(field, definitions)
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return " or ".join(f'`"{value}"`' for value in node["enum"])
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    if node.get("type") == "array":
        inner, _ = _inner(field, definitions)
        return "tables" if inner is not None else f"list of {_type(node['items'], definitions)}"
    if node.get("type") == "object":
        values = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
        return f"table of {_type(values, definitions)}" if values and "$ref" not in values else "table"
    if node.get("type") == "string":
        return _PATTERNS.get(node.get("pattern", ""), "text")
    if node.get("type") == "integer":
        return "number" + _bounds(node)
    return {"boolean": "true or false"}.get(str(node.get("type")), str(node.get("type")))


def _bounds(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if high is not None:
        return f", {low} to {high}"
    return f", from {low}" if low is not None else ""


def _default(key: str, field: dict[str, Any], node: dict[str, Any]) -> str:
    if key in node.get("required", ()):
        return "required"
    if "default" not in field:
        return ""
    value = field["default"]
    return f"`{_written(value, field.get('format', ''))}`"


def _written(value: Any, how: str) -> str:
    """A default as an operator would write it."""
    if how in ("size", "duration"):
        units = _SIZES if how == "size" else _DURATIONS
        unit, size = next(
            ((unit, size) for unit, size in units if value % size == 0), ("B" if how == "size" else "s", 1)
        )
        return f'"{value // size}{unit}"'
    return json.dumps(value, ensure_ascii=False)


def write_docs(folder: Path) -> None:
    """Write `spec.md` and `spec.schema.json` into `folder`."""
    (folder / "spec.md").write_text(markdown(), encoding="utf-8")
    (folder / "spec.schema.json").write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    write_docs(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
