"""What a store shows of one key, or under prefixes. What fails raises, and reads as no absence (design, invariant 4)."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.errors import NotFoundError, UnsupportedError
from migrate.model import ObjectInfo
from migrate.stores.base import Store, UploadInfo
from migrate.transfer.caller import Caller

NULL_VERSION = "null"
NO_VERSION = (None, NULL_VERSION)
"""The ids of an object that has no version of its own, so that another one can take its place: in a bucket without versions, or
whose versioning is suspended (S3 user guide, "Working with objects in a versioning-suspended bucket")."""


def object_at(name: str, key: str, caller: Caller) -> ObjectInfo | None:
    """What stands at a key; None where, by two looks, nothing does."""
    try:
        return caller.call(name, lambda store: store.head(key))
    except NotFoundError:
        return None


def etag_at(name: str, key: str, caller: Caller) -> str | None:
    """The ETag of what stands at a key; None where nothing does."""
    info = object_at(name, key, caller)
    return None if info is None else info.etag


def objects_under(name: str, prefixes: Sequence[str], caller: Caller) -> list[ObjectInfo]:
    """The current objects under these prefixes, none of which lies within another."""

    def listed(prefix: str) -> list[ObjectInfo]:
        return caller.call(name, lambda store: [info for page in store.list(prefix) for info in page])

    return [info for prefix in prefixes for info in listed(prefix)]


def versions_under(name: str, prefixes: Sequence[str], caller: Caller) -> list[ObjectInfo]:
    """Versions and delete markers, the newest of a key first; none where the store says that it has no such thing."""

    def listed(prefix: str) -> list[ObjectInfo]:
        try:
            return caller.call(name, lambda store: [info for page in store.list_versions(prefix) for info in page])
        except UnsupportedError:
            return []

    return [info for prefix in prefixes for info in listed(prefix)]


def uploads_under(name: str, prefixes: Sequence[str], caller: Caller) -> list[UploadInfo]:
    """Uploads that were begun and not ended; none where the store has no such thing."""

    def listed(prefix: str) -> list[UploadInfo]:
        try:
            return caller.call(name, lambda store: list(store.list_uploads(prefix)))
        except UnsupportedError:
            return []

    return [upload for prefix in prefixes for upload in listed(prefix)]


def has_marker(name: str, key: str, caller: Caller) -> bool:
    """Whether the newest that the store has of this key is a delete marker: where versions are kept, the only word that it was
    deleted, and not lost. False where none are listed."""

    def ask(store: Store) -> bool:
        for page in store.list_versions(key):  # in order of the keys; in a page, some servers list the markers last
            newest = next((info for info in page if info.key == key and info.is_latest), None)
            if newest is not None or any(info.key != key for info in page):
                return newest is not None and newest.is_delete_marker
        return False

    try:
        return caller.call(name, ask)
    except UnsupportedError:
        return False
