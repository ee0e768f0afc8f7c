"""Delete markers: of a store that keeps versions, the only word that a key is deleted, and not lost."""

from __future__ import annotations

from migrate.errors import UnsupportedError
from migrate.stores.base import Store
from migrate.transfer.caller import Caller


def has_marker(name: str, key: str, caller: Caller) -> bool:
    """Whether the newest that the store has of this key is a delete marker. False where it lists no versions."""

    def ask(store: Store) -> bool:
        for page in store.list_versions(
            key
        ):  # pages are in order of the keys; in one, some servers list the markers last
            newest = next((info for info in page if info.key == key and info.is_latest), None)
            if newest is not None or any(info.key != key for info in page):
                return newest is not None and newest.is_delete_marker
        return False

    try:
        return caller.call(name, ask)
    except UnsupportedError:
        return False
