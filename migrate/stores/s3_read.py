"""Reading an S3 bucket: GET, HEAD, LIST and their kin, each a signed request whose every header is seen.

Nothing here changes a store: the methods send GET and HEAD alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PreconditionError,
    StoreError,
    StrangeAnswerError,
    UnsupportedError,
)
from migrate.model import ObjectInfo, Tags
from migrate.stores import s3_xml
from migrate.stores.base import Capabilities, PartInfo, UploadInfo
from migrate.stores.keys import key_problem
from migrate.stores.s3_errors import MalformedError, parse_count
from migrate.stores.s3_headers import info_of
from migrate.stores.s3_http import Answer, S3Client
from migrate.stores.s3_xml import Page

Item = TypeVar("Item")
_MALFORMED = "not S3's answer"
PAGE_KEYS = 1_000  # S3 API reference, ListObjectsV2, max-keys: the most
_URL_KEYS = ("encoding-type", "url")


class S3Download:
    """A GET under way (`base.Download`). The body's length is checked against Content-Length."""

    def __init__(self, store: str, info: ObjectInfo, answer: Answer, length: int) -> None:
        self.info = info
        self._store = store
        self._answer = answer
        self._left = length

    def read(self) -> bytes:
        body = self._answer.read(expect_bytes=self._left)
        self._left -= len(body)
        self._at_end()
        return body

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        while piece := self._answer.read(size, expect_bytes=size):
            self._left -= len(piece)
            yield piece
        self._at_end()

    def _at_end(self) -> None:
        if self._left != 0:
            self._answer.close()
            raise CorruptBodyError(self._store, "get", "the body has not its announced length", key=self.info.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()


class S3Reader:
    """The reading half of `S3Store`."""

    def __init__(self, name: str, prefix: str, client: S3Client, capabilities: Capabilities) -> None:
        self.name = name
        self.capabilities = capabilities
        self._prefix = prefix
        self._client = client

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        query = [("list-type", "2"), ("max-keys", str(PAGE_KEYS)), _URL_KEYS, ("prefix", self._prefix + prefix)]
        if start_after:
            query.append(("start-after", self._prefix + start_after))
        last = start_after
        for page in self._pages("list", query, lambda content: s3_xml.parse_objects(content, self._prefix)):
            for info in page:
                # order by code point is order by UTF-8 byte; without it a listing that goes on from a key loses others
                if info.key <= last and (last or info.key):
                    raise StoreError(self.name, "list", "the listing is not in the order of its keys")
                last = info.key
            yield page

    def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
        query = [("versions", ""), ("max-keys", str(PAGE_KEYS)), _URL_KEYS, ("prefix", self._prefix + prefix)]
        return self._pages("list versions", query, lambda content: s3_xml.parse_versions(content, self._prefix))

    def list_uploads(self, prefix: str = "") -> Sequence[UploadInfo]:
        query = [("uploads", ""), ("prefix", self._prefix + prefix)]

        def all_of(query: Sequence[tuple[str, str]], encoded: bool) -> Sequence[UploadInfo]:
            def parse(content: bytes) -> Page[UploadInfo]:
                return s3_xml.parse_uploads(content, self._prefix, encoded=encoded)

            return [found for page in self._pages("list uploads", query, parse) for found in page]

        # Ceph encodes the keys here when it is asked to, and does not say so. Hence first without; what XML cannot hold then
        # makes no XML, and is asked for in the other form.
        try:
            return all_of(query, False)
        except NotFoundError as error:
            if "NoSuchUpload" not in error.detail:
                raise
            return []  # rclone says so where there are none
        except StoreError as error:
            if not error.detail.startswith(_MALFORMED):
                raise
            return all_of([*query, _URL_KEYS], True)

    def list_parts(self, key: str, upload_id: str) -> Sequence[PartInfo]:
        query = [("uploadId", upload_id)]
        pages = self._pages("list parts", query, s3_xml.parse_parts, key=self._possible("list parts", key))
        return [found for page in pages for found in page]

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo:
        query = [("versionId", version_id)] if version_id is not None else []
        try:
            headers, _ = self._client.call("head", "HEAD", self._possible("head", key), query)
        except StoreError as error:
            if not error.detail.startswith(("301", "400", "403", "404")):
                raise
            # An answer to HEAD has no body, and with it no code: whether object or bucket is missing, the region wrong, or
            # the credentials expired, only GET tells. Its body is not read.
            with self.get(key, version_id=version_id) as download:
                return download.info
        return self._info("head", key, headers)

    def get(
        self,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> S3Download:
        query = [("versionId", version_id)] if version_id is not None else []
        headers = {}
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'.encode()
        first = None if start is None and length is None else start or 0
        if first is not None:
            headers["range"] = b"bytes=%d-%s" % (first, b"" if length is None else b"%d" % (first + length - 1))
        answer = self._client.send("get", "GET", self._possible("get", key), query, headers)
        try:
            info = self._info("get", key, answer.headers)
            if if_match is not None and info.etag != if_match:  # some servers ignore If-Match
                raise PreconditionError(self.name, "get", "another ETag", key=key)
            announced = self._announced(key, answer.headers, info, first, length)
        except BaseException:
            answer.close()
            raise
        return S3Download(self.name, info, answer, announced)

    def get_tags(self, key: str, *, version_id: str | None = None) -> Tags:
        query = [("tagging", ""), *([("versionId", version_id)] if version_id is not None else [])]
        try:
            _, content = self._client.call("get tags", "GET", self._possible("get tags", key), query)
        except NotFoundError as error:
            if "NoSuchTagSet" in error.detail:
                return {}
            raise
        return self._parsed("get tags", content, s3_xml.parse_tags)

    def close(self) -> None:
        self._client.close()

    def _possible(self, operation: str, key: str) -> str:
        """The key. UnsupportedError where S3 has no such one, the prefix before it included."""
        problem = key_problem(self._prefix + key)
        if problem is not None:
            raise UnsupportedError(self.name, operation, problem, key=key)
        return key

    def _info(self, operation: str, key: str, headers: Mapping[str, str]) -> ObjectInfo:
        try:
            return info_of(key, headers)
        except ValueError as error:
            raise StrangeAnswerError(self.name, operation, f"not S3's headers: {_words(error)}", key=key) from None

    def _announced(
        self, key: str, headers: Mapping[str, str], info: ObjectInfo, first: int | None, length: int | None
    ) -> int:
        """The length of the body, which is that of the object, or of the range from `first`.

        UnsupportedError where the server answers with something else than the range asked for.
        """
        try:
            announced = parse_count(headers.get("content-length", ""))
        except MalformedError:
            raise CorruptBodyError(self.name, "get", "the body has no announced length", key=key) from None
        if first is None:
            expected = info.size
        else:
            # the range decides, not the status: some servers answer 200 and send it all the same
            if not headers.get("content-range", "").startswith(f"bytes {first}-"):
                raise UnsupportedError(self.name, "get", "the store does not answer with the range asked for", key=key)
            expected = info.size - first if length is None else min(length, info.size - first)
        if announced != expected:
            raise CorruptBodyError(self.name, "get", "the body has another length than asked for", key=key)
        return announced

    def _parsed(self, operation: str, content: bytes, parse: Callable[[bytes], Item]) -> Item:
        try:
            return parse(content)
        except ValueError as error:
            raise CorruptBodyError(self.name, operation, f"{_MALFORMED}: {_words(error)}") from None

    def _pages(
        self,
        operation: str,
        query: Sequence[tuple[str, str]],
        parse: Callable[[bytes], Page[Item]],
        *,
        key: str | None = None,
    ) -> Iterator[Sequence[Item]]:
        """All pages. A page that points back to itself raises: it would be asked for without end."""
        more: tuple[tuple[str, str], ...] = ()
        while True:
            kept = [pair for pair in query if not (more and pair[0] == "start-after")]
            _, content = self._client.call(operation, "GET", key, [*kept, *more])
            page = self._parsed(operation, content, parse)
            yield page.items
            if page.next is None:
                return
            if page.next == more:
                raise StoreError(self.name, operation, "the listing does not go on")
            more = page.next


def _words(error: ValueError) -> str:
    """Python's own texts repeat the input, which may hold a key."""
    return str(error) if isinstance(error, MalformedError) else "a value makes no sense"
