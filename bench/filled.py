"""Plans over synthetic objects, and ledgers in which some of their copies are done: written as a worker writes them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from bench.stage import Stage
from bench.synthetic import Formula, SyntheticServer, serving
from bench.worlds import Place, World, make_world
from migrate.jobs.common import users_with_a_row
from migrate.jobs.registered import plan_entry
from migrate.ledger import Lease, Ledger, ProcessIdentity, UserTally
from migrate.model import CopyResult, Evidence, Outcome, PlannedObject, Purpose, Receipt
from migrate.planner.folder import PlanReader, find_plan
from migrate.spec import load_spec
from migrate.stores.base import Capabilities
from migrate.stores.capabilities import save_capabilities
from migrate.worker.loop import GROUP_RESULTS
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

_ABLE = Capabilities(
    conditional_put=True,
    etag_is_md5=True,
    metadata=True,
    small_put=True,
    empty_segments=True,
    trailing_slashes=True,
    dot_segments=True,
    line_breaks=True,
    control_characters=True,
)


def synthetic_world(
    root: Path,
    formula: Formula,
    source: SyntheticServer,
    target: SyntheticServer,
    *,
    targets: Sequence[str] = ("home",),
    second: bool = False,
    limits: str = "",
) -> World:
    """A workspace with a listing of the formula's objects at `source`, to be copied to `target`, and what the stores can do.

    With `second` there is a backup of the source as well, with a listing of its own.
    """
    backup = Place("synthetic-second", source.s3) if second else None
    places = {name: Place(f"synthetic-{name}", target.s3) for name in targets}
    world = make_world(
        root,
        Place("synthetic", source.s3),
        places,
        formula.users_named(),
        listing=True,
        second=backup,
        limits=limits,
    )
    write_listing(formula, root / "listing.parquet")
    if second:
        shutil.copy(root / "listing.parquet", root / "second.parquet")
    workspace = Workspace(root)
    spec = load_spec(root / "plans" / "bench.toml")
    workspace.ensure(workspace.private)
    save_capabilities(workspace.capabilities(spec.name), spec.stores, dict.fromkeys(spec.stores, _ABLE))
    return world


def write_listing(formula: Formula, path: Path) -> None:
    """In no order, as an inventory's files are in none."""
    with duckdb.connect(config={"memory_limit": "2GB", "threads": 2, "temp_directory": f"{path}.spill"}) as connection:
        connection.execute(f"COPY (FROM ({formula.listing_query()}) ORDER BY hash(key)) TO '{path}' (FORMAT parquet)")


def fill(world: World, until: float) -> int:
    """Do a share of the plan's batches in the ledger, as if they had been copied. How many copies are done then."""
    workspace = Workspace(world.root)
    plan = find_plan(workspace, None)
    ledger = Ledger.open(workspace.ledger_url)
    now = datetime.now(UTC)
    run_id = ledger.start_run(
        verb="run",
        operator="bench",
        host="bench",
        country="IE",
        tool_version="bench",
        arguments={},
        plan=plan.digest,
        now=now,
    )
    plan_id = ledger.register(plan_entry(plan), plan.batches(), users_with_a_row(plan), run_id, now)
    worker_id = ledger.start_worker(run_id, ProcessIdentity.current(), now)
    reader, seals = PlanReader(plan), Seals(workspace.seals, plan.digest)
    done, wanted = 0, until * plan.document["totals"]["copies"]
    while done < wanted and (lease := ledger.lease(plan_id, worker_id, Purpose.COPY)) is not None:
        objects = reader.objects(lease.batch)
        done += _do(ledger, lease, objects, seals, run_id, now)
    ledger.end_worker(worker_id)
    ledger.end_run(run_id, exit_code=75 if done < plan.document["totals"]["copies"] else 0, now=now)
    ledger.close()
    seals.close()
    return done


def _do(ledger: Ledger, lease: Lease, objects: list[PlannedObject], seals: Seals, run_id: int, now: datetime) -> int:
    """One batch, from its first receipt to its seal."""
    sizes = {copy.ordinal: planned.size for planned in objects for copy in planned.copies}
    group: list[CopyResult] = []
    for result in results_of(objects, now):
        group.append(result)
        if len(group) == GROUP_RESULTS:
            ledger.record(lease, group, sizes=sizes, run_id=run_id, now=now)
            group = []
    ledger.record(lease, group, sizes=sizes, run_id=run_id, now=now)
    rows = ledger.copy_rows(lease)
    receipts = [(row.ordinal, row.outcome, row.receipt) for row in rows if row.receipt is not None]
    users: dict[str, int] = {}
    for planned in objects:
        users[planned.user_id] = users.get(planned.user_id, 0) + len(planned.copies)
    seal = seals.write_receipts(lease.number, lease.fence, receipts)
    ledger.finish_copy(lease, seal, {user: UserTally(good=count) for user, count in users.items()})
    return len(rows)


def results_of(objects: list[PlannedObject], now: datetime) -> Iterator[CopyResult]:
    for planned in objects:
        for copy in planned.copies:
            receipt = receipt_of(copy.ordinal, planned.key.encode(), planned.etag, now)
            yield CopyResult(copy.ordinal, Outcome.COPIED, receipt)


def receipt_of(ordinal: int, body: bytes, etag: str, now: datetime) -> Receipt:
    """A receipt as copying leaves it: a digest of its own, one of a few kinds of attributes, a millisecond after the last."""
    attributes = hashlib.sha256(b"%d" % (ordinal % 7)).digest()
    at = now + timedelta(microseconds=ordinal * 1_500)
    return Receipt(hashlib.sha256(body).digest(), 0, attributes, etag, None, Evidence.MD5, at)


def formula_of(copies: int, each: int) -> Formula:
    return Formula(max(1, copies // each), each)


@dataclass(frozen=True, slots=True)
class Filled:
    """A workspace with a plan over synthetic objects, some of whose copies are done, and its two servers."""

    world: World
    formula: Formula
    source: SyntheticServer
    target: SyntheticServer


def planned_world(stage: Stage, name: str, copies: int, each: int, *, done: float, limits: str = "") -> Filled:
    """A plan of so many copies, `each` a user, of which a share is done. Its servers end with the stage."""
    formula = Formula(max(1, copies // each), each)
    source = stage.run_on(serving(formula, formula.total))
    target = stage.run_on(serving(formula, int(done * formula.total)))
    world = synthetic_world(stage.folder(name), formula, source, target, limits=limits)
    stage.say(f"{name}: planning {formula.total:,} copies")
    world.plan()
    if done:
        stage.say(f"{name}: {fill(world, done):,} copies are done")
    return Filled(world, formula, source, target)
