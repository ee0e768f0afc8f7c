"""One inventory of one store, whatever its source is: the one way in for the planner."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from migrate.errors import InputError
from migrate.inventory.aside import aside
from migrate.inventory.files import INVENTORY_COLUMNS, InventoryFile, Progress, check_age
from migrate.inventory.listing import read_listing
from migrate.inventory.live import list_live
from migrate.inventory.s3_inventory import bucket_and_prefix, read_inventory, read_manifest
from migrate.inventory.source import Opener
from migrate.inventory.tables import fingerprint, open_tables, reading
from migrate.spec import StoreSpec
from migrate.stopping import Stopping, never
from migrate.stores.base import Store
from migrate.workspace import Workspace


def _silent(_store: str, _objects: int) -> None:
    """Nobody wants to know the progress."""


def take_inventory(
    name: str,
    store_spec: StoreSpec,
    store: Store,
    *,
    opener: Opener,
    workspace: Workspace,
    scratch: Path,
    now: Callable[[], datetime],
    on_progress: Progress = _silent,
    is_stopping: Stopping = never,
) -> InventoryFile:
    """List all current objects of a source or backup store, from where its spec says, as Parquet under `scratch`.

    `opener` opens the store of a `store:NAME/KEY` path, read-only. A live listing goes on with what an earlier call listed, and
    stays for a later one until `forget_listing`. Raises InputError for an inventory that is stale, not whole, or does not parse
    (design, invariant 4), the store's own error where a listing fails, InterruptedRun when stopped. One process at a time may
    use a scratch folder.
    """

    def take() -> InventoryFile:
        workspace.ensure(scratch)
        if store_spec.inventory.kind == "live":
            taken = _take_live(name, store_spec, store, scratch, now, on_progress, is_stopping)
        elif store_spec.inventory.kind == "listing":
            taken = _take_listing(name, store_spec, opener, workspace, scratch, now())
        else:
            taken = _take_s3_inventory(name, store_spec, opener, workspace, scratch, now())
        on_progress(name, taken.rows)
        return taken

    return aside(take, is_stopping)


def live_folder(scratch: Path, name: str) -> Path:
    """Where the live listing of the store `name` is kept."""
    return scratch / f"live-{name}"


def _take_live(
    name: str,
    store_spec: StoreSpec,
    store: Store,
    scratch: Path,
    now: Callable[[], datetime],
    on_progress: Progress,
    is_stopping: Stopping,
) -> InventoryFile:
    listed = list_live(
        store,
        place=f"{store_spec.endpoint or ''} {store_spec.url}",
        folder=live_folder(scratch, name),
        scratch=scratch,
        max_age_seconds=store_spec.inventory.max_age,
        now=now,
        is_stopping=is_stopping,
        on_progress=on_progress,
    )
    remedy = f"Listing it took longer than stores.{name}.inventory.max_age: raise that, or use an S3 Inventory."
    check_age(f"the listing of {name}", listed.started, store_spec.inventory.max_age, now(), remedy=remedy)
    with open_tables(scratch) as connection, reading(f"the listing of {name}"):
        digest = fingerprint(connection, listed.folder, INVENTORY_COLUMNS)
    return InventoryFile(
        store=name,
        kind="live",
        path=listed.folder,
        rows=listed.rows,
        as_of=listed.started,
        until=listed.ended,
        fingerprint=digest,
        noncurrent=listed.counts.noncurrent,
        delete_markers=listed.counts.delete_markers,
        open_uploads=listed.counts.open_uploads,
        left_out=listed.left_out,
    )


def _take_listing(
    name: str, store_spec: StoreSpec, opener: Opener, workspace: Workspace, scratch: Path, now: datetime
) -> InventoryFile:
    source = store_spec.inventory
    path, as_of = source.path, source.as_of
    if path is None or as_of is None:
        raise InputError(f"stores.{name}.inventory: a listing needs `path` and `as_of`")
    check_age(path, as_of, source.max_age, now, remedy=_newer(name))
    final = scratch / f"inventory-{name}.parquet"
    rows, digest = read_listing(
        path,
        checksummed=source.checksummed,
        opener=opener,
        workspace=workspace,
        scratch=scratch,
        final=final,
        now=now,
    )
    return InventoryFile(
        store=name, kind="listing", path=final, rows=rows, as_of=as_of, until=as_of, fingerprint=digest
    )


def _take_s3_inventory(
    name: str, store_spec: StoreSpec, opener: Opener, workspace: Workspace, scratch: Path, now: datetime
) -> InventoryFile:
    source = store_spec.inventory
    if source.path is None:
        raise InputError(f"stores.{name}.inventory: an S3 Inventory needs `path`")
    bucket, prefix = bucket_and_prefix(store_spec.url)
    manifest = read_manifest(source.path, opener=opener, workspace=workspace, scratch=scratch)
    if manifest.bucket != bucket:
        raise InputError(
            f"{source.path}: an inventory of another bucket than the store {name!r}",
            remedy=f"Mend stores.{name}.inventory.path.",
        )
    check_age(source.path, manifest.created, source.max_age, now, remedy=_newer(name))
    final = scratch / f"inventory-{name}.parquet"
    read = read_inventory(manifest, prefix=prefix, opener=opener, scratch=scratch, final=final, now=now)
    return InventoryFile(
        store=name,
        kind="s3-inventory",
        path=final,
        rows=read.rows,
        as_of=manifest.created,
        until=manifest.created,
        fingerprint=read.fingerprint,
        noncurrent=read.noncurrent,
        delete_markers=read.delete_markers,
        left_out=read.left_out,
    )


def _newer(name: str) -> str:
    return f"Use a newer one, or raise stores.{name}.inventory.max_age."
