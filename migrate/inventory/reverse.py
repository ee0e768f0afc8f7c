"""A few pages of the store's own listing, looked for in its inventory: a part of the proof that nothing is left out of it.

The sample by HEAD (`sample`) shows that what is listed exists; this one, that what exists is listed. It finds an inventory of a
part of the store (a filter in its configuration, a prefix, a listing that was cut at either end) and one that lacks keys here and
there. A gap between two keys of the inventory that no page reaches it does not find.

An inventory may lack what was written shortly before it (S3 user guide, "Cataloging and analyzing your data with S3 Inventory",
"Inventory consistency": eventual for PUT and DELETE, and no bound is given), so only keys that are older by a day are looked for.
An object that was sent in parts shows the time when its upload began (S3 user guide, "System-defined object metadata",
Last-Modified), which may be days before it came to be: it is looked for when older by a week.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from migrate.errors import InputError
from migrate.inventory.aside import aside, side_by_side
from migrate.inventory.files import InventoryFile
from migrate.inventory.paging import pages_after, plain_head
from migrate.inventory.sample import picked_sql
from migrate.inventory.tables import open_tables, parquet_sql, reading
from migrate.model import ObjectInfo
from migrate.stopping import Stopping, never
from migrate.stores.base import Store

_PICKED = 8  # starts among the inventory's keys, beside its beginning and its end: ten pages in all
_THREADS = 8
_SETTLED = timedelta(days=1)
_SETTLED_IN_PARTS = timedelta(days=7)


def check_complete(
    inventory: InventoryFile, store: Store, *, seed: str, scratch: Path, is_stopping: Stopping = never
) -> int:
    """List ten pages of the store, always from the same places for one `seed` and release of DuckDB; how many keys were
    looked for.

    InputError where one of them is not in the inventory and should be; the store's own error where a listing fails (design,
    invariant 4). The requests, and what is held in memory, do not grow with the inventory.
    """
    starts = aside(lambda: _starts(inventory, seed, scratch), is_stopping)
    pages = side_by_side(
        [lambda _halted, start=start: _settled_keys(store, start, inventory.as_of) for start in starts],  # type: ignore[misc]
        threads=_THREADS,
        is_stopping=is_stopping,
    )
    keys = {key for page in pages for key in page}
    missing = len(keys) - aside(lambda: _count_listed(inventory, keys, scratch), is_stopping)
    if missing:
        raise InputError(
            f"{inventory.store}: {missing} of {len(keys)} keys that the store lists are not in its inventory",
            remedy="Use an inventory of the whole store, without a filter, or list the store (kind live).",
        )
    return len(keys)


def _starts(inventory: InventoryFile, seed: str, scratch: Path) -> list[str]:
    """Where the pages begin: before all keys, after the last one, and after some by a hash of seed and key."""
    with open_tables(scratch) as connection, reading(f"the inventory of {inventory.store}"):
        found = connection.execute(
            f"SELECT {picked_sql('key', seed, _PICKED)}, max(key) FROM {parquet_sql(inventory.path)}"
        ).fetchone()
    picked, last = found or (None, None)
    # after a text that XML cannot hold, any number of pages could have to be skipped (`paging`)
    return sorted({"", *(plain_head(key) for key in [*(picked or ()), last] if key is not None)})


def _settled_keys(store: Store, start: str, as_of: datetime) -> list[str]:
    """The keys of the first page after `start` that an inventory of `as_of` must list."""
    return [info.key for info in next(pages_after(store, start), ()) if info.key and _is_settled(info, as_of)]


def _is_settled(info: ObjectInfo, as_of: datetime) -> bool:
    return info.last_modified + (_SETTLED_IN_PARTS if "-" in info.etag else _SETTLED) < as_of


def _count_listed(inventory: InventoryFile, keys: Collection[str], scratch: Path) -> int:
    with open_tables(scratch) as connection, reading(f"the inventory of {inventory.store}"):
        connection.execute("CREATE TEMP TABLE found AS SELECT unnest(?::VARCHAR[]) AS key", [sorted(keys)])
        # the few found keys are the side that is held in memory; the inventory passes by
        row = connection.execute(
            f"SELECT count(*) FROM {parquet_sql(inventory.path)} AS i SEMI JOIN found AS f ON i.key = f.key"
        ).fetchone()
    return int(row[0]) if row else 0
