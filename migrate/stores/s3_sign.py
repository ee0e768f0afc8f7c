"""Signing an S3 request with AWS Signature Version 4, over the bytes that go out. Pure: the time comes in as an argument.

botocore's signer works on text and cannot sign a header that is no UTF-8; this one signs what is sent, to the byte, in a
tenth of the time. A property test holds it to botocore's signature wherever botocore has one.

Source: S3 API reference, "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"

_BLANKS = re.compile(rb"[ \t]+")


class Credentials(Protocol):
    """What signs a request. botocore's ReadOnlyCredentials are such, and so are S3Credentials."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


CredentialSource = Callable[[], Credentials]
"""Asked at every signing, so that credentials which are renewed on the way (botocore's `get_frozen_credentials`) hold."""


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Credentials that do not change. Neither repr nor a traceback shows the secret."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def __call__(self) -> S3Credentials:
        """Themselves: fixed credentials are a CredentialSource."""
        return self


def canonical_query(query: Iterable[tuple[str, str]]) -> str:
    """The query as it is signed and sent: sorted, all but `A-Za-z0-9-._~` as %XX."""
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query))


def sign(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, bytes],
    *,
    payload_sha256: str,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, bytes]:
    """The headers to send: those given, and the four that SigV4 adds.

    `path` and `query` are encoded already (`keys.quote_key`, `canonical_query`), the names in `headers` lower case, `host`
    among them. All of them are signed.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    day = moment[:8]
    signed = dict(headers)
    signed["x-amz-date"] = moment.encode()
    signed["x-amz-content-sha256"] = payload_sha256.encode()
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token.encode()
    names = sorted(signed)
    lines = b"".join(b"%s:%s\n" % (name.encode(), _BLANKS.sub(b" ", signed[name].strip(b" \t"))) for name in names)
    listed = ";".join(names)
    request = b"%s\n%s\n%s\n%s\n%s\n%s" % (
        method.encode(),
        path.encode(),
        query.encode(),
        lines,
        listed.encode(),
        payload_sha256.encode(),
    )
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request).hexdigest()}"
    signature = hmac.digest(_signing_key(credentials.secret_key, day, region), text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
    ).encode()
    return signed


@lru_cache(maxsize=32)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = hmac.digest(b"AWS4" + secret_key.encode(), day.encode(), "sha256")
    for part in (region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
