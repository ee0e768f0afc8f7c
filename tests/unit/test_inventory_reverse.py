"""Pages of a store's own listing, looked for in its inventory: one that leaves out what is there builds no plan."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from inventories import NOW, Desk, clock, desk, whole_text

from migrate.errors import DeniedError, InputError, TransientStoreError
from migrate.inventory import aside as aside_module
from migrate.inventory.files import InventoryFile
from migrate.inventory.reverse import check_complete
from migrate.stores import memory_place
from migrate.stores.memory import MemoryPlace, MemoryStore

OLD = NOW - timedelta(days=30)
KEYS = [f"users/{number:04d}/photo é.jpg" for number in range(300)]


@pytest.fixture(autouse=True)
def _pages_of_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_place, "PAGE_KEYS", 20)


def filled(keys: list[str]) -> MemoryPlace:
    place = MemoryPlace(now=clock)
    for key in keys:
        place.seed(key, b"x", last_modified=OLD)
    return place


def taken(tmp_path: Path, keys: list[str]) -> tuple[Desk, InventoryFile]:
    """An inventory that lists just these keys."""
    table = desk(tmp_path)
    return table, table.take(MemoryStore("us", filled(keys)))


def looked_for(tmp_path: Path, listed: list[str], place: MemoryPlace) -> int:
    table, inventory = taken(tmp_path, listed)
    return check_complete(inventory, MemoryStore("us", place), seed="s", scratch=table.scratch)


def test_whole_inventory_holds_what_the_store_lists(tmp_path: Path) -> None:
    """The sound twin: several pages were looked for, and all of it was there."""
    assert 100 < looked_for(tmp_path, KEYS, filled(KEYS)) <= 200
    assert looked_for(tmp_path / "empty", [], filled([])) == 0


@pytest.mark.parametrize(
    "listed",
    [KEYS[:-1], KEYS[1:], KEYS[::2], KEYS[100:200], []],
    ids=["cut at its end", "cut at its beginning", "every other key", "a prefix", "empty"],
)
def test_inventory_that_leaves_keys_out_is_refused(tmp_path: Path, listed: list[str]) -> None:
    """Invariants 4 and 10: the refusal counts, names the store, and no key."""
    with pytest.raises(
        InputError, match=r"^us: \d+ of \d+ keys that the store lists are not in its inventory$"
    ) as caught:
        looked_for(tmp_path, listed, filled(KEYS))
    assert "photo" not in whole_text(caught.value)


@pytest.mark.parametrize(
    ("etag", "settled"), [("0123456789abcdef0123456789abcdef", timedelta(days=1)), ("ab-3", timedelta(days=7))]
)
def test_what_is_new_need_not_be_in_an_inventory(tmp_path: Path, etag: str, settled: timedelta) -> None:
    """Inventories are eventually consistent: at a day before its time a key may be missing, earlier it must not.

    What was sent in parts shows when its upload began, and has a week.
    """
    place = filled(KEYS)
    place.seed("a new one", b"x", etag=etag, last_modified=NOW - settled)
    looked_for(tmp_path, KEYS, place)
    place.seed("a new one", b"x", etag=etag, last_modified=NOW - settled - timedelta(seconds=1))
    with pytest.raises(InputError, match=r"^us: 1 of "):
        looked_for(tmp_path, KEYS, place)


def test_requests_do_not_grow_with_the_inventory(tmp_path: Path) -> None:
    """Invariant 11: ten pages at most, of a small store and of one ten times as large, odd keys included."""
    odd = [f"users/{number:04d}/\x01\x02{number}" for number in range(1000)]
    for name, keys in (("small", KEYS), ("large", [f"{key}/{n}" for key in KEYS for n in range(10)]), ("odd", odd)):
        place = filled(keys)
        asked: list[str] = []
        table, inventory = taken(tmp_path / name, keys)
        place.fault = lambda operation, _key, asked=asked: asked.append(operation)  # type: ignore[misc]
        check_complete(inventory, MemoryStore("us", place), seed="s", scratch=table.scratch)
        assert set(asked) == {"list"}
        assert 2 <= len(asked) <= 10


def test_object_at_the_prefix_itself_is_no_key(tmp_path: Path) -> None:
    """It has no name in the store, and no inventory of the store lists it."""
    assert looked_for(tmp_path, KEYS, filled(["", *KEYS])) > 100


def test_listing_that_fails_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 4: a refused listing proves nothing, so it ends planning; one that fails in passing is asked again."""
    place = filled(KEYS)

    def deny(operation: str, key: str) -> None:
        raise DeniedError("us", operation, key=key)

    place.fault = deny
    with pytest.raises(DeniedError):
        looked_for(tmp_path, KEYS, place)
    monkeypatch.setattr(aside_module, "RETRY_WAIT_SECONDS", 0.001)
    failed: list[str] = []

    def stumble(operation: str, _key: str) -> None:
        if not failed:
            failed.append(operation)
            raise TransientStoreError("us", operation)

    place.fault = stumble
    assert looked_for(tmp_path, KEYS, place) > 100
    assert failed == ["list"]
