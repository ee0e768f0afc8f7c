"""The capabilities file: what is saved is loaded, and nothing else is believed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import InputError
from migrate.stores.base import Capabilities
from migrate.stores.capabilities import load_capabilities, save_capabilities

FOUND = {"us": Capabilities(tags=True), "dublin": Capabilities(conditional_put=True, etag_is_md5=True)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Private to its owner, one file, and replaced as a whole."""
    path = tmp_path / "capabilities-clover.json"
    save_capabilities(path, {"us": Capabilities()})
    save_capabilities(path, FOUND)
    assert load_capabilities(path) == FOUND
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    """Then the stores' own defaults hold: those of a stranger."""
    assert load_capabilities(tmp_path / "none.json") == {}


def test_the_file_does_not_depend_on_the_order(tmp_path: Path) -> None:
    """It goes into the plan's digest."""
    save_capabilities(tmp_path / "a", FOUND)
    save_capabilities(tmp_path / "b", dict(reversed(FOUND.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def spoil(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        spoil(format=2),
        spoil(stores=[]),
        lambda document: document.pop("format"),
        lambda document: document["stores"]["us"].update(teleports=True),
        lambda document: document["stores"]["us"].update(tags="yes"),
        lambda document: document["stores"]["us"].pop("tags"),
        lambda document: document["stores"].update(us=[]),
    ],
)
def test_a_file_that_is_not_exactly_right_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Invariants 4 and 12: a newer format, an unknown ability or a missing one."""
    path = tmp_path / "c.json"
    save_capabilities(path, FOUND)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        load_capabilities(path)
    assert "doctor" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    """A file that ended early among them."""
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_capabilities(path)
