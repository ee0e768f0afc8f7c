"""Whatever way a key goes, it names the same object: by the store's signed requests, by obstore, and by boto3, which the store
does not use and which is therefore the judge."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from odd_keys import ODD_KEYS
from places import EVERYTHING, MOTO, new_bucket, s3_store
from servers import S3Server

from migrate.model import Attributes
from migrate.stores.keys import is_odd, key_problem, quote_key, unquote_key
from migrate.stores.s3_headers import attributes_of, bytes_of, headers_of, metadata_text_of, text_of
from migrate.stores.s3_sign import S3Credentials, canonical_query, sign

PREFIX = "some/prefix/"
# letters of all kinds, and many of those that URLs, paths and XML give a meaning
LETTERS = st.one_of(
    st.sampled_from("/./%+&<>?#\\\"' \t\n\r\x00\x01\x7f\x85:;,=@*~^`|{}[]()!$"),
    st.characters(exclude_categories=("Cs",)),
)
KEYS = st.text(LETTERS, min_size=1, max_size=40)


@pytest.fixture(scope="module")
def ways(request: pytest.FixtureRequest) -> tuple[Any, Any, str, str]:
    """The store, an independent client, the bucket, and the characters that the server cannot take."""
    fixture, loses = request.param
    server: S3Server = request.getfixturevalue(fixture)
    bucket = new_bucket(server)
    capabilities = MOTO if "moto" in fixture else EVERYTHING
    return s3_store(server, bucket, PREFIX, capabilities), server.boto3(), bucket, loses


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("moto_server", "\n\r"), id="moto"),
        pytest.param(("rgw_server", "\x00"), id="rgw", marks=[pytest.mark.realstore, pytest.mark.xdist_group("rgw")]),
    ],
    indirect=True,
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(key=KEYS)
@example(key="a//b")
@example(key="%2F")
@example(key="a/../b")
def test_every_key_reaches_the_same_object_both_ways(ways: tuple[Any, Any, str, str], key: str) -> None:
    """What the store writes, by obstore or signed, boto3 finds under the same key; and the other way round."""
    store, client, bucket, loses = ways
    assume(not any(letter in key for letter in loses))
    body = key.encode()
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    # by obstore where it can, then by a signed request
    for attributes in (Attributes(content_type="a/b"), Attributes(content_type="a/b", expires="0")):
        store.put(key, body, attributes=attributes, tags={}, md5=md5)
        assert client.get_object(Bucket=bucket, Key=PREFIX + key)["Body"].read() == body
        assert [info.key for page in store.list() for info in page] == [key]
        client.delete_object(Bucket=bucket, Key=PREFIX + key)
        assert [info.key for page in store.list() for info in page] == []
    client.put_object(Bucket=bucket, Key=PREFIX + key, Body=body[::-1])
    with store.get(key) as download:
        assert download.read() == body[::-1]
    store.delete(key)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


@given(key=KEYS)
def test_a_key_survives_its_url(key: str) -> None:
    """Quoted for a request, and unquoted out of a listing, in both spellings of a blank."""
    assert unquote(quote_key(key), errors="strict") == key
    assert unquote_key(quote_key(key)) == key
    assert unquote_key(quote_key(key).replace("%20", "+")) == key


def test_the_odd_keys_are_what_s3_allows() -> None:
    """The list that every store is tried with holds no key that could not be."""
    assert [key for key in ODD_KEYS if key_problem(key) is not None] == []
    assert sum(map(is_odd, ODD_KEYS)) > 10


# signatures

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("Cs", "Zs", "Cc", "Zl", "Zp"))
)


@given(
    key=KEYS,
    query=st.dictionaries(TOKENS, st.text(LETTERS, max_size=20), max_size=4),
    metadata=st.dictionaries(TOKENS, VALUES, max_size=4),
    token=st.none() | st.just("a/session+token=="),
)
def test_the_signature_is_botocores(
    key: str, query: dict[str, str], metadata: dict[str, str], token: str | None
) -> None:
    """Wherever botocore can sign, ours is the same."""
    now = datetime.now(UTC).replace(microsecond=0)
    path, encoded = f"/bucket/{quote_key(key)}", canonical_query(query.items())
    headers = {"host": "example.org:7480", **{f"x-amz-meta-{name}": value for name, value in metadata.items()}}
    ours = sign(
        "PUT",
        path,
        encoded,
        {name: value.encode() for name, value in headers.items()},
        payload_sha256=hashlib.sha256(b"body").hexdigest(),
        credentials=S3Credentials("key", "secret", token),
        region="eu-west-1",
        now=now,
    )
    request = AWSRequest("PUT", f"http://example.org:7480{path}?{encoded}", headers=headers, data=b"body")
    signer = S3SigV4Auth(ReadOnlyCredentials("key", "secret", token), "s3", "eu-west-1")
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    request.context["payload_signing_enabled"] = True
    signer._modify_request_before_signing(request)  # what add_auth does, at a time that the test knows
    canonical = signer.canonical_request(request)
    theirs = signer.signature(signer.string_to_sign(request, canonical), request)
    assert ours["authorization"].decode().endswith(f"Signature={theirs}")


# headers


@given(st.binary(max_size=60))
def test_any_header_value_survives_as_text(raw: bytes) -> None:
    """The text form is lossless, whatever the bytes."""
    received = raw.strip(b" \t").decode("latin-1")
    assert bytes_of(text_of(received)) == raw.strip(b" \t")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("=?UTF-8?Q?=C3=85lesund?=", "Ålesund"),
        ("=?UTF-8?Q?a=C3=85_b c?=", "aÅ b c"),
        ("=?UTF-8?B?w4VsZXN1bmQ=?=", "Ålesund"),
        ("=?UTF-8?B?w4U=?= =?utf-8?q?=C3=85?=", "ÅÅ"),
        ("=?UTF-8?Q?ascii?=", "=?UTF-8?Q?ascii?="),
        ("=?UTF-8?B?not base64?=", "=?UTF-8?B?not base64?="),
        ("plain =?UTF-8?Q?=C3=85?=", "plain =?UTF-8?Q?=C3=85?="),
        ("=?", "=?"),
    ],
)
def test_metadata_is_read_as_what_it_says(header: str, text: str) -> None:
    """RFC 2047's form is undone where a server must have made it, and left where somebody wrote it."""
    assert metadata_text_of(header) == text


def test_attributes_survive_the_headers() -> None:
    """Out and in again, as http.client shows them."""
    attributes = Attributes(
        content_type="a/b", expires="never", website_redirect="/x", metadata=(("a", "é\udcff"), ("b", ""))
    )
    received = {name: value.decode("latin-1") for name, value in headers_of(attributes).items()}
    assert attributes_of(received) == attributes
