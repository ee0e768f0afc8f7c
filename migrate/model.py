"""The vocabulary: enums and frozen values that every other module speaks in (design, section 2). No input or output here.

Times are UTC, sizes are bytes, digests are raw bytes unless the name ends in `_hex`. Keys are `str` holding exactly the UTF-8
of the S3 key, relative to the store's prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a store is for. A `reports` store holds inventories or the directory, and no user's objects."""

    SOURCE = "source"
    BACKUP = "backup"
    TARGET = "target"
    REPORTS = "reports"


class Category(StrEnum):
    """What the law says of a data category: must stay in Europe, may leave it, or leaves it by a named exception."""

    RESTRICTED = "restricted"
    ALLOWABLE = "allowable"
    EXCEPTION = "exception"


class CensusClass(StrEnum):
    """Every listed key is in exactly one of these (design, invariant 3)."""

    OWNED = "owned"
    OUT_OF_SCOPE = "out-of-scope"
    SHARED = "shared"
    ORPHAN = "orphan"
    UNCLASSIFIED = "unclassified"


class Policy(StrEnum):
    """What becomes of objects that are no single user's: copied to every site, left at the source for now, or left for good."""

    COPY = "copy"
    KEEP = "keep"
    EXCLUDE = "exclude"


class TargetRole(StrEnum):
    """Why a copy goes to its target store: it is the user's home, or the backup elsewhere."""

    HOME = "home"
    BACKUP = "backup"


class Outcome(StrEnum):
    """What became of a copy."""

    PENDING = "pending"
    COPIED = "copied"
    PRESENT = "present"
    DRIFTED = "drifted"
    QUARANTINED = "quarantined"
    WITHDRAWN = "withdrawn"

    @property
    def has_receipt(self) -> bool:
        return self is Outcome.COPIED or self is Outcome.PRESENT


class Evidence(StrEnum):
    """What showed that the bytes read are the source's: its MD5 ETag, its composite ETag, or only its length."""

    MD5 = "md5"
    COMPOSITE = "composite"
    LENGTH = "length"


class Verdict(StrEnum):
    MATCH = "MATCH"
    MISMATCH = "MISMATCH"
    MISSING = "MISSING"
    UNKNOWN = "UNKNOWN"


class Level(StrEnum):
    """How deep a verification looks."""

    LISTING = "listing"
    CONTENT = "content"
    BOTH_ENDS = "both-ends"

    @property
    def rank(self) -> int:
        return list(Level).index(self)


class Purpose(StrEnum):
    """What a lease, or an opened store, is for."""

    PLAN = "plan"
    COPY = "copy"
    VERIFY = "verify"
    DOCTOR = "doctor"
    SWEEP = "sweep"
    ROLLBACK = "rollback"
    SEND_BACK = "send-back"  # a rollback that may write to sources: an exception that somebody has approved by name
    PURGE = "purge"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an object carries beside its bytes and tags. A text is exactly the header's value; None where there is none.

    `expires` is the raw header (servers disagree about its format). `metadata` has lower-case names without
    `x-amz-meta-`, sorted by name.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    cache_control: str | None = None
    expires: str | None = None
    website_redirect: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()


Tags = Mapping[str, str]


def attributes_digest(attributes: Attributes, tags: Tags) -> bytes:
    """SHA-256 over attributes and tags in canonical form: length-prefixed UTF-8 fields, `-` for none, names sorted."""
    parts: list[bytes] = []

    def add(text: str | None) -> None:
        if text is None:
            parts.append(b"-")
        else:
            raw = text.encode("utf-8", "surrogateescape")
            parts.append(b"%d:%s" % (len(raw), raw))

    for text in (
        attributes.content_type,
        attributes.content_encoding,
        attributes.content_language,
        attributes.content_disposition,
        attributes.cache_control,
        attributes.expires,
        attributes.website_redirect,
    ):
        add(text)
    for pairs in (sorted(attributes.metadata), sorted(tags.items())):
        parts.append(b"%d;" % len(pairs))
        for name, value in pairs:
            add(name)
            add(value)
    return hashlib.sha256(b"".join(parts)).digest()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object version as a store shows it. `etag` is without quotes. A listing fills only the first block of fields."""

    key: str
    size: int
    etag: str
    last_modified: datetime
    version_id: str | None = None
    storage_class: str | None = None
    is_latest: bool = True
    is_delete_marker: bool = False
    # from GET and HEAD only
    attributes: Attributes = field(default=Attributes())
    tag_count: int = 0
    encryption: str | None = None  # "AES256", "aws:kms", "SSE-C", …
    lock: str | None = None  # retention mode or "legal-hold"

    @property
    def etag_md5(self) -> bytes | None:
        """The MD5 of the content, where the ETag is one: 32 hex digits, and no KMS or customer key behind it.

        Source: S3 API reference, Object, ETag.
        """
        if len(self.etag) == 32 and self.encryption in (None, "AES256"):
            try:
                return bytes.fromhex(self.etag)
            except ValueError:
                return None
        return None


SENT_BACK = "sent_back"  # the flag of what the platform wrote at the new home, and a rollback has copied to the source
DELETED = "deleted"  # the flag of a tombstone: the source has deleted the object since it was copied
LEFT = "left"  # the same: its user is out of scope by now
TOMBSTONES = (DELETED, LEFT)
MOVED = "moved"  # a user of a delta whose home is elsewhere by now, so that the sources count no more
LEAVING = "leaving"  # a user of a delta whom the line has placed, and who is out of scope now
STAND_IN = "stand-in"  # no person: whom the objects belong to that are copied to two of the sites, or to the last one
STAND_INS = "/everywhere/"  # how their ids begin: a directory holds no id with a slash


def stand_in_id(spec_name: str, number: int) -> str:
    """The id of a spec's stand-in, counted from 1."""
    return f"{STAND_INS}{spec_name}/{number}"


def is_stand_in(user_id: str) -> bool:
    """Whether this is no person's id: such a user ends as `verified`, and is never cut over, rolled back, purged or forgotten."""
    return user_id.startswith(STAND_INS)


class PlannedCopy(NamedTuple):
    """One copy of a planned object: `ordinal` is its place in the batch, from 0. `replaces` is the ETag of what an earlier plan
    has left at the target, and this copy may take the place of."""

    ordinal: int
    role: TargetRole
    store: str
    replaces: str | None = None


class PlannedObject(NamedTuple):
    """One source object version and its copies: read once, written to each target under `target_key`."""

    user_id: str
    store: str
    key: str
    version_id: str | None
    etag: str
    size: int
    last_modified: datetime
    category: Category | None  # None: by a rule for shared objects
    rule: str
    target_key: str
    flag: str | None  # diverged, incomparable, unbacked, backup_only, or that of a tombstone
    copies: tuple[PlannedCopy, ...]

    @property
    def is_tombstone(self) -> bool:
        """Its copies are to be removed."""
        return self.flag in TOMBSTONES


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A row of the plan's batch table. `digest` covers its copies' rows in canonical form.

    Where one user is split over several batches, `key_from` and `key_until` bound the target keys that this batch answers
    for (from included, until excluded, None for open): together the batches cover everything.
    """

    number: int
    wave: int
    users: int
    objects: int
    copies: int
    size_bytes: int  # over all copies
    digest: bytes
    key_from: str | None = None
    key_until: str | None = None


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A row of the plan's user table. `state` is where the user starts: planned, held, review, out (of scope), or that of a
    stand-in; in a delta leaving or moved, too."""

    user_id: str
    country: str
    country_given: str
    state: str
    scope_rule: str
    home: str | None
    backup: str | None
    placement_rule: str | None
    wave: int | None
    objects: int
    copies: int
    size_bytes: int
    first_batch: int | None
    last_batch: int | None


class Receipt(NamedTuple):
    """The durable record of one copied or present copy.

    `sha256` is that of the content, or, where `part_bytes` is not 0, the SHA-256 over the SHA-256s of its parts of
    `part_bytes` each (S3's composite form): parts can then be sent in any order and resumed without reading them again.
    """

    sha256: bytes
    part_bytes: int
    attributes: bytes
    etag: str
    version_id: str | None
    evidence: Evidence
    at: datetime


class CopyResult(NamedTuple):
    """One copy's outcome, with its receipt, or the reason why there is none."""

    ordinal: int
    outcome: Outcome
    receipt: Receipt | None = None
    reason: str | None = None  # a code: denied, not_found, occupied, cannot_keep, …
    detail: str | None = None  # one line for the operator; no key, no user id


class CheckResult(NamedTuple):
    """One copy's verdict."""

    ordinal: int
    verdict: Verdict
    reason: str | None = None
    etag: str | None = None  # what the target shows now, for the repair


def composite_sha256(parts: Iterable[bytes]) -> bytes:
    """The SHA-256 over the parts' SHA-256 digests, in order."""
    return hashlib.sha256(b"".join(parts)).digest()
