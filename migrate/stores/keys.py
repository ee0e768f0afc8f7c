"""Object keys: what S3 allows, how a key stands in a URL and in a listing, and which keys some servers bend.

A key is 1 to 1,024 bytes of UTF-8, and nothing in it means anything: `a//b`, `a/../b` and `/a` are three names, not paths
(S3 user guide, "Naming Amazon S3 objects"). Here they stay as they are; no step cleans, joins or normalises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

MAX_KEY_BYTES = 1024

# What a server that takes keys for paths, or writes them into XML unescaped, may lose or rename: by the capability that says
# that a store does not. As regular expressions; only the end, `\Z`, has another name in DuckDB (`odd_pattern`).
ODD_KEYS = {
    "empty_segments": r"\A/|//",
    "trailing_slashes": r"/\Z",
    "dot_segments": r"(?:\A|/)\.\.?(?:/|\Z)",
    "line_breaks": r"[\n\r]",
    # and what XML 1.0 cannot hold
    "control_characters": "[\\x00-\\x09\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\ufffe\uffff]",
}
_KINDS = {kind: re.compile(pattern) for kind, pattern in ODD_KEYS.items()}


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


def odd_kinds(key: str) -> list[str]:
    """How a key is odd: each kind is the name of the capability that a store needs, to be trusted with it. None for most keys."""
    return [kind for kind, pattern in _KINDS.items() if pattern.search(key)]


def is_odd(key: str) -> bool:
    """Whether a key is odd in any way."""
    return bool(odd_kinds(key))


def odd_pattern(kinds: Iterable[str]) -> str:
    """A regular expression for DuckDB (RE2) that finds itself in the keys of these kinds."""
    return "|".join(ODD_KEYS[kind].replace(r"\Z", r"\z") for kind in kinds)


def quote_key(key: str) -> str:
    """The key as it stands in the path of a URL, and in SigV4's canonical request: all but `A-Za-z0-9-._~/` as %XX."""
    return quote(key, safe="/~")


def unquote_key(text: str) -> str:
    """A key out of a listing with `encoding-type=url`, where a blank is `+` or `%20`. ValueError where it is not UTF-8."""
    if "%" not in text and "+" not in text:
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
