"""The capabilities file: what is saved is loaded, and nothing else is believed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import InputError
from migrate.model import Role
from migrate.spec import StoreSpec
from migrate.stores.base import Capabilities
from migrate.stores.capabilities import load_capabilities, save_capabilities

STORES = {
    "us": StoreSpec(site="us", role=Role.SOURCE, url="s3://photos-us/", region="us-east-1", credentials="env:US"),
    "dublin": StoreSpec(
        site="dublin",
        role=Role.TARGET,
        url="s3://photos/p/",
        endpoint="https://s3.dublin.example",
        credentials="env:DUBLIN",
    ),
}
FOUND = {"us": Capabilities(tags=True), "dublin": Capabilities(conditional_put=True, etag_is_md5=True)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Private to its owner, one file, and replaced as a whole."""
    path = tmp_path / "capabilities-clover.json"
    save_capabilities(path, STORES, {"us": Capabilities()})
    save_capabilities(path, STORES, FOUND)
    assert load_capabilities(path, STORES) == FOUND
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    """Then the stores' own defaults hold: those of a stranger."""
    assert load_capabilities(tmp_path / "none.json", STORES) == {}


def test_the_file_does_not_depend_on_the_order(tmp_path: Path) -> None:
    """It goes into the plan's digest."""
    save_capabilities(tmp_path / "a", STORES, FOUND)
    save_capabilities(tmp_path / "b", STORES, dict(reversed(FOUND.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "s3://photos/other/"),
        ("endpoint", "https://s3.hamar.example"),
        ("region", "dublin-2"),
        ("kms_key", "arn:aws:kms:eu-west-1:111122223333:key/1"),
        ("role", Role.SOURCE),
    ],
)
def test_a_store_that_changed_since_is_not_probed(tmp_path: Path, key: str, value: object) -> None:
    """What another server, bucket or key was found to do says nothing of this one; of the others it still holds."""
    path = tmp_path / "c.json"
    save_capabilities(path, STORES, FOUND)
    changed = {**STORES, "dublin": STORES["dublin"].model_copy(update={key: value})}
    assert load_capabilities(path, changed) == {"us": FOUND["us"]}


@pytest.mark.parametrize(("key", "value"), [("credentials", "env:NEW"), ("timeout", 5), ("concurrency_max", 2)])
def test_a_store_with_other_credentials_stays_probed(tmp_path: Path, key: str, value: object) -> None:
    """The twin: these say nothing of what the store can do."""
    path = tmp_path / "c.json"
    save_capabilities(path, STORES, FOUND)
    changed = {**STORES, "dublin": STORES["dublin"].model_copy(update={key: value})}
    assert load_capabilities(path, changed) == FOUND


def test_a_store_that_is_gone_is_not_spoken_of(tmp_path: Path) -> None:
    """The file may be of an older spec of this name."""
    path = tmp_path / "c.json"
    save_capabilities(path, STORES, FOUND)
    assert load_capabilities(path, {"us": STORES["us"]}) == {"us": FOUND["us"]}


def spoil(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        spoil(format=2),
        spoil(format=4),
        spoil(stores=[]),
        lambda document: document.pop("format"),
        lambda document: document["stores"]["us"]["able"].update(teleports=True),
        lambda document: document["stores"]["us"]["able"].update(tags="yes"),
        lambda document: document["stores"]["us"]["able"].pop("tags"),
        lambda document: document["stores"].update(us=[]),
        lambda document: document["stores"]["us"].pop("asked"),
        lambda document: document["stores"]["us"].update(able=[]),
    ],
)
def test_a_file_that_is_not_exactly_right_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Invariants 4 and 12: a newer format, an unknown ability or a missing one."""
    path = tmp_path / "c.json"
    save_capabilities(path, STORES, FOUND)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        load_capabilities(path, STORES)
    assert "doctor" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    """A file that ended early among them."""
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_capabilities(path, STORES)
