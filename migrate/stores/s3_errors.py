"""What a refusal of an S3 server means: from status, headers and body to one of the project's errors.

Only the status and the error's code go into the text. The server's own message stays out: it may hold the key (AccessDenied
names the object's ARN).

Source: S3 API reference, "Error responses", and what the servers in the contract suite answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree

from migrate.errors import (
    CorruptBodyError,
    DeniedError,
    ElsewhereError,
    ExpiredError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    StoreError,
    StrangeAnswerError,
    ThrottledError,
    TransientStoreError,
    UnreadableError,
    UnsupportedError,
)

_THROTTLED = frozenset({"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "Busy"})
_TRANSIENT = frozenset({"InternalError", "RequestTimeout", "OperationAborted", "ServiceFailure"})
_CORRUPT = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
_GONE = frozenset(
    {"NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NoSuchTagSet", "ObjectLockConfigurationNotFoundError"}
)
_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired"})
# What is wrong with the credentials themselves, and what to do about it; `{}` is the reference that names them.
_BAD_CREDENTIALS = {
    "ExpiredToken": "They have expired: renew {}.",
    "TokenRefreshRequired": "They have expired: renew {}.",
    "InvalidToken": "Its session token is not valid: renew {}.",
    "InvalidAccessKeyId": "The server does not know this access key: mend {}, or the store's `endpoint`.",
    "SignatureDoesNotMatch": "The secret key is not that of the access key: mend {}.",
}
_PRECONDITION = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_WRONG_REGION = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_ARCHIVED = frozenset({"InvalidObjectState"})
_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "XNotImplemented"})


class MalformedError(ValueError):
    """An answer, or a value, that cannot be trusted or sent. The text says why, and repeats nothing of it."""


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root of a document. MalformedError for what is none."""
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise MalformedError(f"the answer is not XML: {error.msg.split(':')[0]}") from None
    except (LookupError, ValueError):  # what an XML declaration can name as its encoding
        raise MalformedError("the answer is XML in an encoding that is not read") from None


def parse_count(text: str) -> int:
    """A size or a number as servers write them. MalformedError for anything else: Python's `int` takes more."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise MalformedError("a number makes no sense")
    return int(text)


def parse_error(content: bytes) -> tuple[str, str]:
    """The code of an error document, and the region that it names; empty texts where there is none."""
    try:
        root = parse_xml(content)
    except MalformedError:
        return "", ""
    found = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    code = found.get("Code", "")
    return (code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else ""), _region(found.get("Region", ""))


def error_of(
    store: str,
    operation: str,
    key: str | None,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    place: str = "the server",
    credentials: str = "the credentials",
) -> StoreError:
    """The error for an answer that is no success. `key` goes into its field, never into its text.

    `place` is the bucket's URL, and `credentials` the reference that names them: for what is wrong with either.
    """
    code, region = parse_error(content)
    region = _region(headers.get("x-amz-bucket-region", "")) or region
    detail = f"{status} {code}".rstrip()
    if code in _WRONG_REGION or (300 <= status < 400 and status != 304):
        return ElsewhereError(
            store,
            operation,
            f"{detail}: the bucket is in region {region}" if region else f"{detail}: the bucket is in another region",
            remedy="Correct the store's `region` and `endpoint` in the spec.",
        )
    if code in _THROTTLED or status in (429, 503):
        return ThrottledError(store, operation, detail, key=key, wait_seconds=_wait_seconds(headers))
    if code == "NoSuchBucket":
        said = f"{detail}: the bucket is not there: {place}"
        return StoreError(store, operation, said, remedy="Correct the store's `url` or `endpoint`.")
    if code in _BAD_CREDENTIALS:
        said = f"{detail}: {place} does not take {credentials}"
        kind = ExpiredError if code in _EXPIRED else DeniedError
        return kind(store, operation, said, key=key, remedy=_BAD_CREDENTIALS[code].format(credentials))
    if code in _GONE or headers.get("x-amz-delete-marker") == "true":
        return NotFoundError(store, operation, detail, key=key)
    if code in _ARCHIVED:
        return UnreadableError(store, operation, f"{detail}: archived; restore it first", key=key)
    if status == 400 and operation == "get" and code in ("InvalidRequest", "InvalidArgument", ""):
        # what a GET of an object under a customer's own key is answered with, and nothing else that is asked here
        return UnreadableError(store, operation, f"{detail}: encrypted with a key that is not here (SSE-C)", key=key)
    if status == 403 and key is None:
        said = f"{detail}: {credentials} may not do this at {place}"
        return DeniedError(
            store, operation, said, remedy="Allow it to them; or correct the store's `url` or `credentials`."
        )
    return _plain_error(store, operation, key, status, code, detail, place)


def _plain_error(
    store: str, operation: str, key: str | None, status: int, code: str, detail: str, place: str
) -> StoreError:
    """The error where status and code alone decide."""
    if code in _PRECONDITION or status == 412:
        return PreconditionError(store, operation, detail, key=key)
    if code in _CORRUPT:
        return CorruptBodyError(store, operation, detail, key=key, refused=status < 500)
    if code == "RequestTimeTooSkewed":
        return DeniedError(store, operation, detail, key=key, remedy="The clock of this machine is off: set it.")
    if status in (401, 403):
        return DeniedError(store, operation, detail, key=key)
    if code in _UNSUPPORTED or status in (405, 501):
        return UnsupportedError(store, operation, detail, key=key)
    if code in _TRANSIENT or status >= 500 or status == 408:
        return TransientStoreError(store, operation, detail, key=key, refused=status < 500)
    if status == 404:
        # not the store's own word: a proxy, or a wrong endpoint. It must not read as "the object is gone" (invariant 4).
        said = f"{detail}: an answer without S3's own words, from {place}"
        return StrangeAnswerError(store, operation, said, remedy="Correct the store's `endpoint`.")
    if status < 400:
        return StrangeAnswerError(store, operation, f"{detail}: not an answer to this request")
    return PermanentStoreError(store, operation, detail, key=key)


def _region(text: str) -> str:
    return text if re.fullmatch(r"[a-z0-9-]{1,40}", text) else ""


def _wait_seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After, as seconds or as a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until.tzinfo else None
