"""S3's XML answers and requests: listings, tags, parts, uploads. ValueError for a document that cannot be trusted.

Listings are asked for with `encoding-type=url`, since XML 1.0 cannot hold every key. Whether the server did so stands in the
answer, and is believed from there. A listing that is cut off without saying where to go on is no listing.

Source: S3 API reference, ListObjectsV2, ListObjectVersions, ListMultipartUploads, ListParts, Tagging.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, unescape

from migrate.model import ObjectInfo, Tags
from migrate.stores.base import PartInfo, UploadInfo
from migrate.stores.keys import unquote_key
from migrate.stores.s3_errors import MalformedError, parse_count, parse_xml

Item = TypeVar("Item")
Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A page of a listing, and the query that asks for the next one; None after the last."""

    items: Sequence[Item]
    next: Query | None


_OUTSIDE = "a key outside the prefix that was asked for"
_CONTROL = re.compile(rb"&#(x0*[0-9a-fA-F]{1,2}|0*[0-9]{1,3});")


def _under(prefix: str, key: str) -> str:
    if not key.startswith(prefix):
        raise MalformedError(_OUTSIDE)
    return key[len(prefix) :]


class _Document:
    """A parsed answer, its namespace out of the way."""

    def __init__(self, content: bytes, *roots: str) -> None:
        self.root = parse_xml(content)
        tag = self.root.tag
        self.space = tag[: tag.find("}") + 1]
        if tag[len(self.space) :] not in roots:
            raise MalformedError("the answer is another document than was asked for")
        self.decode: Callable[[str], str] = unquote_key if self.text(self.root, "EncodingType") == "url" else str

    def all(self, name: str) -> Iterator[Element]:
        return self.root.iterfind(self.space + name)

    def text(self, parent: Element, name: str) -> str:
        return parent.findtext(self.space + name) or ""

    def needed(self, parent: Element, name: str) -> str:
        text = parent.findtext(self.space + name)
        if not text:
            raise MalformedError(f"an entry without {name}")
        return text

    def key(self, parent: Element, prefix: str) -> str:
        """The key, relative to the store's prefix."""
        return _under(prefix, self.decode(self.needed(parent, "Key")))

    def cut_off(self) -> bool:
        return self._truncated(self.needed(self.root, "IsTruncated"))

    @staticmethod
    def _truncated(said: str) -> bool:
        """Only the two words of the schema are an answer: another one must not read as the end (invariant 4)."""
        if said not in ("true", "false"):
            raise MalformedError("the listing does not say in so many words whether it is cut off")
        return said == "true"

    def markers(self, *pairs: tuple[str, str]) -> Query | None:
        """Where a listing goes on: for each (query name, element). ValueError if it must and none of them is there."""
        if not self._truncated(self.text(self.root, "IsTruncated") or "false"):  # left out by some where it is false
            return None
        found = tuple((name, self.decode(text)) for name, element in pairs if (text := self.text(self.root, element)))
        if not found or found[0][0] != pairs[0][0]:
            raise MalformedError("the listing is cut off and does not say where it goes on")
        return found


def parse_objects(content: bytes, prefix: str) -> Page[ObjectInfo]:
    """ListObjectsV2."""
    document = _Document(content, "ListBucketResult")
    space, decode, cut = document.space, document.decode, len(prefix)
    names = [space + name for name in ("Key", "Size", "ETag", "LastModified", "StorageClass")]
    found = []
    for element in document.all("Contents"):
        key, size, etag, modified, storage_class = map(element.findtext, names)
        if not key or not size or not etag or not modified:
            raise MalformedError("an entry without key, size, ETag or time")
        key = decode(key)
        if not key.startswith(prefix):
            raise MalformedError(_OUTSIDE)
        moment = parse_time(modified)
        found.append(ObjectInfo(key[cut:], parse_count(size), etag.strip('"'), moment, None, storage_class or None))
    return Page(found, _continued(document))


def _continued(document: _Document) -> Query | None:
    # a token is opaque, and never encoded
    if not document.cut_off():
        return None
    token = document.text(document.root, "NextContinuationToken")
    if not token:
        raise MalformedError("the listing is cut off and does not say where it goes on")
    return (("continuation-token", token),)


def parse_versions(content: bytes, prefix: str) -> Page[ObjectInfo]:
    """ListObjectVersions: versions and delete markers, in the order of the answer."""
    document = _Document(content, "ListVersionsResult", "ListBucketVersionsResult")
    found = []
    for element in document.root:
        marker = element.tag == document.space + "DeleteMarker"
        if not marker and element.tag != document.space + "Version":
            continue
        found.append(
            ObjectInfo(
                key=document.key(element, prefix),
                size=0 if marker else parse_count(document.needed(element, "Size")),
                etag="" if marker else document.needed(element, "ETag").strip('"'),
                last_modified=parse_time(document.needed(element, "LastModified")),
                version_id=document.needed(element, "VersionId"),
                storage_class=document.text(element, "StorageClass") or None,
                is_latest=document.needed(element, "IsLatest") == "true",
                is_delete_marker=marker,
            )
        )
    return Page(found, document.markers(("key-marker", "NextKeyMarker"), ("version-id-marker", "NextVersionIdMarker")))


def parse_uploads(content: bytes, prefix: str, *, encoded: bool) -> Page[UploadInfo]:
    """ListMultipartUploads. `encoded`: the uploads' keys are URL-encoded, whatever the answer says.

    Markers are encoded only if it says so. Ceph puts control characters there that XML cannot hold: they read as U+FFFD.
    """
    if encoded:
        content = _CONTROL.sub("\ufffd".encode(), content)
    document = _Document(content, "ListMultipartUploadsResult")
    decode = unquote_key if encoded else document.decode
    found = [
        UploadInfo(
            _under(prefix, decode(document.needed(element, "Key"))),
            document.needed(element, "UploadId"),
            _time_or_none(document.text(element, "Initiated")),
        )
        for element in document.all("Upload")
    ]
    markers = document.markers(("key-marker", "NextKeyMarker"), ("upload-id-marker", "NextUploadIdMarker"))
    if markers is not None and "\ufffd" in markers[0][1]:
        raise MalformedError("the listing goes on at a key that XML cannot hold")
    return Page(found, markers)


def parse_parts(content: bytes) -> Page[PartInfo]:
    """ListParts."""
    document = _Document(content, "ListPartsResult", "ListPartsResponse")  # the latter is moto's
    found = [
        PartInfo(
            parse_count(document.needed(element, "PartNumber")),
            document.needed(element, "ETag").strip('"'),
            parse_count(document.needed(element, "Size")),
        )
        for element in document.all("Part")
    ]
    return Page(found, document.markers(("part-number-marker", "NextPartNumberMarker")))


def parse_upload_id(content: bytes) -> str:
    """CreateMultipartUpload. The answer repeats the key, which XML may not be able to hold: so it is not parsed as such."""
    found = re.search(rb"<UploadId>([^<]+)</UploadId>", content)
    if found is None:
        raise MalformedError("no upload id")
    return unescape(found[1].decode("utf-8"))


def is_error(content: bytes) -> bool:
    """True where a 200 brings an error document after all (CompleteMultipartUpload does that)."""
    return parse_xml(content.strip()).tag.rpartition("}")[2] == "Error"


def parse_tags(content: bytes) -> Tags:
    """GetObjectTagging."""
    document = _Document(content, "Tagging")
    found: dict[str, str] = {}
    for tag in document.root.iter(document.space + "Tag"):
        found[document.needed(tag, "Key")] = document.text(tag, "Value")
    return found


def tags_document(tags: Tags) -> bytes:
    """PutObjectTagging."""
    inner = "".join(
        f"<Tag><Key>{_escaped(name)}</Key><Value>{_escaped(value)}</Value></Tag>"
        for name, value in sorted(tags.items())
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<Tagging xmlns="{space}"><TagSet>{inner}</TagSet></Tagging>'.encode()


def parts_document(parts: Sequence[PartInfo]) -> bytes:
    """CompleteMultipartUpload."""
    inner = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{_escaped(part.etag)}&quot;</ETag></Part>"
        for part in sorted(parts, key=lambda part: part.number)
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{inner}</CompleteMultipartUpload>'.encode()


def _time_or_none(text: str) -> datetime | None:
    """A time that nothing depends on but its being shown: one that cannot be read is none."""
    try:
        return parse_time(text)
    except ValueError:
        return None


def parse_time(text: str) -> datetime:
    """ISO 8601 with a zone. ValueError otherwise."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise MalformedError("a time without its zone")
    try:
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except OverflowError:
        raise MalformedError("a time before the year 1 or after 9999") from None


def _escaped(text: str) -> str:
    return escape(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
