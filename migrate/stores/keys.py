"""Object keys: what S3 allows, how a key stands in a URL and in a listing, and which keys some servers bend.

A key is 1 to 1,024 bytes of UTF-8, and nothing in it means anything: `a//b`, `a/../b` and `/a` are three names, not paths
(S3 user guide, "Naming Amazon S3 objects"). Here they stay as they are; no step cleans, joins or normalises.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

MAX_KEY_BYTES = 1024


def key_problem(key: str) -> str | None:
    """Why S3 has no such key, in words without the key; None where it has."""
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "the key is not UTF-8"
    if size == 0:
        return "the key is empty"
    if size > MAX_KEY_BYTES:
        return f"the key has {size} bytes, more than {MAX_KEY_BYTES}"
    return None


def is_odd(key: str) -> bool:
    """True for a key that a server which takes keys for paths, or writes them into XML unescaped, may lose or rename.

    Empty, `.` and `..` segments, control characters, and what XML 1.0 cannot hold (U+FFFE, U+FFFF). A store without the
    capability `odd_keys` is not trusted with one.
    """
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        return True
    return any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\ufffe\uffff" for letter in key)


def quote_key(key: str) -> str:
    """The key as it stands in the path of a URL, and in SigV4's canonical request: all but `A-Za-z0-9-._~/` as %XX."""
    return quote(key, safe="/~")


def unquote_key(text: str) -> str:
    """A key out of a listing with `encoding-type=url`, where a blank is `+` or `%20`. ValueError where it is not UTF-8."""
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
