"""The live listing: whole whatever the keys, and going on after a crash at any point."""

from __future__ import annotations

import fcntl
import itertools
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventories import NOW, clock, columns, desk, rows

from migrate.errors import (
    DeniedError,
    InputError,
    IntegrityError,
    InterruptedRun,
    LaterError,
    PermanentStoreError,
    TransientStoreError,
    UnsupportedError,
)
from migrate.inventory.cuts import CUTS_MAX, cut_points
from migrate.inventory.files import INVENTORY_COLUMNS
from migrate.inventory.live import Listed, forget_listing, list_live
from migrate.model import Attributes, ObjectInfo
from migrate.stopping import never
from migrate.stores import memory_place
from migrate.stores.base import Capabilities
from migrate.stores.memory import MemoryPlace, MemoryStore


class Crash(BaseException):
    """Ends a listing as a kill would: nothing catches it."""


def filled(keys: Sequence[str]) -> MemoryPlace:
    place = MemoryPlace(now=clock)
    for key in keys:
        place.seed(key, b"x")
    return place


def sample_keys(count: int) -> list[str]:
    """Keys under prefixes, beside them, on their borders, and none."""
    keys = [f"{top}/{number:05d}" for number in range(count // 4) for top in ("media", "users/a", "users/b")]
    return sorted(
        {*keys, *(f"{number:05d}" for number in range(count // 4)), "media", "media0", "users/a0", "zz", "é/x"}
    )


def listing(folder: Path, place: MemoryPlace, /, **options: Any) -> Listed:
    folder.mkdir(exist_ok=True)
    fields: dict[str, Any] = {"place": "here", "max_age_seconds": 3600, "now": clock, "is_stopping": never}
    fields |= {"on_progress": lambda _name, _rows: None, "segment_rows": 5, "threads": 3} | options
    store = fields.pop("store", None) or MemoryStore("us", place)
    return list_live(store, folder=folder / "live", scratch=folder, **fields)


def listing_anew(folder: Path, place: MemoryPlace, /, **options: Any) -> Listed:
    """Without what an earlier example has listed."""
    forget_listing(folder / "live")
    return listing(folder, place, **options)


def listed_keys(found: Listed) -> list[str]:
    keys = [row[0] for row in rows(f"{found.folder}/*.parquet")]
    assert len(keys) == found.rows
    return keys


@pytest.fixture
def pages_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_place, "PAGE_KEYS", 5)


def watch(place: MemoryPlace, also: Callable[[int], None] = lambda _count: None) -> list[str]:
    """Count the LIST requests of a place; `also` is told the number of each and may raise."""
    seen: list[str] = []
    turn = threading.Lock()

    def fault(operation: str, key: str) -> None:
        if operation == "list":
            with turn:
                seen.append(key)
                number = len(seen)
            also(number)

    place.fault = fault
    return seen


def test_live_inventory_holds_what_the_store_shows(tmp_path: Path) -> None:
    """Every current object with its listed fields; versions, delete markers and open uploads are counted beside."""
    place = MemoryPlace(versioned=True, now=clock)
    store = MemoryStore("us", place)
    place.seed("a", b"old")
    current = place.seed("a", b"new", storage_class="GLACIER")
    place.seed("gone", b"x")
    store.delete("gone")
    store.create_upload("huge", attributes=Attributes())
    taken = desk(tmp_path).take(store)
    assert columns(taken.glob) == list(INVENTORY_COLUMNS)
    found = rows(taken.glob)
    assert [(row[0], row[2], row[3], row[5]) for row in found] == [("a", 3, current.etag, "GLACIER")]
    assert found[0][4] == NOW.replace(tzinfo=None)
    assert (taken.rows, taken.noncurrent, taken.delete_markers, taken.open_uploads) == (1, 2, 1, 1)
    assert (taken.kind, taken.as_of, taken.until) == ("live", NOW, NOW)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in taken.path.iterdir())
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o700


def test_empty_store_is_an_inventory_without_rows(tmp_path: Path) -> None:
    """Empty because the store said so, with columns that can be queried."""
    taken = desk(tmp_path).take()
    assert (taken.rows, rows(taken.glob)) == (0, [])
    assert columns(taken.glob) == list(INVENTORY_COLUMNS)


def test_fingerprint_does_not_depend_on_the_chains(tmp_path: Path, pages_of_five: None) -> None:
    """Cut into chains or not, the same objects are the same input; one object more is another."""
    keys = sample_keys(80)
    table = desk(tmp_path)
    whole = table.take(MemoryStore("us", filled(keys)))
    place = filled(keys)
    (table.scratch / "live-us").rename(tmp_path / "aside")
    listing(table.scratch, place, place=" s3://bucket/")
    assert len(list((table.scratch / "live").glob("chain-*.json"))) > 3
    (table.scratch / "live").rename(table.scratch / "live-us")
    again = table.take(MemoryStore("us", place))
    forget_listing(table.scratch / "live-us")
    more = table.take(MemoryStore("us", filled([*keys, "one more"])))
    assert whole.fingerprint == again.fingerprint != more.fingerprint


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(st.text(st.sampled_from("ab/0é🙂\n"), min_size=1, max_size=6), max_size=60),
    tops=st.sets(st.sampled_from(["u/", "v/", "w/x/", ""])),
)
def test_union_of_all_chains_is_the_full_listing(
    tmp_path: Path, pages_of_five: None, keys: set[str], tops: set[str]
) -> None:
    """Invariant 4: whatever the keys, no chain loses one and no two chains list the same."""
    wanted = sorted({top + key for top in tops or {""} for key in keys})
    assert listed_keys(listing_anew(tmp_path, filled(wanted))) == wanted


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cuts_anywhere_lose_no_key(tmp_path: Path, pages_of_five: None, data: st.DataObject) -> None:
    """Also where cuts lie exactly on keys, between them, or behind all of them."""
    keys = sample_keys(60)
    cuts = data.draw(st.sets(st.sampled_from(keys) | st.text(min_size=1, max_size=3), max_size=20))

    def cut(_store: object, *, after: str) -> list[str]:
        return sorted(text for text in cuts if text > after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migrate.inventory.live.cut_points", cut)
        assert listed_keys(listing_anew(tmp_path, filled(keys))) == keys


def dying_at(point: int) -> Callable[[Path, Path], Path]:
    """A rename that works `point` times and then ends every thread that comes to it, as the death of the process would."""
    replace, turn, moves = Path.replace, threading.Lock(), itertools.count()

    def move(path: Path, target: Path) -> Path:
        with turn:
            if next(moves) >= point:
                raise Crash
            return replace(path, target)

    return move


def test_crash_before_any_rename_resumes_to_the_same_listing(tmp_path: Path, pages_of_five: None) -> None:
    """Invariant 2: killed between any two writes, the next run ends with each key once."""
    keys = sample_keys(24)
    for point in itertools.count():
        folder = tmp_path / str(point)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("migrate.inventory.live.cut_points", lambda _store, after: ["media/00003", "users/a/"])
            patch.setattr(Path, "replace", dying_at(point))
            try:
                listing(folder, filled(keys))
            except Crash:
                pass
            else:
                break
        assert listed_keys(listing(folder, filled(keys))) == keys
    assert point >= 12  # each segment, each chain's state, the counts and the headings


def test_resume_lists_only_the_rest(tmp_path: Path, pages_of_five: None) -> None:
    """A listing that failed at its 16th page of 41 asks for the other pages alone."""
    keys = [f"{number:05d}" for number in range(200)]
    place = filled(keys)

    def deny(number: int) -> None:
        if number == 40:
            raise DeniedError("us", "list")

    watch(place, deny)
    with pytest.raises(DeniedError):
        listing(tmp_path, place, threads=1)
    sealed = sum(1 for _ in (tmp_path / "live").glob("*.parquet"))
    assert sealed > 10
    asked = watch(place)
    found = listing(tmp_path, place, threads=1)
    assert listed_keys(found) == keys
    chains = len(list((tmp_path / "live").glob("chain-*.json")))
    assert len(asked) <= 40 - sealed + chains


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_inventory_live import filled, listing, memory_place, watch
memory_place.PAGE_KEYS = 5
place = filled([f"{number:05d}" for number in range(500)])
def kill(number):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
watch(place, kill)
listing(Path(sys.argv[1]), place)
"""


@pytest.mark.parametrize("page", [1, 7, 60])
def test_killed_process_is_gone_on_from(tmp_path: Path, pages_of_five: None, page: int) -> None:
    """kill -9 in the middle: the next process has the lock at once and asks for no sealed page again."""
    here = Path(__file__).parent
    arguments = map(str, (tmp_path, page, here, here.parent))
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=60, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    sealed = sum(1 for _ in (tmp_path / "live").glob("*.parquet"))
    keys = [f"{number:05d}" for number in range(500)]
    place = filled(keys)
    asked = watch(place)
    assert listed_keys(listing(tmp_path, place)) == keys
    chains = len(list((tmp_path / "live").glob("chain-*.json")))
    assert len(asked) <= 100 - sealed + 2 * chains + 20  # the rest, a last page a chain, and looking for cuts


def test_failure_of_the_listing_is_raised_and_never_reads_as_the_end(tmp_path: Path, pages_of_five: None) -> None:
    """Invariant 4: with an error on any page there is no inventory; without it there is."""
    keys = [f"{number:05d}" for number in range(40)]
    for page in (1, 2, 5, 8):
        place = filled(keys)

        def deny(number: int, page: int = page) -> None:
            if number >= page:
                raise DeniedError("us", "list")

        watch(place, deny)
        folder = tmp_path / str(page)
        for _ in range(2):
            with pytest.raises(DeniedError):
                listing(folder, place)
        watch(place)
        assert listed_keys(listing(folder, place)) == keys


def test_passing_fault_is_asked_again_from_where_it_was(tmp_path: Path, pages_of_five: None) -> None:
    """A time-out in the middle of a chain loses and repeats nothing."""
    keys = [f"{number:05d}" for number in range(40)]
    place = filled(keys)

    def drop(number: int) -> None:
        if number == 3:
            raise TransientStoreError("us", "list")

    asked = watch(place, drop)
    assert listed_keys(listing(tmp_path, place)) == keys
    assert len(asked) > 3


class Echoing(MemoryStore):
    """Repeats the key to start after in its answer, as Ceph's gateway does: what XML cannot hold breaks it."""

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        if re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", prefix + start_after):
            raise PermanentStoreError("us", "list", "not well-formed")
        return super().list(prefix, start_after=start_after)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(st.text(st.sampled_from("ab/\x01\uffff🙂"), min_size=1, max_size=6), max_size=60),
    drop=st.integers(1, 20),
)
def test_listing_goes_on_from_keys_that_a_server_cannot_repeat(
    tmp_path: Path, pages_of_five: None, keys: set[str], drop: int
) -> None:
    """A chain, a cut or a retry that begins after such a key loses and repeats nothing."""
    place = filled(sorted(keys))

    def once(number: int) -> None:
        if number == drop:
            raise TransientStoreError("us", "list")

    watch(place, once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migrate.inventory.aside.RETRY_WAIT_SECONDS", 0.0)
        found = listing_anew(tmp_path, place, store=Echoing("us", place))
    assert listed_keys(found) == sorted(keys)


class Disordered(MemoryStore):
    """Lists as some servers do: by folders first, or one key twice."""

    order: Callable[[list[ObjectInfo]], list[ObjectInfo]]

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        for page in super().list(prefix, start_after=start_after):
            yield self.order(list(page))


@pytest.mark.parametrize("order", [lambda page: page[::-1], lambda page: [page[0], *page]])
def test_listing_out_of_order_is_refused(tmp_path: Path, order: Callable[[list[ObjectInfo]], list[ObjectInfo]]) -> None:
    """A store that lists out of order would lose keys when a listing goes on from a last key; in order it passes."""
    place = filled(["a", "b"])
    store = Disordered("us", place)
    store.order = list
    assert listing(tmp_path / "good", place, store=store).rows == 2
    store.order = order
    with pytest.raises(InputError, match="not in the order"):
        listing(tmp_path / "bad", place, store=store)


def test_finished_listing_serves_until_it_is_forgotten_or_too_old(tmp_path: Path) -> None:
    """It is taken up without a request; one that is forgotten, too old, or of another place, is made anew."""
    place = filled(["a"])
    asked = watch(place)

    def requests(**options: Any) -> int:
        asked.clear()
        listing(tmp_path, place, **options)
        return len(asked)

    assert requests() == 1
    assert requests() == 0
    forget_listing(tmp_path / "live")
    assert requests() == 1
    assert requests(now=lambda: NOW + timedelta(hours=1)) == 0
    assert requests(now=lambda: NOW + timedelta(hours=1, seconds=1)) == 1
    assert requests(place="elsewhere", now=lambda: NOW + timedelta(hours=2)) == 1


@pytest.mark.parametrize("size", [-1, 2**60 + 1, 2**80])
def test_an_object_of_a_size_that_none_has_ends_the_listing(tmp_path: Path, size: int) -> None:
    """What no column holds would end as a bug, or as somebody's bytes."""

    class Odd(MemoryStore):
        def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
            for page in super().list(prefix, start_after=start_after):
                yield [replace(info, size=size) for info in page]

    place = filled(["a"])
    with pytest.raises(InputError, match="none is so large"):
        listing(tmp_path, place, store=Odd("us", place))


def test_a_source_that_nobody_probed_is_asked_for_its_uploads(tmp_path: Path) -> None:
    """Whether a source joins parts is never probed; a store that has no uploads says so, and the count is unknown, not none."""
    place = MemoryPlace(now=clock)
    MemoryStore("us", place).create_upload("huge", attributes=Attributes())
    stranger = MemoryStore("us", place, capabilities=Capabilities())
    assert listing(tmp_path / "asked", place, store=stranger).counts.open_uploads == 1

    def fault(operation: str, key: str) -> None:
        if operation == "list_uploads":
            raise UnsupportedError("us", operation)

    place.fault = fault
    assert listing(tmp_path / "refused", place, store=stranger).counts.open_uploads is None


def test_unfinished_listing_that_is_too_old_begins_anew(tmp_path: Path, pages_of_five: None) -> None:
    """What was listed before the maximum age is not mixed with what is listed now."""
    place = filled([f"{number:05d}" for number in range(40)])

    def deny(number: int) -> None:
        if number == 6:
            raise DeniedError("us", "list")

    watch(place, deny)
    with pytest.raises(DeniedError):
        listing(tmp_path, place)
    watch(place)
    later = NOW + timedelta(hours=2)
    assert listing(tmp_path, place, now=lambda: later).started == later


def test_lost_segment_is_an_integrity_error(tmp_path: Path, pages_of_five: None) -> None:
    """Sealed segments that have gone, or hold other rows, are noticed before anybody plans with them."""
    place = filled([f"{number:05d}" for number in range(40)])
    found = listing(tmp_path, place)
    assert listing(tmp_path, place).rows == 40
    next(found.folder.glob("*.parquet")).unlink()
    with pytest.raises(IntegrityError, match="40 were sealed"):
        listing(tmp_path, place)


def test_stop_is_heard_while_the_store_is_silent(tmp_path: Path, pages_of_five: None) -> None:
    """The main thread leaves within seconds though a request never answers, and the next run goes on."""
    keys = [f"{number:05d}" for number in range(40)]
    place = filled(keys)
    silent, answer = threading.Event(), threading.Event()

    def hang(number: int) -> None:
        if number == 4:
            silent.set()
            answer.wait(60)

    watch(place, hang)
    began = time.monotonic()
    with pytest.raises(InterruptedRun):
        desk(tmp_path).take(MemoryStore("us", place), is_stopping=silent.is_set)
    assert time.monotonic() - began < 10
    answer.set()
    watch(place)
    deadline = time.monotonic() + 10
    while True:  # the thread that was cut off holds the lock until it has come back
        try:
            taken = desk(tmp_path).take(MemoryStore("us", place))
            break
        except LaterError:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
    assert [row[0] for row in rows(taken.glob)] == keys


def test_two_processes_do_not_list_into_one_folder(tmp_path: Path) -> None:
    """The lock is the kernel's: while another holds it the listing is refused as later, then it goes."""
    with (tmp_path / "live.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LaterError):
            listing(tmp_path, filled(["a"]))
    assert listing(tmp_path, filled(["a"])).rows == 1


@pytest.mark.parametrize("error", [UnsupportedError, DeniedError])
def test_counts_are_unknown_where_the_store_does_not_tell(tmp_path: Path, error: type[Exception]) -> None:
    """What could not be counted is None and not nought; objects are listed all the same."""
    place = filled(["a"])

    def fault(operation: str, key: str) -> None:
        if operation in ("list_versions", "list_uploads"):
            raise error("us", operation)

    place.fault = fault
    found = listing(tmp_path, place)
    assert (found.rows, found.counts.noncurrent, found.counts.open_uploads) == (1, None, None)
    poor = MemoryStore("us", filled(["a"]), capabilities=Capabilities())
    assert listing(tmp_path, filled(["a"]), store=poor).counts.delete_markers is None


def test_object_named_like_the_prefix_is_left_out_and_counted(tmp_path: Path) -> None:
    """Relative to the store's prefix it has no name: it is counted, and does not end the listing."""
    place = filled(["a"])
    store = Disordered("us", place)
    store.order = lambda page: [ObjectInfo("", 0, "x", NOW), *page]
    found = listing(tmp_path, place, store=store)
    assert (listed_keys(found), found.left_out) == (["a"], 1)


def test_finding_cuts_is_bounded_whatever_the_number_of_prefixes(pages_of_five: None) -> None:
    """Invariant 11: a prefix for each of many users costs no more requests and cuts than a few prefixes do."""
    place = filled([f"users/{number:05d}/x" for number in range(3000)])
    asked = watch(place)
    cuts = cut_points(MemoryStore("us", place), after="users/00001/x")
    assert len(asked) <= 40
    assert 1 < len(cuts) <= CUTS_MAX
    assert cuts == sorted(set(cuts))
    assert cut_points(MemoryStore("us", filled(["a", "b"])), after="b") == sorted(
        cut for cut in cut_points(MemoryStore("us", filled([])), after="b") if cut > "b"
    )


def test_progress_counts_every_object_once(tmp_path: Path, pages_of_five: None) -> None:
    """The count that is shown ends at the number of objects, also after a resume."""
    shown: list[int] = []
    place = filled([f"{number:05d}" for number in range(40)])
    listing(tmp_path, place, on_progress=lambda _name, seen: shown.append(seen))
    assert max(shown) == 40
