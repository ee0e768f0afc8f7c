"""The spec's reference and its JSON Schema are what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migrate.spec import load_spec
from migrate.spec_docs import json_schema, markdown, schema_text

ROOT = Path(__file__).parents[2]


def plain(value: Any) -> Any:
    """TOML's times as the texts that an editor sees."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_the_reference_in_the_repository_is_the_generated_one() -> None:
    """`make docs` has been run after the last change."""
    assert (ROOT / "docs/spec.md").read_text(encoding="utf-8") == markdown()


def test_the_schema_in_the_repository_is_the_generated_one() -> None:
    """`make docs` has been run after the last change."""
    assert (ROOT / "docs/spec.schema.json").read_text(encoding="utf-8") == schema_text()


def test_every_key_has_its_meaning() -> None:
    """No row of the reference has an empty last cell."""
    assert not re.findall(r"^\| `.*\|  \|$", markdown(), flags=re.MULTILINE)


def test_defaults_are_written_as_an_operator_would() -> None:
    """Sizes, durations and shares with their units, not in bytes, seconds and millionths."""
    text = markdown()
    assert '| `part_bytes` | size | `"16MiB"` |' in text
    assert '| `max_age` | duration | `"2d"` |' in text
    assert '| `canary` | share | `"1%"` |' in text


@pytest.mark.parametrize("name", ["clover.toml", "demo.toml"])
def test_a_spec_of_the_repository_is_read_and_fits_the_schema(name: str) -> None:
    """What the tool reads, an editor with the schema has nothing to say against."""
    path = ROOT / "plans" / name
    assert load_spec(path).name == path.stem
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain(tomllib.loads(path.read_text(encoding="utf-8"))), schema)


def test_the_schema_finds_a_wrong_key() -> None:
    """The corrupted twin."""
    data = plain(tomllib.loads((ROOT / "plans/clover.toml").read_text(encoding="utf-8")))
    data["sites"]["hamar"]["wheight"] = 2
    with pytest.raises(jsonschema.ValidationError, match="wheight"):
        jsonschema.validate(data, json_schema())


def test_the_packaged_spec_is_the_one_in_the_repository() -> None:
    """`migrate init` writes what the repository shows."""
    packaged = files("migrate.cli").joinpath("clover.toml").read_text(encoding="utf-8")
    assert packaged == (ROOT / "plans/clover.toml").read_text(encoding="utf-8")


def test_the_schema_knows_no_null() -> None:
    """TOML has none: a key that may be left out is left out."""
    assert '"null"' not in schema_text()
    assert json.loads(schema_text()) == json_schema()
