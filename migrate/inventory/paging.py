"""Going through a store's listing from a key on, with one layer of retries. What becomes of the objects is the caller's business.

Some servers (Ceph's gateway 16, moto) repeat the key to start after in their answer as it is, and what XML cannot hold then
breaks the whole answer. So a listing is begun before the first such character, and what came before the key is skipped.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from migrate.errors import TransientStoreError
from migrate.inventory.aside import ask
from migrate.model import ObjectInfo
from migrate.stores.base import Store

# XML 1.0, section 2.2, production Char
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def is_plain(text: str) -> bool:
    """Whether XML can hold the text as it is."""
    return _NOT_IN_XML.search(text) is None


def plain_head(text: str) -> str:
    """The text up to the first character that XML cannot hold."""
    return _NOT_IN_XML.split(text, maxsplit=1)[0]


def pages_after(store: Store, key: str, *, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
    """Pages, none of them empty, of the objects under `prefix` that come after `key`.

    A request that fails in passing is asked again from where the last page ended. Any other error is raised.
    """
    position = key
    skipping = False
    pages: Iterator[Sequence[ObjectInfo]] | None = None

    def fetch() -> Sequence[ObjectInfo] | None:
        nonlocal pages, skipping
        try:
            if pages is None:
                pages = iter(store.list(prefix, start_after=plain_head(position)))
                skipping = not is_plain(position)
            return next(pages, None)
        except TransientStoreError:
            pages = None
            raise

    while (page := ask(fetch)) is not None:
        if skipping:  # from the front alone: what is out of order must be seen as such
            page = _behind(position, page)
        if page:
            skipping = False
            position = page[-1].key
            yield page


def _behind(position: str, page: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
    return list(itertools.dropwhile(lambda info: info.key <= position, page))
