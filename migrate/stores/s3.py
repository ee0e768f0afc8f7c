"""An S3 bucket and prefix as a store: the writing half, and what is put together from the two.

Two clients. Whatever can be seen or must be exact goes by signed requests of our own (`s3_http`): every header is visible,
every key and every byte of metadata goes out as it is, time is bounded, errors tell what they mean. Small plain objects
are written by obstore (`s3_fast`), at less than half of the CPU time an object.

What a store cannot keep is refused before it is sent, and every write is confirmed before it counts (design, invariant 1).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    RefusedError,
    StoreError,
    UnsupportedError,
)
from migrate.model import Attributes, Tags
from migrate.pauses import PausePoint, pause_at
from migrate.stores import s3_xml
from migrate.stores.base import Body, Capabilities, PartInfo, PutResult
from migrate.stores.s3_endpoint import base_url
from migrate.stores.s3_errors import MalformedError, error_of
from migrate.stores.s3_fast import FastWriter, fits
from migrate.stores.s3_headers import (
    ENCRYPTION,
    ENCRYPTION_KEY,
    headers_of,
    is_plain,
    is_same_key,
    tagging_header,
    version_of,
)
from migrate.stores.s3_http import S3Client
from migrate.stores.s3_read import S3Reader
from migrate.stores.s3_sign import CredentialSource

KEEPS_NO_METADATA = "the store keeps no metadata"
KEEPS_OTHER_ATTRIBUTES = "the store keeps other metadata or headers than were sent"
KEEPS_NO_TAGS = "the store keeps no tags"


class S3Store(S3Reader):
    """The Store of `base` on S3.

    `prefix` is put before every key as it is; it ends in `/`, or is empty. `endpoint` is the server's URL, None for AWS's of
    the `region`; with an endpoint the bucket stands in the path, without one in the host's name where it can.
    `credentials` is asked at each signing for something with `access_key`, `secret_key` and `token`: an `S3Credentials`
    serves, and so does `get_frozen_credentials` of any botocore credentials, those that are refreshed included.
    `timeout` is what a small request may take, in seconds; bodies get time on top (`s3_http.MIN_BYTES_A_SECOND`).
    `credentials_named` is how the spec names them, for errors.
    `concurrency` is how many connections are kept. Nothing is sent, and no client built, before the first request.
    """

    def __init__(
        self,
        name: str,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None,
        region: str | None,
        credentials: CredentialSource,
        capabilities: Capabilities,
        writable: bool = False,
        deletable: bool = False,
        timeout: float = 60,
        kms_key: str | None = None,
        concurrency: int = 64,
        credentials_named: str = "the credentials",
    ) -> None:
        region = region or "us-east-1"
        base = base_url(bucket, endpoint, region)
        client = S3Client(
            name,
            base,
            prefix,
            region=region,
            credentials=credentials,
            timeout_s=timeout,
            concurrency=concurrency,
            named=credentials_named,
        )
        super().__init__(name, prefix, client, capabilities)
        self.guarded = base.startswith("https:")
        self._writable = writable
        self._deletable = writable or deletable
        self._kms_key = kms_key
        self._fast = FastWriter(
            name,
            bucket,
            prefix,
            urlsplit(base),
            region=region,
            credentials=credentials,
            timeout_s=timeout,
            pool=concurrency,
        )

    def put(
        self,
        key: str,
        body: Body,
        *,
        attributes: Attributes,
        tags: Tags,
        md5: bytes,
        create_only: bool = False,
        if_match: str | None = None,
    ) -> PutResult:
        self._check_writable("put")
        self._keepable("put", key, attributes, tags)
        if (create_only or if_match is not None) and not self.capabilities.conditional_put:
            raise UnsupportedError(self.name, "put", "the store does not honour conditions", key=key)
        if (
            self.capabilities.small_put
            and not self._kms_key
            and if_match is None
            and fits(self._prefix + key, body, attributes, tags)
        ):
            result = self._fast.put(key, body, attributes=attributes, create_only=create_only)
            self._confirm_put(key, result, md5, encryption=None)
            self._confirm_attributes(key, attributes, result)
            return result
        headers = self._headers("put", key, attributes)
        headers["content-md5"] = base64.b64encode(md5)
        if tags:
            headers["x-amz-tagging"] = tagging_header(tags)
        if create_only:
            headers["if-none-match"] = b"*"
        if if_match is not None:
            headers["if-match"] = if_match.encode()  # without quotes: with them Ceph's PUT never finds it equal
        answer, _ = self._client.call("put", "PUT", key, (), headers, body)
        result = PutResult(answer.get("etag", "").strip('"'), version_of(answer))
        try:
            self._check_encryption("put", key, answer)
        except UnsupportedError:
            self.delete(key, version_id=result.version_id)  # it lies there in the clear, or under another key
            raise
        self._confirm_put(key, result, md5, encryption=answer.get(ENCRYPTION))
        self._confirm_attributes(key, attributes, result)
        return result

    def create_upload(self, key: str, *, attributes: Attributes) -> str:
        self._check_writable("create upload")
        self._keepable("create upload", key, attributes, {})
        if not self.capabilities.multipart:
            raise UnsupportedError(self.name, "create upload", "the store joins no parts", key=key)
        headers = self._headers("create upload", key, attributes)
        answer, content = self._client.call("create upload", "POST", key, [("uploads", "")], headers)
        upload_id = self._parsed("create upload", content, s3_xml.parse_upload_id)
        try:
            self._check_encryption("create upload", key, answer)
        except StoreError:
            self.abort_upload(key, upload_id)
            raise
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, md5: bytes) -> str:
        self._check_writable("put part")
        self._possible("put part", key)
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        headers = {"content-md5": base64.b64encode(md5)}
        answer, _ = self._client.call("put part", "PUT", key, query, headers, body)
        etag = answer.get("etag", "").strip('"')
        self._confirm_part(key, etag, md5)
        return etag

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[PartInfo], *, tags: Tags) -> PutResult:
        self._check_writable("complete upload")
        self._keepable("complete upload", key, Attributes(), tags)
        document = s3_xml.parts_document(parts)
        answer, content = self._client.call("complete upload", "POST", key, [("uploadId", upload_id)], {}, document)
        # S3 may begin to answer before it has joined the parts, and fail after its 200
        if self._parsed("complete upload", content, s3_xml.is_error):
            raise error_of(self.name, "complete upload", key, 500, answer, content)
        info = self.head(key)
        self._confirm_joined(key, info.etag, info.size, parts)
        pause_at(PausePoint.TAGS_UNSET)
        if tags:
            self.put_tags(key, tags)
        return PutResult(info.etag, info.version_id)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._check_deletable("abort upload")
        try:
            self._client.call("abort upload", "DELETE", self._possible("abort upload", key), [("uploadId", upload_id)])
        except NotFoundError:
            return

    def put_tags(self, key: str, tags: Tags) -> None:
        self._check_writable("put tags")
        self._keepable("put tags", key, Attributes(), tags)
        document = s3_xml.tags_document(tags)
        headers = {"content-md5": base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest())}
        self._client.call("put tags", "PUT", key, [("tagging", "")], headers, document)

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        self._check_deletable("delete")
        query = [("versionId", version_id)] if version_id is not None else []
        try:
            self._client.call("delete", "DELETE", self._possible("delete", key), query)
        except NotFoundError:
            return

    def close(self) -> None:
        super().close()
        self._fast.close()

    def _check_writable(self, operation: str) -> None:
        if not self._writable:
            raise RefusedError(
                f"{self.name}: {operation}: the store was opened to be read", remedy="Only targets are written to."
            )

    def _check_deletable(self, operation: str) -> None:
        if not self._deletable:
            self._check_writable(operation)

    def _keepable(self, operation: str, key: str, attributes: Attributes, tags: Tags) -> None:
        """UnsupportedError for what the store is known not to keep, or nobody knows that it does."""
        self._possible(operation, key)
        able = self.capabilities
        if not able.takes_key(self._prefix + key):
            raise UnsupportedError(self.name, operation, "the store bends keys such as this", key=key)
        if tags and not able.tags:
            raise UnsupportedError(self.name, operation, KEEPS_NO_TAGS, key=key)
        if not able.metadata and attributes != Attributes(content_type=attributes.content_type):
            raise UnsupportedError(self.name, operation, KEEPS_NO_METADATA, key=key)

    def _headers(self, operation: str, key: str, attributes: Attributes) -> dict[str, bytes]:
        try:
            headers = headers_of(attributes)
        except MalformedError as error:
            raise UnsupportedError(self.name, operation, str(error), key=key) from None
        if self._kms_key is not None:
            headers[ENCRYPTION] = b"aws:kms"
            headers[ENCRYPTION_KEY] = self._kms_key.encode()
        return headers

    def _check_encryption(self, operation: str, key: str, answer: Mapping[str, str]) -> None:
        """A store that does not know KMS takes the object and leaves it in the clear; one that takes a key of its own, such as a
        bucket's, has it elsewhere than the spec says."""
        if self._kms_key is None:
            return
        if not answer.get(ENCRYPTION, "").startswith("aws:kms"):
            raise UnsupportedError(self.name, operation, "the store did not encrypt with the KMS key", key=key)
        if not is_same_key(answer.get(ENCRYPTION_KEY), self._kms_key):
            raise UnsupportedError(self.name, operation, "the store encrypted with another KMS key", key=key)

    def _confirm_put(self, key: str, result: PutResult, md5: bytes, *, encryption: str | None) -> None:
        """The store holds these bytes (`base.Store.put`), or CorruptBodyError: then what came of them is taken away again, since
        it would stand in the way of the next try as somebody else's object does."""
        try:
            self._confirm(key, result, md5, encryption=encryption)
        except CorruptBodyError:
            with suppress(StoreError):
                if self.head(key, version_id=result.version_id).etag == result.etag:  # still ours
                    self.delete(key, version_id=result.version_id)
            raise

    def _confirm(self, key: str, result: PutResult, md5: bytes, *, encryption: str | None) -> None:
        if result.etag == md5.hex():
            return
        if self.capabilities.etag_is_md5 and encryption in (None, "AES256"):
            raise CorruptBodyError(self.name, "put", "the store's ETag is not the MD5 of what was sent", key=key)
        if self.capabilities.refuses_wrong_md5:
            return
        seen = hashlib.md5(usedforsecurity=False)
        with self.get(key, version_id=result.version_id) as download:
            for piece in download.chunks():
                seen.update(piece)
        if seen.digest() != md5:
            raise CorruptBodyError(self.name, "put", "a second look shows other bytes than were sent", key=key)

    def _confirm_attributes(self, key: str, attributes: Attributes, result: PutResult) -> None:
        """A second look where the probe has not shown that all of this is kept; what was bent is taken away again.

        Ceph turns `_` in a metadata name into `-`; other servers and proxies drop such a name without a word.
        """
        if is_plain(attributes):
            return
        found = self.head(key, version_id=result.version_id)
        if found.attributes == replace(attributes, metadata=tuple(sorted(attributes.metadata))):
            return
        if found.etag == result.etag:  # still ours
            self.delete(key, version_id=result.version_id)
        raise UnsupportedError(self.name, "put", KEEPS_OTHER_ATTRIBUTES, key=key)

    def _confirm_part(self, key: str, etag: str, md5: bytes) -> None:
        """The store holds this part, or CorruptBodyError. A part cannot be looked at a second time."""
        if etag == md5.hex():
            return
        if etag and self.capabilities.refuses_wrong_md5 and (self._kms_key or not self.capabilities.etag_is_md5):
            return
        raise CorruptBodyError(self.name, "put part", "the store's ETag is not the MD5 of what was sent", key=key)

    def _confirm_joined(self, key: str, etag: str, size: int, parts: Sequence[PartInfo]) -> None:
        """The joined object has the size of its parts, and, where its ETag is S3's composite of MD5s, that one."""
        if size != sum(part.size for part in parts):
            raise CorruptBodyError(self.name, "complete upload", "the object has not the size of its parts", key=key)
        if self._kms_key is not None or not etag.endswith(f"-{len(parts)}") or any(len(p.etag) != 32 for p in parts):
            return
        whole = hashlib.md5(usedforsecurity=False)
        for part in sorted(parts, key=lambda part: part.number):
            whole.update(bytes.fromhex(part.etag))
        if etag != f"{whole.hexdigest()}-{len(parts)}":
            raise CorruptBodyError(self.name, "complete upload", "the object's ETag is not that of its parts", key=key)
