"""What a target key holds already, compared with the parts that were sent there: decides whether a large object is ours.

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
from migrate.transfer.parts import PartSent, Upload, whole_digest
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


def holds_parts(
    store: Store, key: str, found: ObjectInfo, parts: Sequence[PartSent], part_bytes: int, *, trust_etag: bool
) -> bool:
    """Whether the content is these parts. Read again where the ETag cannot say so, or is not to be trusted."""
    if found.size != sum(part.size for part in parts):
        return False
    if trust_etag:
        if found.etag == composite_etag([part.md5 for part in parts]):
            return True
        if store.capabilities.etag_is_md5:
            return False

    def read() -> bytes:
        with store.get(key, if_match=found.etag) as download:
            return digest_of(download, part_bytes)

    return has_digest(read, whole_digest(parts), store.name)


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
