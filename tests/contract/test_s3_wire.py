"""What the s3 store makes of a server that lies, fails, stalls, or says too much; and what it sends."""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable

import pytest
from lying import http, lying, says
from places import EVERYTHING, MOTO, RCLONE, new_bucket, s3_store
from proxy import recording
from servers import S3Server

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
from migrate.model import Attributes
from migrate.secrets import AccessKey
from migrate.stores.base import Capabilities, PartInfo
from migrate.stores.s3 import S3Store
from migrate.stores.s3_headers import is_same_key

KEY = "user-4711-secret.jpg"
SECRET = "the-secret-key"
WHEN = "Tue, 24 Nov 2026 03:00:00 GMT"
OBJECT = {"ETag": '"5d41402abc4b2a76b9719d911017c592"', "Last_Modified": WHEN}  # the MD5 of b"hello"
FAST, SIGNED = Attributes(content_type="a/b"), Attributes(content_type="a/b", expires="0")


def md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def put(store: S3Store, attributes: Attributes = SIGNED, body: bytes = b"hello") -> object:
    return store.put(KEY, body, attributes=attributes, tags={}, md5=md5(body))


def opened(server: S3Server, *, timeout: float = 1, capabilities: Capabilities = EVERYTHING) -> S3Store:
    return s3_store(server, "bucket", "", capabilities, timeout=timeout)


def refusal(status: str, code: str, **headers: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>no {KEY}</Message><Resource>/bucket/{KEY}</Resource></Error>"
    return http(status, body.encode(), **headers)


REFUSALS: list[tuple[bytes, type[StoreError]]] = [
    (refusal("404 Not Found", "NoSuchKey"), NotFoundError),
    (refusal("404 Not Found", "NoSuchBucket"), StoreError),
    (http("404 Not Found", b"<html>no such page</html>"), StrangeAnswerError),
    (refusal("412 Precondition Failed", "PreconditionFailed"), PreconditionError),
    (refusal("409 Conflict", "ConditionalRequestConflict"), PreconditionError),
    (refusal("409 Conflict", "OperationAborted"), TransientStoreError),
    (refusal("403 Forbidden", "AccessDenied"), DeniedError),
    (refusal("403 Forbidden", "RequestTimeTooSkewed"), DeniedError),
    (refusal("400 Bad Request", "ExpiredToken"), ExpiredError),
    (refusal("403 Forbidden", "TokenRefreshRequired"), ExpiredError),
    (refusal("403 Forbidden", "InvalidObjectState"), UnreadableError),
    (refusal("503 Slow Down", "SlowDown"), ThrottledError),
    (http("429 Too Many Requests"), ThrottledError),
    (refusal("400 Bad Request", "RequestTimeout"), TransientStoreError),
    (refusal("500 Internal Server Error", "InternalError"), TransientStoreError),
    (http("502 Bad Gateway"), TransientStoreError),
    (refusal("501 Not Implemented", "NotImplemented"), UnsupportedError),
    (refusal("400 Bad Request", "BadDigest"), CorruptBodyError),
    (refusal("400 Bad Request", "XAmzContentSHA256Mismatch"), CorruptBodyError),
    (refusal("400 Bad Request", "KeyTooLongError"), PermanentStoreError),
    (refusal("301 Moved Permanently", "PermanentRedirect", x_amz_bucket_region="eu-west-1"), ElsewhereError),
]


@pytest.mark.parametrize(("answer", "kind"), REFUSALS, ids=lambda value: value[9:60] if type(value) is bytes else "")
@pytest.mark.parametrize("attributes", [FAST, SIGNED], ids=["obstore", "signed"])
def test_a_refusal_is_the_same_error_by_either_client(
    answer: bytes, kind: type[StoreError], attributes: Attributes
) -> None:
    """The kind of error decides whether a copy is tried again, quarantined, or stops the run."""
    with lying(says(answer)) as server, pytest.raises(StoreError) as caught:
        put(opened(server), attributes)
    assert type(caught.value) is kind
    assert caught.value.key in (KEY, None)


@pytest.mark.parametrize(("answer", "kind"), REFUSALS, ids=lambda value: value[9:60] if type(value) is bytes else "")
def test_no_refusal_shows_key_or_secret(
    answer: bytes, kind: type[StoreError], caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 10: not in the text, not in the traceback, not in a log of any level."""
    caplog.set_level(logging.DEBUG)
    with lying(says(answer)) as server:
        for act in (lambda s: put(s, FAST), lambda s: put(s, SIGNED), lambda s: s.get(KEY), lambda s: s.head(KEY)):
            with pytest.raises(StoreError) as caught:
                act(opened(server))
            shown = "".join(traceback.format_exception(caught.value)) + caught.value.remedy
            assert KEY not in shown
            assert SECRET not in shown
    assert KEY not in caplog.text
    assert SECRET not in caplog.text


BAD_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccessDenied")


@pytest.mark.parametrize("code", [*BAD_CREDENTIALS, "NoSuchBucket"])
def test_where_and_who_we_were_is_said(code: str) -> None:
    """What is wrong with bucket or credentials is told with the bucket's URL and the reference, and with a next step."""
    status = "404 Not Found" if code == "NoSuchBucket" else "403 Forbidden"
    with lying(says(refusal(status, code))) as server:
        store = S3Store(
            "hamar",
            "bucket",
            endpoint=server.endpoint,
            region="hamar",
            credentials=lambda: AccessKey("key", SECRET),
            capabilities=EVERYTHING,
            credentials_named="the credentials env:HAMAR",
        )
        with pytest.raises(StoreError) as refused:
            next(store.list())
    assert f"{server.endpoint}/bucket" in str(refused.value)
    assert ("env:HAMAR" in str(refused.value)) == (code in BAD_CREDENTIALS)
    assert refused.value.remedy
    assert SECRET not in str(refused.value) + refused.value.remedy


def test_a_throttled_answer_says_how_long_to_wait() -> None:
    """Retry-After reaches the limiter."""
    answer = refusal("503 Slow Down", "SlowDown", Retry_After="7")
    with lying(says(answer)) as server, pytest.raises(ThrottledError) as caught:
        opened(server).get(KEY)
    assert caught.value.wait_seconds == 7


def test_a_wrong_region_is_named() -> None:
    """The operator sees where the bucket is, and that the spec is to be corrected."""
    with lying(says(refusal("301 Moved", "PermanentRedirect", x_amz_bucket_region="ap-southeast-1"))) as server:
        for ask in (lambda s: s.get(KEY), lambda s: s.head(KEY), lambda s: list(s.list())):
            with pytest.raises(StoreError, match="ap-southeast-1"):
                ask(opened(server))


@pytest.mark.parametrize(
    "answer",
    [http("404 Not Found"), http("400 Bad Request"), http("301 Moved Permanently"), http("403 Forbidden")],
)
def test_a_head_without_a_reason_is_asked_again_as_a_get(answer: bytes) -> None:
    """Invariant 4: a HEAD's 404 may be the bucket's; only what the store says of the key counts as not found."""

    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer if request.startswith(b"HEAD") else refusal("404 Not Found", "NoSuchBucket"))

    with lying(behave) as server, pytest.raises(StoreError, match="NoSuchBucket") as caught:
        opened(server).head(KEY)
    assert not isinstance(caught.value, NotFoundError)


def test_a_key_under_a_customers_key_is_unreadable() -> None:
    """SSE-C: S3 answers 400."""
    with lying(says(refusal("400 Bad Request", "InvalidRequest"))) as server, pytest.raises(UnreadableError):
        opened(server).get(KEY)


# bodies


def test_a_short_body_is_corrupt() -> None:
    """Half an object never looks like one."""
    with lying(says(http("200 OK", b"hel", length=5, **OBJECT))) as server:
        for read in (lambda download: download.read(), lambda download: list(download.chunks(2))):
            with pytest.raises(CorruptBodyError), opened(server).get(KEY) as download:
                read(download)


def test_a_whole_body_is_not() -> None:
    """The twin that must pass."""
    with lying(says(http("200 OK", b"hello", **OBJECT))) as server, opened(server).get(KEY) as download:
        assert download.read() == b"hello"


def test_an_answer_to_another_range_is_refused() -> None:
    """A server that ignores Range would put the first part in the place of the third."""
    with lying(says(http("200 OK", b"hello", **OBJECT))) as server, pytest.raises(UnsupportedError):
        opened(server).get(KEY, start=2, length=3)
    answer = http("206 Partial Content", b"hel", Content_Range="bytes 0-2/5", **OBJECT)
    with lying(says(answer)) as server, pytest.raises(UnsupportedError):
        opened(server).get(KEY, start=2, length=3)


def test_another_etag_is_seen_where_if_match_is_ignored() -> None:
    """Source identity does not hang on the server's honesty."""
    with lying(says(http("200 OK", b"hello", **OBJECT))) as server, pytest.raises(PreconditionError):
        opened(server).get(KEY, if_match="another")


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_answer_whose_headers_end_early_is_none(cut: int) -> None:
    """http.client takes the end of a connection for the end of the headers: metadata would be lost without a word."""
    whole = http("200 OK", b"", **OBJECT, x_amz_meta_camera="kodak", x_amz_meta_place="attic")
    with lying(says(whole[: len(whole) - 2 - cut])) as server, pytest.raises(TransientStoreError):
        opened(server).head(KEY)


def test_an_answer_with_all_its_headers_is_one() -> None:
    """The twin that must pass."""
    with lying(says(http("200 OK", b"", **OBJECT, x_amz_meta_camera="kodak"))) as server:
        assert opened(server).head(KEY).attributes.metadata == (("camera", "kodak"),)


def test_a_small_answer_that_stops_ends_in_time() -> None:
    """A listing gets the time of its announced length, not that of the largest answer that is taken (Invariant 11)."""
    over = threading.Event()

    def stop(connection: socket.socket, request: bytes) -> None:
        connection.sendall(http("200 OK", GOOD[:40], length=len(GOOD)))
        over.wait(30)

    with lying(stop) as server:
        begun = time.monotonic()
        with pytest.raises(TransientStoreError):
            list(opened(server, timeout=0.3).list())
        assert time.monotonic() - begun < 5
        over.set()


# time


def test_a_silent_server_ends_in_time() -> None:
    """Invariant 11: every request has a limit."""
    over = threading.Event()
    with lying(lambda connection, request: over.wait(30)) as server:
        for act in (lambda s: s.get(KEY), lambda s: put(s, SIGNED), lambda s: list(s.list())):
            begun = time.monotonic()
            with pytest.raises(TransientStoreError):
                act(opened(server, timeout=0.3))
            assert time.monotonic() - begun < 5
        over.set()


@pytest.mark.parametrize("in_headers", [True, False])
def test_a_dripping_server_ends_in_time(in_headers: bool) -> None:
    """A byte now and then is no progress: the limit is on the whole, not on each wait."""
    over = threading.Event()

    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: " if in_headers else http("200 OK", length=100, **OBJECT))
        while not over.wait(0.05):
            connection.sendall(b"x")

    with lying(drip) as server:
        begun = time.monotonic()
        with pytest.raises(TransientStoreError), opened(server, timeout=0.5).get(KEY) as download:
            download.read()
        assert time.monotonic() - begun < 5
        over.set()


def test_nobody_there_is_transient() -> None:
    """A store that restarts is there again in a minute."""
    with lying(says(b"")) as server:
        pass
    with pytest.raises(TransientStoreError, match=f"no connection to {server.endpoint}/bucket") as nobody:
        opened(server).get(KEY)
    assert "endpoint" in nobody.value.remedy
    with pytest.raises(TransientStoreError):
        put(opened(server), FAST)


@pytest.mark.parametrize("attributes", [FAST, SIGNED], ids=["obstore", "signed"])
def test_nothing_is_tried_twice(attributes: Attributes) -> None:
    """One layer retries, and it is not this one."""
    requests: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(refusal("500 Internal Server Error", "InternalError"))

    with lying(behave) as server, pytest.raises(TransientStoreError):
        put(opened(server), attributes)
    assert len(requests) == 1


# listings

PAGE = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<EncodingType>url</EncodingType><IsTruncated>%s</IsTruncated>%s%s</ListBucketResult>"
)


def entry(key: bytes) -> bytes:
    return (
        b"<Contents><Key>%s</Key><Size>1</Size><ETag>&quot;e&quot;</ETag>"
        b"<LastModified>2026-11-24T03:00:00.000Z</LastModified></Contents>" % key
    )


GOOD = PAGE % (b"false", entry(b"a") + entry(b"b"), b"")
BAD_LISTINGS = {
    "cut off without a token": PAGE % (b"true", entry(b"a"), b""),
    "ended early": GOOD[:-30],
    "empty": b"",
    "another document": b"<html><body>Welcome</body></html>",
    "an entry without a size": GOOD.replace(b"<Size>1</Size>", b"", 1),
    "out of order": PAGE % (b"false", entry(b"b") + entry(b"a"), b""),
    "a key twice": PAGE % (b"false", entry(b"a") + entry(b"a"), b""),
    "no word on whether it goes on": GOOD.replace(b"<IsTruncated>false</IsTruncated>", b""),
    "a key that is no UTF-8": PAGE % (b"false", entry(b"%FF"), b""),
}


@pytest.mark.parametrize("body", BAD_LISTINGS.values(), ids=BAD_LISTINGS)
def test_a_bad_listing_raises(body: bytes) -> None:
    """Invariant 4: it never ends early and quietly."""
    with lying(says(http("200 OK", body))) as server, pytest.raises(StoreError) as caught:
        list(opened(server).list())
    assert not isinstance(caught.value, NotFoundError)


def test_an_answer_that_is_no_xml_is_asked_for_again() -> None:
    """What a network cut may come whole the next time; what a server means by an order of its own stays as it is."""
    for name, kind in (("ended early", CorruptBodyError), ("out of order", StoreError)):
        with lying(says(http("200 OK", BAD_LISTINGS[name]))) as server, pytest.raises(StoreError) as caught:
            list(opened(server).list())
        assert type(caught.value) is kind


def test_a_good_listing_does_not() -> None:
    """The twin that must pass."""
    with lying(says(http("200 OK", GOOD))) as server:
        assert [[info.key for info in page] for page in opened(server).list()] == [["a", "b"]]


def test_a_truncated_answer_raises() -> None:
    """Shorter than its Content-Length, though it may parse."""
    with lying(says(http("200 OK", GOOD, length=len(GOOD) + 1))) as server, pytest.raises(StoreError):
        list(opened(server).list())


def test_a_listing_that_turns_in_a_circle_raises() -> None:
    """The same token again would go on without end."""
    body = PAGE % (b"true", b"", b"<NextContinuationToken>t</NextContinuationToken>")
    with lying(says(http("200 OK", body))) as server, pytest.raises(StoreError):
        list(opened(server).list())


# confirmation of writes


def test_a_write_that_the_etag_does_not_confirm_is_corrupt() -> None:
    """Invariant 1. Where the ETag should be the MD5 and is another, nothing else counts."""
    answer = http("200 OK", ETag='"00000000000000000000000000000000"')
    for attributes in (FAST, SIGNED):
        with lying(says(answer)) as server, pytest.raises(CorruptBodyError):
            put(opened(server), attributes)


@pytest.mark.parametrize(("found", "fails"), [(b"hello", False), (b"hellO", True)])
def test_a_write_that_nothing_confirms_is_looked_at_again(found: bytes, fails: bool) -> None:
    """A store whose ETags say nothing and that refuses no wrong MD5: what is there is read back and compared."""

    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(http("200 OK", b"" if request.startswith(b"PUT") else found, ETag='"?"', Last_Modified=WHEN))

    with lying(behave) as server:
        store = opened(server, capabilities=Capabilities())
        if fails:
            with pytest.raises(CorruptBodyError):
                put(store, FAST)
        else:
            put(store, FAST)


def test_content_md5_goes_along() -> None:
    """A store that refuses a wrong one confirms by taking it."""
    requests: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(http("200 OK", ETag='"?"'))

    with lying(behave) as server:
        put(opened(server, capabilities=Capabilities(refuses_wrong_md5=True, metadata=True)))
    assert b"content-md5: " + base64.b64encode(md5(b"hello")) in requests[0]
    assert len(requests) == 1


def test_a_failed_completion_behind_a_200_is_seen() -> None:
    """S3 answers before it has joined the parts."""
    answer = http("200 OK", b"  <Error><Code>InternalError</Code></Error>")
    with lying(says(answer)) as server, pytest.raises(TransientStoreError):
        opened(server).complete_upload(KEY, "u", [PartInfo(1, "e", 1)], tags={})


def test_what_was_written_wrong_is_taken_away_again() -> None:
    """The store took other bytes than were sent, and says so by its ETag: left there, they would look like somebody else's."""
    requests: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        requests.append(request.split(b" ")[0])
        connection.sendall(http("200 OK", ETag='"00000000000000000000000000000000"', Last_Modified=WHEN))

    for attributes in (FAST, SIGNED):
        requests.clear()
        with lying(behave) as server, pytest.raises(CorruptBodyError):
            put(opened(server), attributes)
        assert requests == [b"PUT", b"HEAD", b"DELETE"]


def test_what_somebody_else_wrote_since_is_not_taken_away() -> None:
    """The twin: under the key is another object by now."""
    requests: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        requests.append(request.split(b" ")[0])
        etag = "0" * 32 if request.startswith(b"PUT") else "1" * 32
        connection.sendall(http("200 OK", ETag=f'"{etag}"', Last_Modified=WHEN))

    with lying(behave) as server, pytest.raises(CorruptBodyError):
        put(opened(server))
    assert requests == [b"PUT", b"HEAD"]


# what is sent


def test_reading_sends_get_and_head_alone(real: S3Server) -> None:
    """Sources are only ever read."""
    bucket = new_bucket(real)
    s3_store(real, bucket, "", MOTO).put("k", b"x", attributes=FAST, tags={}, md5=md5(b"x"))
    with recording(real.endpoint) as proxy:
        through = S3Server(proxy.endpoint, real.access_key, real.secret_key)
        store = s3_store(through, bucket, "", MOTO, writable=False)
        assert [info.key for page in store.list() for info in page] == ["k"]
        store.head("k")
        with store.get("k") as download:
            assert download.read() == b"x"
        list(store.list_versions())
        store.list_uploads()
        store.get_tags("k")
        with pytest.raises(NotFoundError):
            store.head("gone")
    assert proxy.methods == {"GET", "HEAD"}


def test_kms_is_asked_for_and_looked_at(real: S3Server) -> None:
    """A write under a key of the site: the ETag is no MD5 then, and a store that does not encrypt is refused."""
    bucket = new_bucket(real)
    store = s3_store(real, bucket, "", EVERYTHING, kms_key="dublin-key")
    put(store, FAST)
    info = store.head(KEY)
    assert info.encryption == "aws:kms"
    assert info.etag_md5 is None
    upload = store.create_upload("big", attributes=FAST)
    etag = store.put_part("big", upload, 1, b"hello", md5=md5(b"hello"))
    store.complete_upload("big", upload, [PartInfo(1, etag, 5)], tags={"a": "b"})
    assert store.head("big").encryption == "aws:kms"


@pytest.mark.parametrize(
    "write",
    [lambda store: put(store, FAST), lambda store: store.create_upload("big", attributes=FAST)],
    ids=["put", "upload"],
)
def test_a_store_that_takes_another_kms_key_is_refused(real: S3Server, write: Callable[[S3Store], object]) -> None:
    """The corrupted twin: an answer that names the key of another site. What lies there by then is taken away again."""
    bucket = new_bucket(real)
    with recording(real.endpoint, shows_kms_key="hamar-key") as proxy:
        through = S3Server(proxy.endpoint, real.access_key, real.secret_key)
        store = s3_store(through, bucket, "", EVERYTHING, kms_key="dublin-key")
        with pytest.raises(UnsupportedError, match="another KMS key"):
            write(store)
        store.close()
    look = s3_store(real, bucket, "", EVERYTHING)
    assert [page for page in look.list() if page] == []
    assert list(look.list_uploads()) == []
    look.close()


def test_a_kms_key_may_be_shown_by_its_id_alone() -> None:
    """By its ARN, as AWS does, or by the id at its end; no answer, and an alias, are no proof."""
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234"
    assert is_same_key(arn, arn)
    assert is_same_key("1234", arn)
    assert not any(is_same_key(shown, arn) for shown in (None, "", "234", "alias/1234", arn.replace("eu-", "us-")))


def test_where_intelligent_tiering_has_archived_an_object_its_tier_is_told() -> None:
    """S3 API reference, HeadObject: x-amz-archive-status. The GET of such an object is refused (InvalidObjectState, above)."""
    tiered = OBJECT | {"X_Amz_Storage_Class": "INTELLIGENT_TIERING"}
    for archived, told in (({}, "INTELLIGENT_TIERING"), ({"X_Amz_Archive_Status": "ARCHIVE_ACCESS"}, "ARCHIVE_ACCESS")):
        with lying(says(http("200 OK", b"", **tiered, **archived))) as server:
            assert opened(server).head(KEY).storage_class == told


def test_a_store_that_ignores_the_kms_key_is_refused(rclone_server: S3Server) -> None:
    """The corrupted twin: rclone takes the header and drops it."""
    store = s3_store(rclone_server, new_bucket(rclone_server), "", RCLONE, kms_key="dublin-key")
    with pytest.raises(UnsupportedError):
        put(store, FAST)
    with pytest.raises(UnsupportedError):
        store.create_upload("big", attributes=FAST)
    assert list(store.list_uploads()) == []


def test_versions_and_delete_markers_are_listed(real: S3Server) -> None:
    """The census counts what is not current."""
    bucket = new_bucket(real)
    client = real.boto3()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})  # type: ignore[attr-defined]
    store = s3_store(real, bucket, "p/", EVERYTHING)
    results = [store.put("k//", body, attributes=SIGNED, tags={}, md5=md5(body)) for body in (b"one", b"two")]
    store.delete("k//")
    found = [info for page in store.list_versions() for info in page]
    assert {info.key for info in found} == {"k//"}
    assert sorted(info.version_id or "" for info in found if not info.is_delete_marker) == sorted(
        result.version_id or "" for result in results
    )
    assert [info.is_delete_marker for info in found if info.is_latest] == [True]
    with store.get("k//", version_id=results[0].version_id) as download:
        assert download.read() == b"one"
    assert store.head("k//", version_id=results[1].version_id).size == 3
    with pytest.raises(NotFoundError):
        store.head("k//")
    store.delete("k//", version_id=results[0].version_id)
    assert results[0].version_id not in {info.version_id for page in store.list_versions() for info in page}


def test_a_locked_object_is_seen_as_such(rgw_server: S3Server) -> None:
    """A finding of the plan: what is under a hold cannot be purged later."""
    bucket = f"{new_bucket(rgw_server)}-locked"
    client = rgw_server.boto3()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)  # type: ignore[attr-defined]
    client.put_object(Bucket=bucket, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")  # type: ignore[attr-defined]
    assert s3_store(rgw_server, bucket, "", EVERYTHING).head("k").lock == "legal-hold"


def test_an_object_under_a_customers_key_is_unreadable(rgw_server: S3Server) -> None:
    """SSE-C on a real server, by GET and by HEAD."""
    bucket = new_bucket(rgw_server)
    customer_key = {"SSECustomerKey": b"k" * 32, "SSECustomerAlgorithm": "AES256"}
    rgw_server.boto3().put_object(Bucket=bucket, Key="k", Body=b"x", **customer_key)  # type: ignore[attr-defined]
    store = s3_store(rgw_server, bucket, "", EVERYTHING)
    for ask in (store.get, store.head):
        with pytest.raises(UnreadableError):
            ask("k")


def test_uploads_whose_key_xml_cannot_hold_are_found(rgw_server: S3Server) -> None:
    """Ceph then makes no XML, unless asked to encode."""
    store = s3_store(rgw_server, new_bucket(rgw_server), "", EVERYTHING)
    for key in ("control \x01", "a+b %25"):
        store.create_upload(key, attributes=FAST)
    assert sorted(found.key for found in store.list_uploads()) == ["a+b %25", "control \x01"]


def test_credentials_are_asked_for_at_each_signing(moto_server: S3Server) -> None:
    """Those that are renewed on the way hold (profiles, roles)."""
    asked: list[int] = []
    store = s3_store(moto_server, new_bucket(moto_server), "", MOTO)

    class Renewed:
        access_key, secret_key, token = "k", "s", "t"

    def renew() -> Renewed:
        asked.append(1)
        return Renewed()

    store._client._credentials = renew
    list(store.list())
    list(store.list())
    assert len(asked) == 2


def test_the_secret_is_in_no_repr() -> None:
    """Invariant 10: a traceback that shows values shows no secret."""
    with lying(says(b"")) as server:
        store = opened(server)
        assert SECRET not in repr(store) + repr(store._client._credentials)
