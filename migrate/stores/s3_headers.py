"""Between an object's headers on the wire and the values of `model`: attributes, tags, and what HEAD and GET tell.

A header's value is bytes. Its lossless text, used in `Attributes` throughout, is those bytes as UTF-8 with Python's
`surrogateescape`: what is UTF-8 reads as what it says, any other byte is kept as a lone surrogate and goes out again as the
same byte. `text_of` and `bytes_of` are the two ways.

AWS and Ceph keep metadata that is not ASCII as it was sent, and show it in RFC 2047's form (`=?UTF-8?B?…?=`). Reading undoes
that, since other servers show the bytes themselves, and a copy is to be compared with its original whatever the servers.
Source: S3 user guide, "Working with object metadata", User-defined object metadata.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote_to_bytes

from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.s3_errors import MalformedError, parse_count

META = "x-amz-meta-"

_HEADERS = (
    ("content_type", "content-type"),
    ("content_encoding", "content-encoding"),
    ("content_language", "content-language"),
    ("content_disposition", "content-disposition"),
    ("cache_control", "cache-control"),
    ("expires", "expires"),
    ("website_redirect", "x-amz-website-redirect-location"),
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, token; in lower case
_VALUE_ENDS = " \t"
_ENCODED_WORD = re.compile(r"=\?[Uu][Tt][Ff]-8\?([QqBb])\?([^?]*)\?=")
_ENCODED_WORDS = re.compile(r"=\?[Uu][Tt][Ff]-8\?[QqBb]\?[^?]*\?=([ \t]+=\?[Uu][Tt][Ff]-8\?[QqBb]\?[^?]*\?=)*")
ENCRYPTION = "x-amz-server-side-encryption"
ENCRYPTION_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
_PLAIN_NAME = re.compile(r"[0-9a-z-]+")
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def text_of(header: str) -> str:
    """The lossless text of a header, from what http.client makes of it (latin-1)."""
    if header.isascii():
        return header.strip(_VALUE_ENDS)
    return header.encode("latin-1").decode("utf-8", "surrogateescape").strip(_VALUE_ENDS)


def metadata_text_of(header: str) -> str:
    """Like `text_of`, RFC 2047's form undone where it stands for something that is not ASCII."""
    if not header.startswith("=?"):
        return text_of(header)
    text = header.strip(_VALUE_ENDS)
    words = _ENCODED_WORD.findall(text)
    if not words or not _ENCODED_WORDS.fullmatch(text):
        return text_of(header)
    try:
        raw = b"".join(_decoded(kind, word) for kind, word in words)
    except ValueError:
        return text_of(header)
    return text_of(header) if raw.isascii() else raw.decode("utf-8", "surrogateescape")


def _decoded(kind: str, word: str) -> bytes:
    if kind in "Bb":
        return base64.b64decode(word, validate=True)
    return unquote_to_bytes(word.replace("%", "%25").replace("=", "%").replace("_", " "))


def bytes_of(text: str) -> bytes:
    """The bytes that a lossless text stands for."""
    return text.encode("utf-8", "surrogateescape")


def attributes_of(headers: Mapping[str, str]) -> Attributes:
    """The attributes that the headers of a GET or HEAD show. Their names are in lower case."""
    found = {name: value for name, header in _HEADERS if (value := headers.get(header)) is not None}
    metadata = sorted(
        (name[len(META) :], metadata_text_of(value)) for name, value in headers.items() if name.startswith(META)
    )
    return Attributes(**{name: text_of(value) for name, value in found.items()}, metadata=tuple(metadata))


def headers_of(attributes: Attributes) -> dict[str, bytes]:
    """The headers that carry the attributes. MalformedError for what no header can hold."""
    sent: dict[str, bytes] = {}
    for name, header in _HEADERS:
        text = getattr(attributes, name)
        if text is not None:
            sent[header] = _checked(header, text)
    for name, text in attributes.metadata:
        if not _NAME.fullmatch(name):
            raise MalformedError("a metadata name that no header can have")
        sent[META + name] = _checked("a metadata value", text)
    return sent


def is_plain(attributes: Attributes) -> bool:
    """Whether a store that keeps metadata is known to keep these: `stores.probe_target` tries out just such ones."""
    texts = (getattr(attributes, name) for name, _ in _HEADERS)
    values = (*(text for text in texts if text is not None), *(value for _, value in attributes.metadata))
    return (
        attributes.website_redirect is None
        and all(_PLAIN_NAME.fullmatch(name) for name, _ in attributes.metadata)
        and all(value.isascii() and value.isprintable() for value in values)
    )


def tagging_header(tags: Tags) -> bytes:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(tags.items())).encode()


def info_of(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    """What HEAD or GET tells. ValueError where size, ETag or time are missing or senseless."""
    span = headers.get("content-range")
    size = span.rpartition("/")[2] if span is not None else headers.get("content-length", "")
    etag = headers.get("etag", "").strip('"')
    if not etag:
        raise MalformedError("no ETag")
    return ObjectInfo(
        key=key,
        size=parse_count(size),
        etag=etag,
        last_modified=parse_http_date(headers.get("last-modified", "")),
        version_id=version_of(headers),
        # where Intelligent-Tiering has archived it, the tier says whether it can be read, and the class does not
        storage_class=headers.get("x-amz-archive-status") or headers.get("x-amz-storage-class"),
        attributes=attributes_of(headers),
        tag_count=parse_count(headers.get("x-amz-tagging-count") or "0"),
        encryption=_encryption(headers),
        lock=_lock(headers),
    )


def version_of(headers: Mapping[str, str]) -> str | None:
    """The version id; None where the bucket keeps no versions."""
    return headers.get("x-amz-version-id")


def is_same_key(shown: str | None, named: str) -> bool:
    """Whether the KMS key that a server shows is the one that the spec names: by its ARN, or by the id at the ARN's end."""
    return shown is not None and shown in (named, named.rpartition(":key/")[2])


def parse_http_date(text: str) -> datetime:
    """RFC 9110's date, to the second. ValueError otherwise."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise MalformedError("a time before the year 1 or after 9999") from None


def _checked(what: str, text: str) -> bytes:
    raw = bytes_of(text)
    if _NOT_IN_A_VALUE.search(raw):
        raise MalformedError(f"{what} holds a control character")
    if raw != raw.strip(b" \t"):
        raise MalformedError(f"{what} begins or ends with a blank")
    return raw


def _encryption(headers: Mapping[str, str]) -> str | None:
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return "SSE-C"
    return headers.get(ENCRYPTION)


def _lock(headers: Mapping[str, str]) -> str | None:
    if headers.get("x-amz-object-lock-legal-hold", "").upper() == "ON":
        return "legal-hold"
    return headers.get("x-amz-object-lock-mode")
