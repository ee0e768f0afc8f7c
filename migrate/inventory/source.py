"""Where an input file is, and bringing it here: a path, or `store:NAME/KEY` fetched into scratch. No table is read here."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import CorruptBodyError, InputError, NotFoundError
from migrate.inventory.aside import ask
from migrate.stores.base import Store
from migrate.workspace import Workspace

Opener = Callable[[str], Store]
"""The door: opens a store of the spec by its name, to be read."""

_CHUNK_BYTES = 2**20
_HEADER_CHARACTERS_MAX = 2**16
_CHECKSUM_BYTES_MAX = 2**13  # a digest and a path
# GNU coreutils, "md5sum invocation": digest, a space, a space or `*`, the name; before all a `\` where the name is escaped
_SHA256SUM = re.compile(rb"\\?([0-9A-Fa-f]{64}) [ *][^\r\n]+\r?\n?")
_STORE_PLACE = re.compile(r"store:([a-z0-9][a-z0-9-]{0,62})/(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A file in a folder (`store` is None, `path` is whole) or an object (`path` is its key). `label` stands in errors."""

    store: str | None
    path: str
    label: str

    def beside(self, path: str, label: str) -> Place:
        """Another file of the same store or machine."""
        return Place(self.store, path, label)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that can be read here. `md5_hex` is that of its bytes."""

    path: Path
    size: int
    md5_hex: str


def find_place(text: str, workspace: Workspace) -> Place:
    """What the spec calls a path: `store:NAME/KEY`, or a path that is relative to the workspace."""
    match = _STORE_PLACE.fullmatch(text)
    if match:
        return Place(match[1], match[2], text)
    if text.startswith("store:"):
        raise InputError(f"{text}: not a place in a store", remedy="Write store:NAME/KEY.")
    return Place(None, str(workspace.root / text), text)


class Fetcher:
    """Brings files here. What comes out of a store is written into `folder`, private to its owner."""

    def __init__(self, opener: Opener, folder: Path) -> None:
        self._opener = opener
        self._folder = folder

    def fetch_proved(self, place: Place) -> Fetched:
        """The file at `place`, which must have the SHA-256 in `PATH.sha256` beside it. InputError where it has not."""
        beside = place.beside(f"{place.path}.sha256", f"{place.label}.sha256")
        checksum, fetched = self.fetch(beside), self.fetch(place)
        with checksum.path.open("rb") as file:
            said = _SHA256SUM.fullmatch(file.read(_CHECKSUM_BYTES_MAX))
        if said is None:
            raise InputError(
                f"{beside.label}: not one line as sha256sum writes it",
                remedy=f"Write it with `sha256sum FILE > FILE.sha256`, where {place.label} was made.",
            )
        digest = hashlib.sha256()
        for chunk in _chunks(fetched.path):
            digest.update(chunk)
        if digest.hexdigest().encode() != said[1].lower():
            raise InputError(
                f"{place.label}: its SHA-256 is not the one in {beside.label}", remedy="Deliver both again."
            )
        return fetched

    def fetch(self, place: Place) -> Fetched:
        """The file at `place`. InputError where there is none."""
        if place.store is not None:
            store, key = self._opener(place.store), place.path
            try:
                return ask(lambda: self._download(store, key))
            except NotFoundError as error:
                raise _missing(place) from error
        path = Path(place.path)
        try:
            if path.is_dir():
                raise InputError(f"{place.label}: a folder, and not a file", remedy="Name the file in it.")
            if not path.is_file():
                raise _missing(place)
            digest, size = hashlib.md5(usedforsecurity=False), 0
            for chunk in _chunks(path):
                digest.update(chunk)
                size += len(chunk)
        except OSError as error:
            raise InputError(f"{place.label}: cannot be read: {error.strerror}", remedy="Make it readable.") from error
        return Fetched(path, size, digest.hexdigest())

    def _download(self, store: Store, key: str) -> Fetched:
        target = self._folder / f"fetched-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        digest, size = hashlib.md5(usedforsecurity=False), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with store.get(key) as download, open(os.open(target, flags, 0o600), "wb") as file:
            for chunk in download.chunks():
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            expected = download.info
        if size != expected.size or expected.etag_md5 not in (None, digest.digest()):
            raise CorruptBodyError(store.name, "get", "the body is not what its size and ETag promise", key=key)
        return Fetched(target, size, digest.hexdigest())

    def forget(self, fetched: Fetched) -> None:
        """Remove what was fetched from a store, to bound the scratch space. A file that was here stays."""
        if fetched.path.parent == self._folder:
            fetched.path.unlink(missing_ok=True)


def _missing(place: Place) -> InputError:
    return InputError(f"{place.label}: no such file", remedy="Mend the path in the spec, or deliver the file.")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def is_parquet(path: Path) -> bool:
    """Told by the file's own mark, not by its name."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def check_text(path: Path, label: str) -> None:
    """InputError with the line, unless the file is UTF-8 throughout and holds no NUL."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    lines, pending = 1, 0
    for chunk in _chunks(path):
        where = chunk.find(b"\0")
        if where >= 0:
            raise _not_text(label, lines + chunk.count(b"\n", 0, where), "a NUL character")
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise _not_text(label, lines + chunk.count(b"\n", 0, max(0, error.start - pending)), "not UTF-8") from None
        lines += chunk.count(b"\n")
        pending = len(decoder.getstate()[0])
    if pending:
        raise _not_text(label, lines, "not UTF-8")


def check_end(path: Path, label: str) -> None:
    """InputError with the last line's number, unless the file is empty or ends with a line's end: one that was cut does not.

    RFC 4180, section 2, leaves the last line's end to the writer. We do not: a cut in the last field looks like a shorter one.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
    lines = 1 + sum(chunk.count(b"\n") for chunk in _chunks(path))
    raise InputError(
        f"{label}: cut off",
        [f"{label}: line {lines}: the last line has no line end"],
        remedy="Deliver the file again. If it is whole, end its last line as the others.",
    )


def _not_text(label: str, line: int, problem: str) -> InputError:
    return InputError(
        f"{label}: not a UTF-8 CSV or Parquet file",
        [f"{label}: line {line}: {problem}"],
        remedy="Write the file as UTF-8 (not Latin-1, UTF-16 or compressed), or as Parquet.",
    )


def csv_header(path: Path, label: str) -> list[str]:
    """The names in the first record of a CSV file that `check_text` has passed. InputError where there is none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read(_HEADER_CHARACTERS_MAX)
    if len(text) == _HEADER_CHARACTERS_MAX and not re.search(r"[\r\n]", text):
        raise InputError(f"{label}: line 1: no header", remedy="The first line names the columns.")
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    except csv.Error as error:
        raise InputError(f"{label}: line 1: not CSV", remedy="The first line names the columns.") from error
    if not names:
        raise InputError(f"{label}: empty", remedy="The first line names the columns.")
    return names


def unpack(path: Path, target: Path, label: str) -> None:
    """Unpack a gzip file whole, with its checksum. InputError where it ends early or is damaged."""
    try:
        with (
            gzip.open(path) as packed,
            open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
        ):
            while chunk := packed.read(_CHUNK_BYTES):
                file.write(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{label}: a gzip file that is damaged or ends early", remedy="Deliver it again.") from error
