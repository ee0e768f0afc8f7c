"""How a key stands in a folder: as a plain file, or under an encoded name in the reserved folder. Pure.

A *plain place* is the path that the key spells: `a/b` is the file `b` in the folder `a`. A key has one if each of its segments
is a name that a file system can hold: not empty, not `.` or `..`, at most 255 bytes, without NUL; and if it does not begin
with the reserved folder's name. An *odd place* serves every key: `.migrate-store/odd/`, then the key's UTF-8 cut into chunks of
40 bytes, each percent-encoded (all but `A-Za-z0-9._~-`), the last one with `=` behind it (a file), the others with `+` (folders).
`a//b` is `.migrate-store/odd/a%2F%2Fb=`. A chunk is at most 121 bytes long encoded, and `=` and `+` are never in it, so that the
encoding is injective, and reading it back gives the key's very bytes.

Which of its two places a key has is decided when it is written, by what is there (`a` beside `a/b`); see `file`. Because all
that is encoded lies in the reserved folder, a plain file whose name looks encoded (`a%2Fb`, `x=`) is just a file of that name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

RESERVED = b".migrate-store"
ODD = (RESERVED, b"odd")
NAME_MAX_BYTES = 255
CHUNK_BYTES = 40

_ODD_NAME = re.compile(rb"((?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*)([=+])")


@dataclass(frozen=True, slots=True)
class Place:
    """A file's path from the store's root, by bytes."""

    folders: tuple[bytes, ...]
    name: bytes


def plain_place(key: str) -> Place | None:
    """The place that the key spells; None where no file system can hold it."""
    segments = key.encode().split(b"/")
    if segments[0] == RESERVED:
        return None
    if any(segment in (b"", b".", b"..") or len(segment) > NAME_MAX_BYTES or b"\0" in segment for segment in segments):
        return None
    return Place(tuple(segments[:-1]), segments[-1])


def odd_place(key: str) -> Place:
    """The place under an encoded name. Every key has one."""
    raw = key.encode()
    chunks = [raw[start : start + CHUNK_BYTES] for start in range(0, len(raw), CHUNK_BYTES)]
    return Place((*ODD, *(odd_name(chunk, is_folder=True) for chunk in chunks[:-1])), odd_name(chunks[-1]))


def odd_name(chunk: bytes, *, is_folder: bool = False) -> bytes:
    return quote_from_bytes(chunk, safe="").encode() + (b"+" if is_folder else b"=")


class PlainNames:
    """How the entries of a plain folder make up keys, in the keys' order. Folders are given with `/` behind their names."""

    base: tuple[bytes, ...] = ()

    def start(self, prefix: bytes) -> tuple[tuple[bytes, ...], bytes] | None:
        """The folder in which to look for keys under `prefix`, and what of the prefix it stands for."""
        head, slash, _ = prefix.rpartition(b"/")
        if not slash:
            return (), b""
        place = plain_place(prefix[: len(head)].decode())
        return None if place is None else ((*place.folders, place.name), head + b"/")

    def chunk(self, entry: bytes) -> bytes:
        """The bytes that an entry adds to the key. What sorts by it, sorts by key."""
        return entry


class OddNames:
    """How the entries of a folder of encoded names make up keys."""

    base = ODD

    def start(self, prefix: bytes) -> tuple[tuple[bytes, ...], bytes]:
        whole = max(len(prefix) - 1, 0) // CHUNK_BYTES * CHUNK_BYTES
        chunks = [prefix[start : start + CHUNK_BYTES] for start in range(0, whole, CHUNK_BYTES)]
        return tuple(odd_name(chunk, is_folder=True) for chunk in chunks), prefix[:whole]

    def chunk(self, entry: bytes) -> bytes:
        """ValueError for a name that no key has."""
        match = _ODD_NAME.fullmatch(entry.removesuffix(b"/"))
        if match is None or (match[2] == b"+") != entry.endswith(b"/"):
            raise ValueError("not an encoded name")
        return unquote_to_bytes(match[1])
