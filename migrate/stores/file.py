"""A folder as a store. Any folder of files can be read as it is; what is written keeps all that S3 keeps.

**Names.** The key `a/b` is the file `b` in the folder `a`. A key that no file system holds under its own name (`a//b`, `../x`,
`trail/`, a segment over 255 bytes), or whose place is taken (`a` beside `a/b`: one is a file, the other needs a folder), lies
under an encoded name in the reserved folder (`file_keys`). A key is at one of its two places: at the plain one if it is there
already or can be, else at the odd one. A folder in which somebody put a file by hand at the plain place of a key that lies at
its odd one, cannot be listed: the listing says so. Control characters are held as they are, and so are NFC and NFD.

**What a plain file is.** Its ETag is made of modification time, size and inode (`stat-…`, never taken for an MD5), it has no
content type and no tags. What cannot be an object stops a listing with an error that says how to find it: a name that is not
UTF-8 or makes a key over 1,024 bytes, a symbolic link (refused: it may lead to another country's folder), a pipe or a device.

**Writing.** The bytes go to a file in the reserved folder, which is synced; then its record (`file_reserve` says how a record
belongs to one file alone), which is synced with its folder; then, under the store's lock, the conditions are checked and one
`rename` (`link` for `create_only`: the kernel refuses a name that is taken) gives the file its name, and the folder of the name
is synced. That is one fsync a file and one a folder. Folders that the key needs are made on the way, and each process syncs the
folder above once. Who finds the key taken syncs the folder too, so that `PreconditionError` speaks of something durable.

**Reading.** A GET reads from one descriptor, and If-Match is checked on it: a replaced file is read to its end as it was. A
plain file that is changed in place while it is read raises CorruptBodyError.

There are no versions. Deletes take the folders along that become empty: their names may hold a user's id.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import md5 as new_md5
from itertools import islice
from pathlib import Path

from migrate.errors import (
    CorruptBodyError,
    PermanentStoreError,
    PreconditionError,
    RefusedError,
    UnsupportedError,
)
from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.base import Body, Capabilities, Download, PartInfo, PutResult, UploadInfo
from migrate.stores.file_download import FileDownload
from migrate.stores.file_errors import os_errors
from migrate.stores.file_look import Look, info_of
from migrate.stores.file_reserve import Record, Reserve, write_all
from migrate.stores.file_tree import Tree
from migrate.stores.file_uploads import Uploads
from migrate.stores.file_write import Writer
from migrate.stores.keys import key_problem

PAGE_KEYS = 1000
FILE_CAPABILITIES = Capabilities(
    conditional_put=True,
    refuses_wrong_md5=True,
    etag_is_md5=True,
    tags=True,
    metadata=True,
    multipart=True,
    empty_segments=True,
    trailing_slashes=True,
    dot_segments=True,
    line_breaks=True,
    control_characters=True,
)


class FileStore:
    """The store in the folder `root`, which must exist. The contract of each method stands in `base.Store`."""

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        capabilities: Capabilities = FILE_CAPABILITIES,
        writable: bool = False,
        deletable: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.guarded = True
        self._writable = writable
        self._deletable = writable or deletable
        self._tree = Tree(name, root)
        self._reserve = Reserve(name, self._tree)
        self._uploads = Uploads(name, self._tree, self._reserve)
        self._look = Look(name, self._tree, self._reserve)
        self._writer = Writer(name, self._tree, self._reserve, self._look, clock_ns)

    # reading

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        infos = self._look.walk(prefix, start_after)
        while True:
            with os_errors(self.name, "list"):
                page = [*islice(infos, PAGE_KEYS)]
            if not page:
                return
            yield page

    def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
        raise UnsupportedError(self.name, "list_versions", "a folder has no versions")

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo:
        self._check("head", key, version_id)
        with os_errors(self.name, "head", key):
            found = self._look.find(key)
            if found is None:
                raise self._look.not_found("head", key)
            return info_of(key, found)

    def get(
        self,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> Download:
        self._check("get", key, version_id)
        with os_errors(self.name, "get", key):
            opened = self._look.open(key)
            if opened is None:
                raise self._look.not_found("get", key)
            fd, found = opened
            try:
                if if_match is not None and found.etag != if_match:
                    raise PreconditionError(self.name, "get", "the ETag is another", key=key)
                if start is not None and start >= found.stat.st_size:
                    raise PermanentStoreError(self.name, "get", "the range begins behind the end", key=key)
            except PermanentStoreError:
                os.close(fd)
                raise
            return FileDownload(self.name, info_of(key, found), fd, found.stat, start, length)

    def get_tags(self, key: str, *, version_id: str | None = None) -> Tags:
        self._check("get_tags", key, version_id)
        with os_errors(self.name, "get_tags", key):
            found = self._look.find(key)
        if found is None:
            raise self._look.not_found("get_tags", key)
        return dict(found.record.tags) if found.record is not None else {}

    def list_uploads(self, prefix: str = "") -> Sequence[UploadInfo]:
        with os_errors(self.name, "list_uploads"):
            return self._uploads.list(prefix)

    def list_parts(self, key: str, upload_id: str) -> Sequence[PartInfo]:
        self._check("list_parts", key)
        with os_errors(self.name, "list_parts", key):
            return self._uploads.parts(key, upload_id)

    # writing

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
        self._check_write("put", key)
        if new_md5(body, usedforsecurity=False).digest() != md5:
            raise CorruptBodyError(self.name, "put", "the MD5 is another", key=key)
        record = Record(key, md5.hex(), attributes, tags)
        with os_errors(self.name, "put", key):
            self._writer.publish("put", record, lambda fd: write_all(fd, body), create_only, if_match)
        return PutResult(md5.hex())

    def create_upload(self, key: str, *, attributes: Attributes) -> str:
        self._check_write("create_upload", key)
        with os_errors(self.name, "create_upload", key):
            return self._uploads.create(key, attributes)

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, md5: bytes) -> str:
        self._check_write("put_part", key)
        if new_md5(body, usedforsecurity=False).digest() != md5:
            raise CorruptBodyError(self.name, "put_part", "the MD5 is another", key=key)
        with os_errors(self.name, "put_part", key):
            return self._uploads.put_part(key, upload_id, number, body, md5)

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[PartInfo], *, tags: Tags) -> PutResult:
        self._check_write("complete_upload", key)
        with os_errors(self.name, "complete_upload", key):
            with self._uploads.joined(key, upload_id, parts) as joined:
                record = Record(key, joined.etag, joined.attributes, tags)
                self._writer.publish("complete_upload", record, joined.fill)
            self._uploads.abort(key, upload_id)
        return PutResult(joined.etag)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._check_delete("abort_upload", key)
        with os_errors(self.name, "abort_upload", key):
            self._uploads.abort(key, upload_id)

    def put_tags(self, key: str, tags: Tags) -> None:
        self._check_write("put_tags", key)
        with os_errors(self.name, "put_tags", key):
            self._writer.put_tags(key, tags)

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        self._check_delete("delete", key, version_id)
        with os_errors(self.name, "delete", key):
            self._writer.delete(key)

    def close(self) -> None:
        self._reserve.close()
        self._tree.close()

    # inside

    def _check(self, operation: str, key: str, version_id: str | None = None) -> None:
        problem = key_problem(key)
        if problem is None and version_id is not None:
            problem = "a folder has no versions"
        if problem is not None:
            raise UnsupportedError(self.name, operation, problem, key=key)

    def _check_write(self, operation: str, key: str, version_id: str | None = None) -> None:
        if not self._writable:
            raise RefusedError(
                f"{self.name}: {operation}: the store was opened to be read", remedy="Only targets are written to."
            )
        self._check(operation, key, version_id)

    def _check_delete(self, operation: str, key: str, version_id: str | None = None) -> None:
        if self._deletable:
            self._check(operation, key, version_id)
        else:
            self._check_write(operation, key, version_id)
