"""What lies in memory behind a `memory:NAME` URL, and the hooks that break it. How it is spoken to is `memory`'s business."""

from __future__ import annotations

import hashlib
import secrets
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.base import Capabilities, PartInfo

PAGE_KEYS = 1000

ALL_CAPABILITIES = Capabilities(
    conditional_put=True,
    refuses_wrong_md5=True,
    refuses_wrong_sha256=True,
    etag_is_md5=True,
    tags=True,
    metadata=True,
    versions=True,
    multipart=True,
    empty_segments=True,
    trailing_slashes=True,
    dot_segments=True,
    line_breaks=True,
    control_characters=True,
    object_lock=True,
    small_put=True,
)

Hook = Callable[[str, str], None]
Delivery = Callable[[str, str, Callable[[], Any]], Any]


def _nothing(operation: str, key: str) -> None:
    """The hook of a place that works."""


def _at_once(_operation: str, _key: str, effect: Callable[[], Any]) -> Any:
    """How a request arrives where nothing stalls."""
    return effect()


@dataclass(slots=True)
class HeldVersion:
    """One version of an object, or a delete marker."""

    info: ObjectInfo
    body: bytes
    tags: dict[str, str]


@dataclass(slots=True)
class HeldUpload:
    """A multipart upload under way."""

    key: str
    attributes: Attributes
    started: datetime
    parts: dict[int, tuple[PartInfo, bytes]] = field(default_factory=dict)


class MemoryPlace:
    """The data behind one `memory:NAME`. Thread-safe.

    `able` is what the "server" does, whatever those who open it believe. With `versioned`, deletes leave markers and
    overwritten objects stay as noncurrent versions.
    """

    def __init__(
        self,
        *,
        able: Capabilities = ALL_CAPABILITIES,
        versioned: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.able = able
        self.versioned = versioned
        self.now = now
        self.fault: Hook = _nothing
        self.after: Hook = _nothing
        self.deliver: Delivery = _at_once
        self.lock = threading.RLock()
        self.uploads: dict[str, HeldUpload] = {}
        self._versions: dict[str, list[HeldVersion]] = {}
        self._keys: list[str] = []  # sorted: code point order is UTF-8 byte order

    def seed(
        self,
        key: str,
        body: bytes = b"",
        *,
        attributes: Attributes = Attributes(),  # noqa: B008 - frozen
        tags: Mapping[str, str] | None = None,
        etag: str | None = None,
        last_modified: datetime | None = None,
        storage_class: str | None = "STANDARD",
        encryption: str | None = None,
        lock: str | None = None,
    ) -> ObjectInfo:
        """Lay an object there, as no PUT of ours would: any ETag, time, class, encryption and lock. Calls no hook."""
        info = ObjectInfo(
            key=key,
            size=len(body),
            etag=etag or hashlib.md5(body, usedforsecurity=False).hexdigest(),
            last_modified=last_modified or self.now(),
            storage_class=storage_class,
            attributes=attributes,
            encryption=encryption,
            lock=lock,
        )
        return self.lay(info, body, tags or {})

    def lay(self, info: ObjectInfo, body: bytes, tags: Tags) -> ObjectInfo:
        """Make this the current version of its key."""
        info = replace(info, tag_count=len(tags), version_id=secrets.token_hex(8) if self.versioned else None)
        with self.lock:
            if info.key not in self._versions:
                insort(self._keys, info.key)
                self._versions[info.key] = []
            older = self._versions[info.key]
            if not self.versioned:
                older.clear()
            older.append(HeldVersion(info, body, dict(tags)))
        return info

    def find(self, key: str, version_id: str | None = None) -> HeldVersion | None:
        """The current version, or the one named; None where there is none, or only a delete marker is current."""
        with self.lock:
            versions = self._versions.get(key, [])
            if version_id is not None:
                return next((version for version in versions if version.info.version_id == version_id), None)
            return versions[-1] if versions and not versions[-1].info.is_delete_marker else None

    def remove(self, key: str, version_id: str | None = None) -> None:
        with self.lock:
            versions = self._versions.get(key, [])
            if version_id is not None:
                versions[:] = [version for version in versions if version.info.version_id != version_id]
            elif self.versioned:
                marker = ObjectInfo(key=key, size=0, etag="", last_modified=self.now(), is_delete_marker=True)
                self.lay(marker, b"", {})
                return
            else:
                versions.clear()
            if not versions and key in self._versions:
                del self._versions[key]
                self._keys.remove(key)

    def page(self, prefix: str, start_after: str) -> tuple[list[ObjectInfo], str | None]:
        """Up to 1,000 versions' keys: the current objects among them, and where to go on, or None at the end."""
        with self.lock:
            start = bisect_right(self._keys, start_after) if start_after >= prefix else bisect_left(self._keys, prefix)
            keys = self._keys[start : start + PAGE_KEYS]
            inside = [key for key in keys if key.startswith(prefix)]
            found = [version.info for key in inside if (version := self.find(key)) is not None]
            return found, inside[-1] if len(inside) == PAGE_KEYS else None

    def versions(self, prefix: str) -> list[ObjectInfo]:
        """All versions and delete markers, by key, the newest first."""
        with self.lock:
            return [
                replace(version.info, is_latest=index == 0)
                for key in self._keys
                if key.startswith(prefix)
                for index, version in enumerate(reversed(self._versions[key]))
            ]


_places: dict[str, MemoryPlace] = {}
_places_lock = threading.Lock()


def place(name: str) -> MemoryPlace:
    """The place behind `memory:NAME`, made when it is first named."""
    with _places_lock:
        return _places.setdefault(name, MemoryPlace())


def forget_places() -> None:
    """Drop all places of this process, for the next test."""
    with _places_lock:
        _places.clear()
