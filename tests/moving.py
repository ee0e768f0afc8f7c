"""What the tests of transfer and verification share: places in memory, a planned object, a caller that does not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from migrate.model import Category, CopyResult, ObjectInfo, PlannedCopy, PlannedObject, TargetRole
from migrate.stores.base import Capabilities
from migrate.stores.memory import ALL_CAPABILITIES, MemoryPlace, MemoryStore
from migrate.transfer.caller import Caller, RetryPolicy
from migrate.transfer.parted import PartedCopy
from migrate.transfer.parts import Begun, Finished, PartDone, PartSent, Upload, UploadStarted

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
QUICK = RetryPolicy(attempts=4, timeout_seconds=5.0, wait_seconds=0.0, wait_max_seconds=0.0)
MIB = 2**20


def now() -> datetime:
    return NOW


class World:
    """A source and two targets in memory, and the way to them."""

    def __init__(self, *, target_able: Capabilities = ALL_CAPABILITIES, versioned: bool = False) -> None:
        self.places = {
            "us": MemoryPlace(versioned=versioned),
            "home": MemoryPlace(able=target_able),
            "backup": MemoryPlace(able=target_able),
        }
        self.target_able = target_able
        self.caller = Caller(self.open, concurrency=lambda name: 16, retry=QUICK)

    def open(self, name: str) -> MemoryStore:
        capabilities = ALL_CAPABILITIES if name == "us" else self.target_able
        return MemoryStore(name, self.places[name], capabilities=capabilities)

    def plan(self, info: ObjectInfo, *, copies: int = 2, target_key: str | None = None) -> PlannedObject:
        """The source object `info` as a plan names it, with a home copy (0) and a backup copy (1)."""
        every = (PlannedCopy(0, TargetRole.HOME, "home"), PlannedCopy(1, TargetRole.BACKUP, "backup"))
        return PlannedObject(
            user_id="u1",
            store="us",
            key=info.key,
            version_id=info.version_id,
            etag=info.etag,
            size=info.size,
            last_modified=info.last_modified,
            category=Category.RESTRICTED,
            rule="photos",
            target_key=target_key or info.key,
            flag=None,
            copies=every[:copies],
        )

    def body(self, name: str, key: str) -> bytes | None:
        found = self.places[name].find(key)
        return None if found is None else found.body


class PartedRun:
    """Drives a PartedCopy as a worker does, one job after the other, and remembers what a ledger would."""

    def __init__(self) -> None:
        self.started: dict[int, UploadStarted] = {}
        self.parts: dict[int, dict[int, PartSent]] = {}
        self.results: list[CopyResult] = []

    def known(self) -> Mapping[int, Upload]:
        return {
            ordinal: Upload(started, dict(self.parts.get(ordinal, {}))) for ordinal, started in self.started.items()
        }

    def drive(
        self, parted: PartedCopy, *, stop_after_parts: int | None = None, finish: bool = True
    ) -> list[CopyResult]:
        """The results so far. A kill comes after `stop_after_parts` jobs that read a part."""
        begun = parted.begin().run()
        assert isinstance(begun, Begun)
        self.results += begun.settled
        for started in begun.started:
            self.started[started.ordinal] = started
            self.parts[started.ordinal] = {}
        jobs, sent = deque(parted.on_begun(begun)), 0
        if not jobs and parted.is_open and finish:
            jobs += parted.end()
        while jobs and (stop_after_parts is None or sent < stop_after_parts):
            event = jobs.popleft().run()
            if isinstance(event, Finished):
                self.results += event.settled
                continue
            assert isinstance(event, PartDone)
            sent += 1
            news = parted.on_part(event)
            self.results += news.failed
            for part in news.sent:
                self.parts[part.ordinal][part.number] = part
            if parted.parts_are_done and parted.is_open and finish:
                jobs += parted.end()
        return self.results
