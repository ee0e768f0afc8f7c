"""Hostile values, and whole texts, bytes and JSON documents with a few things wrong: what parsers are fuzzed with."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    "", "\0", "\x1b[2J", "\u202e", "\ud800", "\ufeff", "é", "٣", "9" * 30, "9" * 5000, "-1", "1e400", "../x", "[red]",
    "x" * 70_000, "2026-01-01T00:00:00Z", "2026-01-01", "9999-12-31T23:59:59-23:59",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, 0, -1, 1.5, float("inf"), float("nan"), 10**30, [], {}, [[]], {"a": 1}, *ODD_TEXTS,
)  # fmt: skip
texts = st.text(max_size=30) | st.sampled_from([text for text in ODD_TEXTS if text != "\ud800"])


@st.composite
def mutated_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, put in, doubled, cut out or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        some = draw(st.binary(min_size=1, max_size=8) | texts.map(lambda text: text.encode()))
        match draw(st.integers(0, 5)):
            case 0:
                content[at : at + len(some)] = some
            case 1:
                content[at:at] = some
            case 2:
                del content[at : at + draw(st.integers(1, 40))]
            case 3:
                del content[at:]
            case 4:
                content[at:at] = content[at : at + draw(st.integers(1, 40))]
            case _:
                if at < len(content):
                    content[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for step in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from places(data[step], (*path, step))


@st.composite
def mutated_json(draw: st.DrawFn, whole: Any) -> bytes:
    """One or two values taken out or replaced, or another key beside them; seldom, bytes of the text itself."""
    if draw(st.integers(0, 5)) == 0:
        return draw(mutated_bytes(json.dumps(whole).encode()) | st.sampled_from([b"[" * 100_000, b"", b"1" * 5000]))
    data = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from([place for place in places(data) if place] or [("none",)]))
        holder = data
        for step in above:
            holder = holder[step]
        match draw(st.integers(0, 3)):
            case 0:
                with suppress(KeyError, TypeError):
                    del holder[last]
            case 1 if isinstance(holder, dict):
                holder[draw(texts)] = draw(st.sampled_from(ODD_VALUES))
            case _:
                with suppress(TypeError):
                    holder[last] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return json.dumps(data).encode()
