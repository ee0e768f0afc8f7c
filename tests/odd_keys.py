"""Keys that S3 allows and that clients and servers bend: the list that every store is tried with."""

from __future__ import annotations

import unicodedata

from migrate.stores import keys

ALL_ODD = dict.fromkeys(keys.ODD_KEYS, True)  # what a store can do that takes them all

ODD_KEYS: tuple[str, ...] = (
    "a//b",
    "//",
    "/lead",
    "trail/",
    "a/../b",
    "a/./b",
    ".",
    "..",
    "../up",
    "new\nline",
    "carriage\rreturn",
    "dos\r\nline",
    "tab\tstop",
    "control \x01\x1f\x7f\x85",
    "%25",
    "a%2Fb",
    "%",
    "a+b",
    "a b",
    " blanks at both ends ",
    "'single' \"double\"",
    "a&b",
    "<a>",
    "]]>",
    "back\\slash",
    "#fragment?query=1",
    "{}[]^`|~!*()@:,;=$",
    "\U0001f9f3 clover",
    unicodedata.normalize("NFC", "caf\u00e9"),
    unicodedata.normalize("NFD", "caf\u00e9"),
    "\u2028\u00a0\ufeff",
    "not a character \ufffe",
    "\uffff before \U00010000",
    "k" * 1024,
    "\u00e9" * 512,
    ("s" * 255 + "/") * 4,
    "a",
    "a/b",
)

# What any server keeps: no path to clean, nothing for XML to trip over.
PLAIN_KEYS: tuple[str, ...] = ("users/u1/photo.jpg", "users/u1/notes.txt", "users/u2/photo.jpg", "z")
