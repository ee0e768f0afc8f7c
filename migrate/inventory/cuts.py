"""Where to cut a store's key space, so that several chains list it side by side. A wrong guess costs evenness, never a key.

Cuts are found by a few LIST requests that jump from one prefix to the next. They are not asked for with a delimiter: where
every user has a prefix of their own at the top, the store would list 150 million of them, before the first key.
"""

from __future__ import annotations

from migrate.inventory.paging import is_plain, pages_after
from migrate.stores.base import Store

CUTS_MAX = 127
_PREFIXES_MAX = 16  # at one level, each found by one request
_LEVELS_MAX = 4
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def cut_points(store: Store, *, after: str) -> list[str]:
    """Up to 127 texts after `after`, ascending, to cut at: the top prefixes, and each by the next character."""
    level = ""
    prefixes = _prefixes(store, level, after)
    for _ in range(_LEVELS_MAX):
        if len(prefixes) != 1 or not is_plain(prefixes[0]):
            break
        level = prefixes[0]
        prefixes = _prefixes(store, level, after)
    if len(prefixes) > _PREFIXES_MAX or not prefixes:
        prefixes = [level]  # too many to name: by the next character
    cuts = sorted(
        {cut for prefix in prefixes for cut in (prefix, *(prefix + letter for letter in _LETTERS)) if cut > after}
    )
    step = -(-len(cuts) // CUTS_MAX) or 1
    return cuts[::step]


def _prefixes(store: Store, level: str, after: str) -> list[str]:
    """The prefixes one `/` below `level` that hold keys after `after`; one more than the limit where there are too many.

    A key at the level itself counts like a prefix, without being one. From a text that XML cannot hold it goes no further: that
    could take any number of requests.
    """
    found: list[str] = []
    start = after
    for _ in range(_PREFIXES_MAX + 1):
        page = next(pages_after(store, start, prefix=level), None) if is_plain(start) else None
        if page is None:
            return found
        key = page[0].key
        head, slash, _rest = key[len(level) :].partition("/")
        found.append(level + head + slash)
        start = level + head + ("0" if slash else "")  # "0" is the character after "/"
    return found
