"""One object's copies from beginning to end in the calling thread, for who cannot wait for a batch: a user's cutover.

No part is remembered: what breaks off begins anew, after its parts at the target were dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from migrate.model import CopyResult, PlannedObject
from migrate.transfer.caller import Caller
from migrate.transfer.parted import PartedCopy
from migrate.transfer.parts import Begun, Finished, Job, PartDone
from migrate.transfer.removing import remove_copies
from migrate.transfer.whole import copy_whole


def copy_at_once(
    planned: PlannedObject,
    replaceable: Mapping[int, str | None],
    caller: Caller,
    *,
    multipart_from: int,
    part_bytes: int,
    now: Callable[[], datetime],
    demand_time: Callable[[], None],
) -> list[CopyResult]:
    """Copy an object to all of its targets, or remove it there if it is a tombstone; a result each.

    `replaceable` has, by ordinal, the ETag that may be replaced or removed at the target. One body or part is in memory at a
    time. `demand_time` is called before each of them, and raises when it is over: then parts that were sent are left for the next
    attempt to drop. UnreachableError where a store is down.
    """
    if planned.is_tombstone:
        return remove_copies(planned, planned.copies, replaceable, caller, now)
    if planned.size < multipart_from:
        return copy_whole(planned, planned.copies, replaceable, caller, now)
    parted = PartedCopy(
        planned, planned.copies, {}, replaceable, caller=caller, configured_part_bytes=part_bytes, now=now
    )
    begun = parted.begin().run()
    assert isinstance(begun, Begun), "the first job begins"
    results = [*begun.settled]
    jobs = list(parted.on_begun(begun)) or _end(parted)
    while jobs:
        for job in jobs:
            demand_time()
            event = job.run()
            if isinstance(event, Finished):
                results += event.settled
                return results
            assert isinstance(event, PartDone), "what else comes after the beginning"
            results += parted.on_part(event).failed
        jobs = _end(parted)
    return results


def _end(parted: PartedCopy) -> list[Job]:
    return list(parted.end()) if parted.is_open else []
