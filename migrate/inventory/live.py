"""A live listing: a store is listed, and what was seen is sealed in segments on the way, so that a crash costs one of them.

The key space is cut into intervals `(after, until]`, and each is listed as a chain of segments of its own. The intervals
follow from the cuts alone: wherever these lie, each key is in exactly one interval, so no key can be lost between two chains,
and keys under no prefix need no care. Where the cuts lie only decides how even the work is.

On disk, in a private folder: `listing.json` (start, the cuts, the end), for each chain `chain-NNN.json` (last key, segments,
rows, finished), and its segments `NNN-NNNNNN.parquet`. A segment is written, synced and renamed first; then the chain's state
says that it counts. What no state counts is written again under the same name. So a kill between any two writes leaves a
listing that goes on from its last key. Before each JSON stands its SHA-256: a last key that a disk changed would lose keys.

A listing is finished when every chain has reached its end and `listing.json` says when. It stays until who listed is done with it
(`forget_listing`): what was stopped or refused on the way goes on with it, finished or not, and lists nothing twice. It is made
anew where it was begun longer ago than the inventory's maximum age, for a store elsewhere, or is not what was written. An error
of the store is raised as it is; nothing ends early and quietly (design, invariant 4).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from migrate.errors import InputError, IntegrityError, LaterError, PermanentStoreError
from migrate.filelock import locked
from migrate.inventory.aside import ask, side_by_side
from migrate.inventory.cuts import cut_points
from migrate.inventory.files import OBJECT_BYTES_MAX, Progress, sync_folder, write_sealed
from migrate.inventory.paging import pages_after
from migrate.inventory.segments import SegmentWriter
from migrate.inventory.tables import count_rows, open_tables, reading
from migrate.model import ObjectInfo
from migrate.pauses import PausePoint, pause_at
from migrate.stopping import Stopping
from migrate.stores.base import Store

_FORMAT = 2
SEGMENT_ROWS = 20_000
THREADS = 8


@dataclass(frozen=True, slots=True)
class Interval:
    """The keys that one chain lists: after `after`, up to and including `until` (None: to the end)."""

    after: str
    until: str | None

    def holds_after(self, key: str) -> bool:
        """Whether any key after `key` can be in it."""
        return self.until is None or key < self.until


@dataclass(frozen=True, slots=True)
class ChainState:
    """How far a chain is: `last_key` is the last one in its `segments` sealed segments.

    `left_out` counts the object whose key is the store's prefix itself: relative to it, it has no name.
    """

    last_key: str
    segments: int = 0
    rows: int = 0
    left_out: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """What `listing.json` holds. While `split` is false there is one chain, which is to seal one segment."""

    place: str
    started: datetime
    intervals: tuple[Interval, ...]
    split: bool = False
    ended: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "place": self.place,
            "started": self.started.isoformat(),
            "intervals": [[interval.after, interval.until] for interval in self.intervals],
            "split": self.split,
            "ended": self.ended.isoformat() if self.ended else None,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Heading:
        return Heading(
            data["place"],
            datetime.fromisoformat(data["started"]),
            tuple(Interval(after, until) for after, until in data["intervals"]),
            data["split"],
            datetime.fromisoformat(data["ended"]) if data["ended"] else None,
        )


@dataclass(frozen=True, slots=True)
class SideCounts:
    """What is counted beside the current objects; None where the store has it not, or does not let us ask."""

    noncurrent: int | None
    delete_markers: int | None
    open_uploads: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A finished listing: its folder of segments."""

    folder: Path
    rows: int
    started: datetime
    ended: datetime
    counts: SideCounts
    left_out: int


def _save_json(path: Path, data: dict[str, Any]) -> None:
    content = json.dumps(data).encode()
    write_sealed(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def _load_json(path: Path) -> dict[str, Any] | None:
    """What `_save_json` wrote; None where there is nothing, or something else."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    return dict(json.loads(content))


def _is_whole(folder: Path) -> bool:
    return all(_load_json(path) is not None for path in folder.glob("*.json"))


def _refuse() -> None:
    raise LaterError("another process lists this store now", remedy="Run again when it has ended.")


def list_live(
    store: Store,
    *,
    place: str,
    folder: Path,
    scratch: Path,
    max_age_seconds: int,
    now: Callable[[], datetime],
    is_stopping: Stopping,
    on_progress: Progress,
    threads: int = THREADS,
    segment_rows: int = SEGMENT_ROWS,
    beside: bool = True,
) -> Listed:
    """List `store` into `folder`, going on where an earlier attempt was cut off, or with what it has listed.

    `place` identifies where the store is. With `beside`, versions that are not current and open uploads are counted, too.
    InterruptedRun when stopped, the store's error when it fails: call again to go on.
    """
    with locked(folder.with_name(folder.name + ".lock"), _refuse), open_tables(scratch) as connection:
        heading = _open(folder, place, timedelta(seconds=max_age_seconds), now())
        listing = _Listing(store, folder, heading, connection, segment_rows, is_stopping, on_progress, threads)
        if heading.ended is None:
            listing.run(beside=beside)
            listing.finish(now())
        return listing.result()


def _open(folder: Path, place: str, max_age: timedelta, now: datetime) -> Heading:
    """The heading of the listing to go on with, or of a new one in an emptied folder."""
    path = folder / "listing.json"
    data = _load_json(path)
    if data is not None and data["format"] == _FORMAT and _is_whole(folder):
        heading = Heading.from_json(data)
        if heading.place == place and heading.started <= now <= heading.started + max_age:
            return heading
    forget_listing(folder)
    folder.mkdir(mode=0o700)
    heading = Heading(place, now.astimezone(UTC), (Interval("", None),))
    _save_json(path, heading.to_json())
    return heading


def forget_listing(folder: Path) -> None:
    """Remove a listing: the next one is made anew. Quiet where there is none."""
    path = folder / "listing.json"
    if path.exists():
        path.unlink()  # first: what stands without it counts for nothing
        sync_folder(folder)
    if folder.exists():
        shutil.rmtree(folder)


class _Listing:
    """One listing under way. Its methods that ask the store run on daemon threads."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        heading: Heading,
        connection: duckdb.DuckDBPyConnection,
        segment_rows: int,
        is_stopping: Stopping,
        on_progress: Progress,
        threads: int,
    ) -> None:
        self._store = store
        self._folder = folder
        self._heading = heading
        self._connection = connection
        self._segment_rows = segment_rows
        self._is_stopping = is_stopping
        self._on_progress = on_progress
        self._threads = threads
        self._count_lock = threading.Lock()
        self._seen = sum(state.rows for state in self._states())

    def run(self, *, beside: bool) -> None:
        """List all that is not listed yet. A store that fits in one segment is never cut."""
        if not self._heading.split:
            self._side_by_side([lambda halted: self._chain(0, halted, segments_max=1)])
            state = self._state(0)
            if not state.finished:
                self._split(state.last_key)
        jobs: list[Callable[[Stopping], object]] = [self._count_versions, self._count_uploads] if beside else []
        jobs += [partial(self._chain, number) for number, state in enumerate(self._states()) if not state.finished]
        self._side_by_side(jobs)

    def _states(self) -> list[ChainState]:
        return [self._state(number) for number in range(len(self._heading.intervals))]

    def _side_by_side(self, jobs: Sequence[Callable[[Stopping], object]]) -> None:
        side_by_side(jobs, threads=self._threads, is_stopping=self._is_stopping)

    def _split(self, last_key: str) -> None:
        cuts: list[str] = []
        self._side_by_side([lambda _halted: cuts.extend(cut_points(self._store, after=last_key))])
        bounds = ["", last_key, *cuts]
        intervals = tuple(Interval(after, until) for after, until in itertools.pairwise([*bounds, None]))  # type: ignore[arg-type]
        self._save(replace(self._heading, intervals=intervals, split=True))

    def _save(self, heading: Heading) -> None:
        _save_json(self._folder / "listing.json", heading.to_json())
        self._heading = heading

    def _state(self, number: int) -> ChainState:
        saved = _load_json(self._folder / f"chain-{number:03d}.json")
        return ChainState(self._heading.intervals[number].after) if saved is None else ChainState(**saved)

    def _chain(self, number: int, halted: Stopping, segments_max: int | None = None) -> None:
        """List one interval to its end, or until `segments_max` segments are sealed, or until halted (what it has is sealed)."""
        interval, state = self._heading.intervals[number], self._state(number)
        writer = SegmentWriter(self._connection.cursor())
        pages = pages_after(self._store, state.last_key) if interval.holds_after(state.last_key) else iter(())
        seen = state.last_key
        for whole_page in pages:
            page = [info for info in whole_page if info.key]
            state = replace(state, left_out=state.left_out + len(whole_page) - len(page))
            fitting = _in_interval(page, interval, seen, self._store.name)
            writer.add(fitting)
            self._progress(len(fitting))
            seen = fitting[-1].key if fitting else seen
            if len(fitting) < len(page) or not interval.holds_after(seen):
                break
            if len(writer) >= self._segment_rows or halted():
                state = self._seal(number, state, writer, finished=False)
                if halted() or state.segments == segments_max:
                    return
        self._seal(number, state, writer, finished=True)

    def _seal(self, number: int, state: ChainState, writer: SegmentWriter, *, finished: bool) -> ChainState:
        rows, last_key = len(writer), writer.last_key or state.last_key
        if rows:
            writer.seal(self._segment(number, state.segments))
            pause_at(PausePoint.SEGMENT_SEALED)
        sealed = ChainState(last_key, state.segments + (1 if rows else 0), state.rows + rows, state.left_out, finished)
        _save_json(self._folder / f"chain-{number:03d}.json", asdict(sealed))
        return sealed

    def _segment(self, number: int, segment: int) -> Path:
        return self._folder / f"{number:03d}-{segment:06d}.parquet"

    def _progress(self, rows: int) -> None:
        with self._count_lock:
            self._seen += rows
            seen = self._seen
        self._on_progress(self._store.name, seen)

    def _count_versions(self, halted: Stopping) -> None:
        def count() -> dict[str, int]:
            noncurrent = markers = 0
            for page in self._store.list_versions():
                markers += sum(info.is_delete_marker for info in page)
                noncurrent += sum(not info.is_latest and not info.is_delete_marker for info in page)
                if halted():
                    break
            return {"noncurrent": noncurrent, "delete_markers": markers}

        self._remember("versions.json", count, halted, possible=self._store.capabilities.versions)

    def _count_uploads(self, halted: Stopping) -> None:
        self._remember(
            "uploads.json",
            lambda: {"open_uploads": len(self._store.list_uploads())},
            halted,
            possible=True,  # nobody probes whether a source joins parts: only asking shows whether it tells
        )

    def _remember(self, name: str, count: Callable[[], dict[str, int]], halted: Stopping, *, possible: bool) -> None:
        """Keep a count beside the listing, empty where the store cannot tell or does not let us ask."""
        path = self._folder / name
        if path.exists():
            return
        counts: dict[str, int] = {}
        if possible:
            try:
                counts = ask(count)
            except PermanentStoreError:
                counts = {}
        if not halted():
            _save_json(path, counts)

    def finish(self, ended: datetime) -> None:
        """Say that all is listed, and remove what no state counts."""
        states = self._states()
        if not all(state.finished for state in states):
            raise IntegrityError("a listing without its end", remedy="Run it again: it goes on from there.")
        counted = {self._segment(n, s) for n, state in enumerate(states) for s in range(state.segments)}
        for path in self._folder.glob("*.parquet"):
            if path not in counted:
                path.unlink()
        if not counted:
            SegmentWriter(self._connection).seal(self._segment(0, 0))  # so that there are columns to read
        self._save(replace(self._heading, ended=ended.astimezone(UTC)))

    def result(self) -> Listed:
        """The finished listing. IntegrityError where its segments do not hold what their states say."""
        ended = self._heading.ended
        rows = sum(state.rows for state in self._states())
        with reading(f"the listing of {self._store.name}"):
            found = count_rows(self._connection, self._folder)
        if ended is None or found != rows:
            raise IntegrityError(
                f"the saved listing of {self._store.name} has {found:,} rows, and {rows:,} were sealed",
                remedy=f"Remove {self._folder} and list again.",
            )
        counts: dict[str, int] = {}
        for name in ("versions.json", "uploads.json"):
            counts |= _load_json(self._folder / name) or {}
        side = SideCounts(counts.get("noncurrent"), counts.get("delete_markers"), counts.get("open_uploads"))
        left_out = sum(state.left_out for state in self._states())
        return Listed(self._folder, rows, self._heading.started, ended, side, left_out)


def _in_interval(page: Sequence[ObjectInfo], interval: Interval, last_key: str, store: str) -> Sequence[ObjectInfo]:
    """What of the page lies in the interval. InputError where keys are not in order (going on from a last key would lose some)
    and for a size that no object has.

    Python compares texts by code points, which is the order of their UTF-8 bytes.
    """
    for info in page:
        if info.key <= last_key:
            raise InputError(
                f"{store}: its listing is not in the order of the keys' bytes",
                remedy="Give an inventory file for this store (kind s3-inventory or listing).",
            )
        if not 0 <= info.size <= OBJECT_BYTES_MAX:
            raise InputError(
                f"{store}: its listing shows an object of {info.size:,} bytes: none is so large",
                remedy="Look at the store's server, or give an inventory file (kind s3-inventory or listing).",
            )
        last_key = info.key
    until = interval.until
    if until is None or last_key <= until:
        return page
    return [info for info in page if info.key <= until]
