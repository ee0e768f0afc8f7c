"""What a target key holds already: whether a large object is ours, or equal to what is wanted, as far as its headers tell.

An upload can be joined and its answer, its tags or its receipt be lost. So content, attributes and tags are each looked at;
only tags that are wholly missing are mended, since joining and tagging are two requests and a death between them leaves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from migrate.errors import NotFoundError, StoreError, UnsupportedError
from migrate.model import Attributes, ObjectInfo, Tags, attributes_digest
from migrate.stores.base import Store
from migrate.transfer.integrity import composite_etag, digest_of, has_digest
from migrate.transfer.parts import PartSent, Taken, Upload
from migrate.transfer.whole import kept_attributes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the object at `key` is to have beside its content. `etag_md5` is the source's ETag, where it is an MD5."""

    key: str
    attributes: Attributes
    tags: Tags
    etag_md5: bytes | None

    @property
    def digest(self) -> bytes:
        return attributes_digest(self.attributes, self.tags)

    def has_attributes(self, found: ObjectInfo) -> bool:
        """Whether the attributes are the wanted ones; tags aside, which need another request."""
        return attributes_digest(kept_attributes(found), self.tags) == self.digest

    def has_tags(self, store: Store, found: ObjectInfo) -> bool:
        """Whether the tags are the wanted ones."""
        if not store.capabilities.tags:
            return not found.tag_count and not self.tags
        # asked for even where the headers count none: the count is hidden from who may not read tags
        return dict(store.get_tags(self.key)) == dict(self.tags)

    def mend_tags(self, store: Store, found: ObjectInfo) -> bool:
        """Whether our own object has the wanted tags, set now if it had none. Tags that somebody else set stay."""
        if self.has_tags(store, found):
            return True
        if not self.tags or store.get_tags(self.key):
            return False
        store.put_tags(self.key, self.tags)
        self.demand_kept(store, found)
        return True

    def demand_kept(self, store: Store, found: ObjectInfo) -> None:
        """UnsupportedError where `found`, which is our own, shows other attributes or tags than were sent."""
        if not self.has_attributes(found) or (self.tags and not self.has_tags(store, found)):
            self.take_back(store, found)

    def take_back(self, store: Store, found: ObjectInfo) -> NoReturn:
        """Delete our own object that the store bent, and raise UnsupportedError: no copy is left without what it is to keep."""
        detail = "the store keeps other metadata, headers or tags than were sent"
        try:
            store.delete(self.key, version_id=found.version_id)
        except StoreError:
            detail += ", and the object could not be deleted again"
        raise UnsupportedError(store.name, "complete", detail, key=self.key)


def look_at(
    store: Store,
    wanted: Wanted,
    size: int,
    parts: Sequence[PartSent] | None,
    *,
    replaceable: str | None,
    asked: bool = False,
    joining: bool = False,
) -> Taken | None:
    """What lies at the wanted key; None where it is free, or holds the ETag `replaceable`, which a repair may replace.

    `parts` are all that were sent, if they were; `asked`: the store was asked to join them, so that what a repair may replace
    may be replaced already. A repair means that somebody read the object and it was wrong: then its ETag proves nothing. With
    `joining` the key was free before the parts were joined, so that they are ours whatever the store made of their attributes.
    """
    try:
        found = store.head(wanted.key)
    except NotFoundError:
        return None
    trusted = found.etag != replaceable
    if not trusted and not asked:
        return None
    is_joined = parts is not None and trusted and found.etag == composite_etag([part.md5 for part in parts])
    ours = parts is not None and (is_joined or not trusted or not store.capabilities.etag_is_md5)
    if found.size == size and (wanted.has_attributes(found) or (joining and ours)):
        if is_joined:
            return Taken(found, ours=True, equal=True)
        if ours or wanted.has_tags(store, found):
            return Taken(found, ours, equal=None)
    return Taken(found, ours=False, equal=False)


def may_keep(store: Store, wanted: Wanted, taken: Taken) -> bool:
    """Whether an object whose content is equal has the attributes and tags, too; our own is mended, or taken away again."""
    if not taken.ours:
        return wanted.has_tags(store, taken.found)
    if not wanted.has_attributes(taken.found):
        wanted.take_back(store, taken.found)
    return wanted.mend_tags(store, taken.found)


def holds(store: Store, key: str, found: ObjectInfo, start: int, part: PartSent) -> bool:
    """Whether this part of the object is equal. What a network bends is not the same again: a difference is read twice."""

    def read() -> bytes:
        with store.get(key, if_match=found.etag, start=start, length=part.size) as download:
            return digest_of(download, 0)

    return has_digest(read, part.sha256, store.name)


def kept_parts(store: Store, key: str, known: Upload) -> dict[int, PartSent] | None:
    """The parts in the ledger that the store has as well; None where it does not know the upload."""
    try:
        listed = store.list_parts(key, known.started.upload_id)
    except NotFoundError:
        return None
    there = {(part.number, part.etag, part.size) for part in listed}
    return {number: part for number, part in known.parts.items() if (number, part.etag, part.size) in there}


def drop_uploads(store: Store, key: str) -> None:
    """Abort every upload for the key."""
    for upload in store.list_uploads(key):
        if upload.key == key:
            store.abort_upload(key, upload.upload_id)
