"""`migrate forget`: a request for deletion wins over copying, erases what is ours and nothing else, and nothing comes back."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import SmallWorld, build, listed, planned

from migrate.errors import DeniedError, LaterError, WaveWaitsError
from migrate.inventory.forgotten import remembered
from migrate.jobs.forget_user import _is_like, _listed
from migrate.jobs.waves import choose_waves
from migrate.ledger import EventKind, Ledger, WaveProgress
from migrate.model import Attributes, ObjectInfo, Outcome
from migrate.pauses import VARIABLE
from migrate.routing import FreezeLimits
from migrate.routing.sql import SqlRouter
from migrate.spec import RoutingColumns
from migrate.states import BatchState, UserState
from migrate.stores.file import FileStore
from migrate.stores.memory import ALL_CAPABILITIES, MemoryStore
from migrate.stores.memory_place import MemoryPlace
from migrate.transfer.caller import Caller
from migrate.workspace import Workspace

IMAGE = Attributes(content_type="image/jpeg")
TARGETS = ("dublin-1", "dublin-2", "hamar")
NOBODY_IS_LATE = "import migrate.jobs.elsewhere; migrate.jobs.elsewhere.LATE_SECONDS = 0"
ROUTING = '\n[routing]\ndrain_seconds = "1s"\nfreeze_seconds_max = "15s"\n'


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@made_once
def made(root: Path, ledger: str | None, *, users: int = 5, per_user: int = 3, copies_max: int = 60) -> SmallWorld:
    world = build(root, users=users, per_user=per_user, copies_max=copies_max, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    spec.write_text(spec.read_text() + ROUTING, encoding="utf-8")
    world.ledger = ledger
    planned(world)
    return world


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else None


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Copied and verified, on SQLite."""
    return verified(tmp_path, None)


@made_once
def verified(root: Path, ledger: str | None) -> SmallWorld:
    world = made(root, ledger)
    do(world, "run", "--wave", "all")
    do(world, "verify")
    return world


def do(world: SmallWorld, *words: str, code: int = 0) -> Any:
    answer = world.migrate(*words, "--json")
    assert answer.code == code, (words, answer.code, answer.out, answer.err)
    demand_sums(world)
    return answer.json


def forget(world: SmallWorld, *users: str, code: int = 0, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Forget users; what became of each."""
    words = [word for user in users for word in ("--user", user)]
    found = do(world, "forget", *words, *more, code=code)
    assert found["exit_code"] == code
    return {each["user"]: each for each in found["users"]}


def demand_sums(world: SmallWorld) -> None:
    """Invariant 3, by `status` and by the counters over their rows."""
    for wave in world.migrate("status", "--json").json.get("standing", ()):
        assert sum(wave["outcomes"].values()) == wave["copies"]
        assert min(wave["outcomes"].values()) >= 0
    with opened(world) as ledger:
        for plan in ledger.plans():
            ledger.check_counters(plan.id)


@contextmanager
def opened(world: SmallWorld) -> Iterator[Ledger]:
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def routes_of(world: SmallWorld) -> Iterator[SqlRouter]:
    with opened(world) as ledger:
        columns = RoutingColumns(writers="writers")
        yield SqlRouter(ledger.database, "routes", columns, default_home="us", limits=FreezeLimits(1, 15))


def state(world: SmallWorld, user: str) -> UserState:
    with opened(world) as ledger:
        row = ledger.user(user)
    assert row is not None
    return row.state


def of_user(world: SmallWorld, user: str) -> list[tuple[str, str]]:
    """What stands at the targets of a user."""
    return sorted(place for place in world.at_targets() if place[1].startswith(f"users/{user}/"))


def of_user_at(world: SmallWorld, store: str, user: str) -> list[str]:
    """The keys of a user at one store."""
    return [info.key for info in listed(world.store(store)) if info.key.startswith(f"users/{user}/")]


def outcomes(world: SmallWorld) -> dict[str, int]:
    found: dict[str, int] = {}
    for wave in world.migrate("status", "--json").json.get("standing", ()):
        for outcome, number in wave["outcomes"].items():
            found[outcome] = found.get(outcome, 0) + number
    return found


def home_of(world: SmallWorld, user: str) -> str:
    with opened(world) as ledger:
        row = ledger.user(user)
    assert row is not None
    return str(row.home)


def without(world: SmallWorld, *users: str) -> None:
    """From now on nothing of these users is to be at any target."""
    for key in [key for key in world.objects if key.split("/")[1] in users]:
        del world.objects[key]


@contextmanager
def stopped_at(world: SmallWorld, point: str, *words: str, code: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own that has stopped itself at a point; it goes on, to its end, once the block is left."""
    process = world.start(*words, program=NOBODY_IS_LATE, **{VARIABLE: point})
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), (process.stdout.read(), process.stderr.read())  # type: ignore[union-attr]
        yield process
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, (out, err)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)


def test_who_is_forgotten_amid_the_move_does_not_come_back(tmp_path: Path, ledger_url: str | None) -> None:
    """The mark is set while a run holds the plan, which copies nothing more of the user; the second command erases; no run,
    delta, verification or repair brings anything back (Invariants 2, 3 and 9)."""
    world = made(tmp_path, ledger_url, copies_max=6)
    with stopped_at(world, "batch-leased:1", "run", "--wave", "all"):
        found = forget(world, "u001", code=75)
        assert (found["u001"]["result"], state(world, "u001")) == ("forgotten", UserState.FORGOTTEN)
        assert forget(world, "u001", code=75)["u001"]["result"] == "forgotten"
    do(world, "run")
    assert (of_user(world, "u001"), outcomes(world)["withdrawn"]) == ([], 6)
    assert forget(world, "u001")["u001"]["result"] == "erased"
    without(world, "u001")
    world.assert_all_there()

    def again() -> None:
        world.assert_all_there()
        assert state(world, "u001") is UserState.FORGOTTEN
        found = forget(world, "u001")["u001"]
        assert (found["result"], found["objects"]) == ("erased before", None)

    again()
    do(world, "verify", "--wave", "all", "--level", "both-ends")
    world.put_source("users/u001/new.jpg", b"new")
    world.put_source("users/u002/new.jpg", b"new")
    without(world, "u001")
    for words in (
        ("delta",),
        ("run", "--wave", "all"),
        ("verify", "--wave", "all"),
        ("verify", "--wave", "all", "--repair"),
        ("run",),
    ):
        do(world, *words)
        if words != ("delta",):
            again()
    do(world, "run", "--retry-quarantined", "--wave", "all")
    again()


def test_a_batch_under_way_begins_no_more_copies_of_who_is_forgotten(tmp_path: Path) -> None:
    """One batch of two users: the second is forgotten when the first group of receipts is written. What was copied by then is
    erased, the rest never made."""
    world = made(tmp_path, None, users=2, per_user=200, copies_max=2_000)
    late = max(world.users, key=lambda user: hashlib.sha256(user.encode()).digest())
    with stopped_at(world, "group-committed:1", "run", "--wave", "all", "--workers", "1"):
        assert forget(world, late, code=75)[late]["result"] == "forgotten"
    there = of_user(world, late)
    assert len(there) < 400
    assert outcomes(world)["withdrawn"] == 400 - len(there) > 0
    found = forget(world, late)[late]
    assert (found["result"], found["objects"]) == ("erased", len(there))
    without(world, late)
    world.assert_all_there()
    do(world, "verify", "--wave", "all")


def test_only_those_who_are_named_go(world: SmallWorld, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Two by stdin, as hostile ids have to be given; nobody stands in arguments, logs or the run's row (Invariant 10). Each is
    told of in the history, once."""
    monkeypatch.setattr("sys.stdin", io.StringIO("u001\nu003\nu001\n"))
    answer = world.migrate("forget", "--user", "-", "--reason", "request 7")
    assert answer.code == 0, answer.err
    assert "u001" in answer.out
    assert "u00" not in answer.err
    without(world, "u001", "u003")
    world.assert_all_there()
    with opened(world) as ledger:
        (run,) = [row for row in ledger.runs(20) if row.verb == "forget"]
        assert run.arguments == {"users": 2}
        told = [(event.kind, event.to_state, event.note) for event in ledger.history("u003")]
    assert told == [(EventKind.MOVE, UserState.FORGOTTEN, "request 7"), (EventKind.ERASED, None, None)]
    assert "erased at the targets" in world.migrate("status", "--user", "u003").out
    assert world.migrate("where", "u003", "--json").json["state"] == "forgotten"
    do(world, "verify", "--wave", "all")


def test_a_dry_run_says_what_would_go_and_changes_nothing(world: SmallWorld) -> None:
    before = world.at_targets()
    found = forget(world, "u001", more=("--dry-run",))["u001"]
    assert (found["result"], found["state_before"]) == ("to be erased", "verified")
    assert (found["objects"], found["left"]) == (6, {})
    assert found["size_bytes"] == sum(len(held[0]) for (_, key), held in before.items() if "/u001/" in key)
    assert (world.at_targets(), state(world, "u001")) == (before, UserState.VERIFIED)
    with opened(world) as ledger:
        assert ledger.history("u001") == []
        assert "forget" not in {row.verb for row in ledger.runs(20)}
    assert forget(world, "u001")["u001"]["objects"] == 6


def test_a_hold_goes_before_the_request(world: SmallWorld) -> None:
    """On hold nothing is changed; also where the hold came after the mark, nothing is erased until it is released."""
    do(world, "hold", "--user", "u001", "--reason", "court order")
    before = world.at_targets()
    for words in ((), ("--dry-run",)):
        assert forget(world, "u001", code=75, more=words)["u001"]["result"] == "on hold"
    assert (world.at_targets(), state(world, "u001")) == (before, UserState.VERIFIED)
    do(world, "hold", "--user", "u001", "--release", "--reason", "settled")
    with opened(world) as ledger:
        run_id = ledger.runs(1)[0].id
        ledger.forgotten("u001", run_id, ledger.plans()[0].registered_at)
    do(world, "hold", "--user", "u001", "--reason", "court order")
    assert forget(world, "u001", "u002", code=75)["u001"]["result"] == "on hold"
    assert len(of_user(world, "u001")) == 6
    assert of_user(world, "u002") == []
    do(world, "hold", "--user", "u001", "--release", "--reason", "settled")
    assert forget(world, "u001")["u001"]["result"] == "erased"
    assert of_user(world, "u001") == []


def test_a_hold_that_comes_while_the_user_is_erased_stops_it(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the first deletion it is asked once more, in a transaction."""
    listed = FileStore.list

    def held(store: FileStore, *given: Any, **more: Any) -> Any:
        with opened(world) as ledger:
            ledger.hold("u001", "court order", operator="op", run_id=None, now=ledger.plans()[0].registered_at)
        return listed(store, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", held)
        assert forget(world, "u001", code=75)["u001"]["result"] == "on hold"
    assert len(of_user(world, "u001")) == 6


def test_who_cannot_be_forgotten_is_told_and_the_others_are(world: SmallWorld) -> None:
    """Nobody knows one, one is no person, one is purged: they are left as they are (78 goes before 4)."""
    with opened(world) as ledger, ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET state = 'purged' WHERE user_id = 'u002'")
    found = forget(world, "u001", "nobody", "/everywhere/small/1", "u002", code=78)
    results = {user: each["result"] for user, each in found.items()}
    assert results == {"u001": "erased", "nobody": "unknown", "/everywhere/small/1": "unknown", "u002": "purged"}
    assert len(of_user(world, "u002")) == 6
    assert forget(world, "u002", code=4)["u002"]["result"] == "purged"
    assert state(world, "u002") is UserState.PURGED


def test_words_that_name_nobody_are_refused(world: SmallWorld, tmp_path: Path) -> None:
    for words in ((), ("--user", ""), ("--reason", "x")):
        assert world.migrate("forget", *words).code == 2
    empty = SmallWorld(tmp_path / "empty", {})
    for more in ((), ("--dry-run",)):
        assert empty.migrate("forget", "--user", "u001", *more).code == 2
    assert not (tmp_path / "empty").exists()


def test_what_is_not_ours_stays_and_is_told(tmp_path: Path) -> None:
    """An object that a copy found in its way, and one that no copy stands for, are somebody's: both stay, with 4. Without them
    it is done (the twin)."""
    world = made(tmp_path, None)
    world.put("hamar", "users/u001/photo-0000.jpg", b"somebody's", IMAGE, {})  # u001 is of NO: hamar is home
    do(world, "run", "--wave", "all", code=4)
    world.put("hamar", "users/u001/extra.jpg", b"somebody's", IMAGE, {})
    do(world, "verify", "--wave", "all", code=3)
    assert forget(world, "u001", code=4, more=("--dry-run",))["u001"]["left"] == {"extra": 1, "occupied": 1}
    found = forget(world, "u001", code=4)["u001"]
    assert (found["result"], found["left"], found["objects"]) == ("left", {"extra": 1, "occupied": 1}, 5)
    assert of_user(world, "u001") == [("hamar", "users/u001/extra.jpg"), ("hamar", "users/u001/photo-0000.jpg")]
    assert forget(world, "u001", code=4)["u001"]["objects"] == 0
    do(world, "run", code=3)  # the EXTRA object stands
    for key in ("extra.jpg", "photo-0000.jpg"):
        world.store("hamar").delete(f"users/u001/{key}")
    assert forget(world, "u001")["u001"]["result"] == "erased"
    do(world, "run", code=4)  # the quarantined copy stays counted, until it is tried again
    do(world, "run", "--retry-quarantined", "--wave", "all")
    assert of_user(world, "u001") == []


def test_where_no_copy_ever_looked_nothing_is_touched(tmp_path: Path) -> None:
    """The batch was never leased: what stands at the planned key is somebody's, also where it is like the source."""
    world = made(tmp_path, None, copies_max=6)
    do(world, "run", "--wave", "0", code=75)
    user = next(user for user in world.users if state(world, user) is UserState.PLANNED)
    key = f"users/{user}/photo-0000.jpg"
    home = home_of(world, user)
    body, attributes, tags = world.objects[key]
    world.put(home, key, body, attributes, tags)
    assert forget(world, user, code=4, more=("--dry-run",))[user]["left"] == {"occupied": 1}
    found = forget(world, user, code=4)[user]
    assert (found["result"], found["objects"], found["left"]) == ("left", 0, {"occupied": 1})
    assert of_user(world, user) == [(home, key)]
    world.store(home).delete(key)
    assert forget(world, user)[user]["result"] == "erased"


def test_of_copies_without_a_receipt_only_what_is_like_the_source_goes(tmp_path: Path) -> None:
    """The batch was begun, and the copies withdrawn before they looked. An object of another size or another MD5 is somebody's;
    one that has both of the source may be a copy of ours (the twin)."""
    world = made(tmp_path, None, copies_max=6)
    with stopped_at(world, "batch-leased:1", "run", "--wave", "all"):
        forget(world, "u001", code=75)
    do(world, "run")
    assert (outcomes(world)["withdrawn"], of_user(world, "u001")) == (6, [])
    home = home_of(world, "u001")
    keys = [f"users/u001/photo-000{number}.jpg" for number in range(3)]
    bodies = [world.objects[key][0] for key in keys]
    for key, body in zip(keys, (bodies[0], bytes(len(bodies[1])), bodies[2] + b"more"), strict=True):
        world.put(home, key, body, IMAGE, {})
    found = forget(world, "u001", code=4)["u001"]
    assert (found["result"], found["objects"], found["left"]) == ("left", 1, {"occupied": 2})
    assert of_user(world, "u001") == [(home, key) for key in keys[1:]]


@pytest.mark.parametrize(
    ("etag", "source", "tells_md5", "is_like"),
    [
        ("a" * 32, "a" * 32, True, True),
        ("a" * 32, "b" * 32, True, False),
        ("a" * 32, "b" * 32, False, True),  # the target's is no MD5
        ("a" * 32 + "-2", "a" * 32 + "-2", True, True),
        ("a" * 32 + "-2", "b" * 32 + "-2", True, False),
        ("a" * 32 + "-2", "b" * 32, True, True),
        ("a" * 32, "b" * 32 + "-2", True, True),
    ],
)
def test_etags_are_compared_where_both_are_of_one_form(etag: str, source: str, tells_md5: bool, is_like: bool) -> None:
    info = ObjectInfo("k", 5, etag, datetime(2026, 1, 1, tzinfo=UTC))
    assert _is_like(info, 5, source, tells_md5) is is_like
    assert not _is_like(replace(info, size=6), 5, source, tells_md5)


def test_what_a_verification_found_wrong_of_them_is_no_difference_any_more(world: SmallWorld) -> None:
    """Invariant 9: until then a run ends with 3. A repair puts nothing of theirs back."""
    for user in ("u001", "u002"):
        for store, key in of_user(world, user)[:1]:
            world.store(store).delete(key)
    do(world, "verify", "--wave", "all", code=3)
    do(world, "run", code=3)
    forget(world, "u001")
    do(world, "verify", "--wave", "all", "--repair", code=3)
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    without(world, "u001")
    world.assert_all_there()


def test_who_is_only_marked_is_neither_verified_nor_copied_again(world: SmallWorld) -> None:
    """Before anything is erased: the mark alone is enough. What is known to be wrong of them stands until the erasure."""
    store, key = of_user(world, "u001")[0]
    world.store(store).delete(key)
    do(world, "verify", "--wave", "all", code=3)
    with opened(world) as ledger:
        ledger.forgotten("u001", ledger.runs(1)[0].id, ledger.plans()[0].registered_at)
    do(world, "verify", "--wave", "all", "--repair")
    do(world, "run", "--wave", "all", code=3)
    assert outcomes(world)["withdrawn"] == 0
    assert (store, key) not in of_user(world, "u001")
    forget(world, "u001")
    do(world, "run", "--wave", "all")


def test_nothing_is_erased_before_older_requests_have_come_to_rest(tmp_path: Path, postgres_url: str) -> None:
    """Invariant 2: a PUT of the last run could land after the deletion. The mark is set first, and a signal ends the waiting."""
    world = made(tmp_path, postgres_url)
    do(world, "run", "--wave", "all")
    process = world.start(
        "forget", "--user", "u001", program="import migrate.jobs.elsewhere as e; e.LATE_SECONDS = 3600"
    )
    assert process.stderr is not None
    try:
        assert any(b"waiting" in line for line in process.stderr)
        assert state(world, "u001") is UserState.FORGOTTEN
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert len(of_user(world, "u001")) == 6
    assert forget(world, "u001")["u001"]["objects"] == 6


def shown(store: MemoryStore) -> list[ObjectInfo]:
    """What an erasure sees of u001 there."""
    return _listed("hamar", ["users/u001/"], Caller(lambda _: store, concurrency=lambda _: 1))


def test_a_store_that_is_not_known_to_keep_versions_is_asked_for_them_all_the_same() -> None:
    """It may have begun to since it was probed. What such a store says of versions is added to what it lists, and never instead
    (Invariant 4)."""
    held = MemoryPlace(versioned=True)
    store = MemoryStore("hamar", held, capabilities=replace(ALL_CAPABILITIES, versions=False), writable=True)
    for key, body in (("users/u001/a", b"one"), ("users/u001/a", b"two"), ("users/u001/b", b"three")):
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        store.put(key, body, attributes=IMAGE, tags={}, md5=md5)
    store.delete("users/u001/b")
    found = [(info.key, info.is_latest, info.is_delete_marker) for info in shown(store)]
    assert sorted(found) == [
        ("users/u001/a", False, False),
        ("users/u001/a", True, False),
        ("users/u001/b", False, False),
        ("users/u001/b", True, True),
    ]
    held.able = replace(held.able, versions=False)
    assert [info.key for info in shown(store)] == ["users/u001/a"]


def test_who_may_not_list_versions_has_not_seen_that_there_are_none() -> None:
    """Older versions would be left, and the user told to be erased (Invariant 4)."""

    class Denying(MemoryStore):
        def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
            raise DeniedError(self.name, "list versions")

    held = MemoryPlace(versioned=True)
    with pytest.raises(DeniedError):
        shown(Denying("hamar", held, capabilities=replace(ALL_CAPABILITIES, versions=False)))


def test_a_target_that_cannot_be_listed_leaves_its_users_to_the_next_command(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """69, and nothing of them is called erased (Invariant 4); they are marked, so no run copies anything of them, and the same
    words go on."""
    listed = FileStore.list
    home = home_of(world, "u001")

    def denied(store: FileStore, prefix: str = "", **more: Any) -> Any:
        if store.name == home and "u001" in prefix:
            raise DeniedError(store.name, "LIST")
        return listed(store, prefix, **more)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", denied)
        found = forget(world, "u001", "u002", code=69)
    assert (found["u001"]["result"], found["u002"]["result"]) == ("failed", "erased")
    assert state(world, "u001") is UserState.FORGOTTEN
    do(world, "run", "--wave", "all")
    assert forget(world, "u001")["u001"]["result"] == "erased"
    without(world, "u001", "u002")
    world.assert_all_there()


def test_of_two_that_forget_at_once_one_erases(tmp_path: Path, ledger_url: str | None) -> None:
    """The other marks, and says to come again. The first is not disturbed."""
    world = made(tmp_path, ledger_url)
    do(world, "run", "--wave", "all")
    with stopped_at(world, "object-erased:2", "forget", "--user", "u001"):
        found = forget(world, "u001", "u002", code=75)
        assert {each["result"] for each in found.values()} == {"forgotten"}
    found = forget(world, "u001", "u002")
    assert (found["u001"]["result"], found["u002"]["result"]) == ("erased before", "erased")
    without(world, "u001", "u002")
    world.assert_all_there()


# who lives, or lived, at the new home


def cut_over(world: SmallWorld) -> None:
    do(world, "cutover", "--wave", "all")


def test_what_the_platform_writes_at_the_new_home_is_the_platforms(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of who was cut over only what has a receipt's ETag goes; what was changed or written since stays, with 4, until the
    platform has erased it. A rollback that sent it back, and broke off, has made none of it ours."""
    cut_over(world)
    home = home_of(world, "u001")
    world.put(home, "users/u001/photo-0000.jpg", b"changed in europe", IMAGE, {})
    world.put(home, "users/u001/new.jpg", b"written in europe", IMAGE, {})

    def refused(*_: Any) -> None:
        raise LaterError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "flip", refused)
        do(world, "rollback", "--user", "u001", "--send-back", "Ms Counsel", code=4)
    found = forget(world, "u001", code=4)["u001"]
    assert (found["state_before"], found["objects"], found["left"]) == ("observing", 5, {"platform": 2})
    mine = [(home, "users/u001/new.jpg"), (home, "users/u001/photo-0000.jpg")]
    assert of_user(world, "u001") == mine
    do(world, "sweep", code=3)
    for store, key in mine:
        world.store(store).delete(key)
    assert forget(world, "u001")["u001"]["result"] == "erased"
    without(world, "u001")
    world.assert_all_there()


def test_what_the_platform_writes_amid_the_erasure_stays(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder has no versions: an object is looked at again right before it goes."""
    cut_over(world)
    home = home_of(world, "u001")
    head = FileStore.head

    def writing(store: FileStore, key: str, **given: Any) -> Any:
        if store.name == home and key.endswith("u001/photo-0001.jpg"):
            world.put(home, key, b"written in europe", IMAGE, {})
        return head(store, key, **given)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "head", writing)
        assert forget(world, "u001", code=4)["u001"]["left"] == {"platform": 1}
    assert of_user(world, "u001") == [(home, "users/u001/photo-0001.jpg")]


@pytest.mark.parametrize(("verb", "lives"), [("freeze", False), ("flip", True)])
def test_where_a_cutover_was_killed_the_platform_says_whether_they_moved(
    world: SmallWorld, verb: str, lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has the user frozen, and knows no more: whoever was flipped writes at the new home, and that is not ours. It is
    written down, so that a purge reaches what the sources have of who was flipped, and of nobody else."""
    inner = getattr(SqlRouter, verb)

    class Killed(BaseException):
        pass

    def killing(router: SqlRouter, *given: Any) -> Any:
        inner(router, *given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, verb, killing)
        assert world.migrate("cutover", "--wave", "all").code != 0
    user = next(user for user in world.users if state(world, user) is UserState.FROZEN)
    home = home_of(world, user)
    world.put(home, f"users/{user}/photo-0000.jpg", b"written in europe", IMAGE, {})
    found = forget(world, user, code=4 if lives else 0)[user]
    assert found["left"] == ({"platform": 1} if lives else {})
    with routes_of(world) as routes:
        assert routes.read(user).frozen_by is None
    with opened(world) as ledger:
        move = ledger.move_of(user)
        assert move is not None
        assert (move.flipped_at is not None, move.unfrozen_at is not None) == (lives, not lives)
    looked = do(world, "purge", "--wave", "all", "--dry-run", code=4)
    assert looked["users"]["ready"] == lives
    if lives:
        do(world, "purge", "--wave", "all", "--confirm", looked["purge"]["digest"])
    left = {store for store in ("us", "singapore") if of_user_at(world, store, user)}
    assert left == (set() if lives else {"us", "singapore"})


def test_who_lived_there_once_has_lived_there(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved, taken back, planned anew, and the second cutover broke off: the move's row says nothing of the first any more."""
    cut_over(world)
    home = home_of(world, "u001")
    do(world, "rollback", "--wave", "all")
    do(world, "delta")
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")

    def refused(*_: Any) -> None:
        raise LaterError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "flip", refused)
        do(world, "cutover", "--wave", "all", "--max-failures", "99", code=4)
    with opened(world) as ledger:
        move = ledger.move_of("u001")
    assert move is not None
    assert (move.flipped_at, move.rolled_back_at) == (None, None)
    world.put(home, "users/u001/photo-0000.jpg", b"written in europe", IMAGE, {})
    assert forget(world, "u001", code=4)["u001"]["left"] == {"platform": 1}
    assert of_user(world, "u001") == [(home, "users/u001/photo-0000.jpg")]


def test_who_is_forgotten_amid_the_own_cutover_is_not_flipped(tmp_path: Path, ledger_url: str | None) -> None:
    """The platform keeps the user's writers off when the request comes: the cutover takes it back, and nothing stays frozen."""
    world = made(tmp_path, ledger_url, users=2)
    do(world, "run", "--wave", "all")
    do(world, "verify")
    with stopped_at(world, "user-frozen:1", "cutover", "--wave", "all", code=4):
        user = next(user for user in world.users if state(world, user) is UserState.FROZEN)
        assert forget(world, user, code=75)[user]["result"] == "forgotten"
    with routes_of(world) as routes:
        assert (routes.read(user).home, routes.read(user).frozen_by) == ("us", None)
    assert state(world, user) is UserState.FORGOTTEN
    assert forget(world, user)[user]["result"] == "erased"
    without(world, user)
    world.assert_all_there()
    (other,) = set(world.users) - {user}
    do(world, "cutover", "--wave", "all")
    assert state(world, other) is UserState.OBSERVING


def test_whom_another_ledger_has_moved_lives_where_the_platform_says(world: SmallWorld) -> None:
    """This ledger knows of no move. The twin: of who has not moved, all that stands at our keys goes."""
    with routes_of(world) as routes:
        routes.freeze("u001", "t" * 64, 15)
        routes.flip("u001", "t" * 64, home_of(world, "u001"))
        routes.unfreeze("u001", "t" * 64)
    for user in ("u001", "u002"):
        world.put(home_of(world, user), f"users/{user}/photo-0000.jpg", b"written in europe", IMAGE, {})
    found = forget(world, "u001", "u002", code=4)
    assert (found["u001"]["left"], found["u002"]["left"]) == ({"platform": 1}, {})
    assert of_user(world, "u001") == [(home_of(world, "u001"), "users/u001/photo-0000.jpg")]


def test_what_a_cutover_has_copied_late_goes_too(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cutover that was broken off: no plan names it. Its rows, which hold keys, go with it."""
    world.put_source("users/u001/new.jpg", b"new")

    def refused(*_: Any) -> None:
        raise LaterError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "flip", refused)
        do(world, "cutover", "--wave", "all", "--max-failures", "99", code=4)
    assert len(of_user(world, "u001")) == 8
    assert forget(world, "u001")["u001"]["objects"] == 8
    with opened(world) as ledger:
        assert ledger.late_of(["u001"]) == {}
    without(world, "u001")
    world.assert_all_there()


def test_a_lost_seal_keeps_nothing_of_who_never_moved_and_everything_of_who_did(world: SmallWorld) -> None:
    """Without receipts nobody can tell what is the platform's (5)."""
    moved = home_of(world, "u001")
    assert moved
    do(world, "cutover", "--wave", "0")
    users = {user: state(world, user) for user in world.users}
    lived = next(user for user, found in users.items() if found is UserState.OBSERVING)
    never = next(user for user, found in users.items() if found is UserState.VERIFIED)
    for path in (world.root / ".migrate" / "seals").rglob("receipts-*.parquet"):
        path.unlink()
    found = forget(world, lived, never, code=5)
    assert (found[lived]["result"], found[never]["result"]) == ("failed", "erased")
    assert (len(of_user(world, lived)), of_user(world, never)) == (6, [])


# later plans


def test_a_delta_from_before_the_request_is_run_and_copies_nothing_of_them(
    tmp_path: Path, ledger_url: str | None
) -> None:
    """It had planned a new object of the user, who stays forgotten; its copies are withdrawn, and sums hold (Invariant 3)."""
    world = verified(tmp_path, ledger_url)
    for user in ("u001", "u002"):
        world.put_source(f"users/{user}/new.jpg", b"new")
    do(world, "delta")
    forget(world, "u001")
    without(world, "u001")
    do(world, "run", "--wave", "all")
    assert (outcomes(world)["withdrawn"], state(world, "u001")) == (2, UserState.FORGOTTEN)
    do(world, "verify", "--wave", "all")
    world.assert_all_there()
    assert forget(world, "u001")["u001"]["result"] == "erased before"


def test_who_is_forgotten_and_gone_from_the_directory_blocks_no_delta(world: SmallWorld) -> None:
    """The platform has taken the row out, and not yet the objects: they stay at the source, and are nobody's orphans. Of who is
    not forgotten, a row that is gone blocks (the twin)."""
    forget(world, "u001")
    without(world, "u001")
    users = world.root / "users.csv"
    lines = users.read_text().splitlines()
    users.write_text("\n".join(line for line in lines if not line.startswith("u001,")) + "\n")
    assert do(world, "delta")["blockers"] == []
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    world.assert_all_there()
    users.write_text("\n".join(line for line in lines if not line.startswith(("u001,", "u002,"))) + "\n")
    assert {found["kind"] for found in do(world, "delta", "--dry-run")["blockers"]} == {"orphan", "vanished"}


def test_a_plan_of_others_copies_nothing_of_who_is_forgotten_and_stops_nobody(
    tmp_path: Path, ledger_url: str | None
) -> None:
    """Another directory of the same sources still names them: the plan is run for everybody else, and says whom it leaves out.
    Nothing of theirs is copied, now or by its delta, sums hold (Invariant 3), and nobody is verified for it. Whoever is not
    forgotten keeps the plan from this ledger (the twin)."""
    world = made(tmp_path, ledger_url)
    do(world, "run", "--wave", "all")
    header, *rows = (tmp_path / "users.csv").read_text().splitlines()
    others = [row for row in rows if row.startswith(("u001,", "u002,"))]
    new = [row.replace("u001", user) for row in others for user in ("v001", "v002", "v003") if "u001" in row]
    spec = (tmp_path / "plans" / "small.toml").read_text()
    spec = spec.replace('name = "small"', 'name = "others"', 1).replace('"users.csv"', '"others.csv"')
    (tmp_path / "plans" / "others.toml").write_text(spec + '\n[orphans]\npolicy = "keep"\n')
    for user in ("v001", "v002", "v003"):
        world.users[user] = world.users["u001"]
        world.put_source(f"users/{user}/photo.jpg", user.encode())

    def plan_of(*users: str) -> None:
        (tmp_path / "others.csv").write_text("\n".join([header, *users]) + "\n")
        do(world, "plan", str(tmp_path / "plans" / "others.toml"))

    plan_of(*others, *new)
    forget(world, "u001")
    without(world, "u001")
    assert "already in another plan" in world.migrate("run", "--wave", "all").err
    forget(world, "u002", more=("--reason", "request 9"))
    without(world, "u002")
    done = do(world, "run", "--wave", "all")
    assert [each["what"] for each in done["problems"]] == [
        "2 users of the plan are forgotten in another plan of this ledger: nothing of theirs is copied"
    ]
    assert outcomes(world)["withdrawn"] == 2 * 2 * 3
    do(world, "verify", "--wave", "all")
    world.assert_all_there()
    world.put_source("users/u001/new.jpg", b"new")
    world.put_source("users/v001/new.jpg", b"new")
    without(world, "u001")
    assert do(world, "delta")["blockers"] == []
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    world.assert_all_there()
    assert state(world, "u001") is UserState.FORGOTTEN


def test_a_plan_on_a_ledger_of_its_own_copies_nothing_of_who_is_forgotten_in_the_workspace(world: SmallWorld) -> None:
    """It takes the place of the one in whose ledger they are, with the same directory, and nobody minds that it would have placed
    them elsewhere. A line that a killed process has not written to its end is nobody (the twin), and hides nobody."""
    listed = world.root / ".migrate" / "forgotten.jsonl"
    forget(world, "u001")
    with listed.open("a") as file:
        file.write('"u00')
    forget(world, "u002", "u001")
    assert sorted(remembered(Workspace(world.root))) == ["u001", "u002"]
    assert listed.stat().st_mode & 0o077 == 0
    without(world, "u001", "u002")
    world.assert_all_there()
    spec = world.root / "plans" / "small.toml"
    rule = '[[placement.rules]]\nname = "{}"\ncountries = ["NO'
    norway = (
        f'{rule.format("norway")}"]\nhome = ["dublin-1"]\nbackup = ["dublin-2"]\n'  # where u001 lives, and nobody else
    )
    spec.write_text(spec.read_text().replace(rule.format("nordic"), norway + rule.format("nordic")))
    planned(world)
    world.ledger = f"sqlite:///{world.root}/.migrate/another.sqlite"
    do(world, "run", "--wave", "all")
    do(world, "verify", "--wave", "all")
    world.assert_all_there()
    assert outcomes(world) == {**dict.fromkeys(outcomes(world), 0), "present": 18, "withdrawn": 12}
    assert forget(world, "u001")["u001"]["result"] == "erased"


@pytest.mark.parametrize(("forgotten", "waits"), [(1, True), (0, True), (3, False)])
def test_a_wave_whose_others_are_held_up_is_not_helped_by_who_is_forgotten(forgotten: int, waits: bool) -> None:
    """All others of the wave are quarantined: something is wrong that the next one would meet as well. Of a wave of nobody else
    there is nothing to learn (the twin)."""
    stuck = 3 - forgotten
    people = {UserState.QUARANTINED: stuck, UserState.FORGOTTEN: forgotten}
    settled = dict.fromkeys(Outcome, 0) | {Outcome.QUARANTINED: stuck, Outcome.WITHDRAWN: forgotten}
    first = WaveProgress(0, people, {BatchState.DONE: 1}, 3, 3, 3, settled, 0, 0, (0, stuck, forgotten), 0, 0)
    open_copies = dict.fromkeys(Outcome, 0) | {Outcome.PENDING: 1}
    second = WaveProgress(
        1, {UserState.PLANNED: 1}, {BatchState.PENDING: 1}, 1, 1, 1, open_copies, 0, 0, (0, 0, 0), 0, 0
    )
    if waits:
        with pytest.raises(WaveWaitsError):
            choose_waves("name", None, [first, second], ())
    else:
        assert choose_waves("name", None, [first, second], ()) == (1,)


def test_a_sweep_finds_what_is_left_of_who_is_forgotten(world: SmallWorld) -> None:
    """They may be nowhere; of everybody else the same objects are right (the twin)."""
    do(world, "sweep")
    with opened(world) as ledger:
        ledger.forgotten("u001", ledger.runs(1)[0].id, ledger.plans()[0].registered_at)
    found = do(world, "sweep", "--list", "stray", code=3)
    assert found["found"]["stray"]["number"] == 6
    assert {item["user_id"] for item in found["listed"]["findings"]} == {"u001"}
    assert {item["detail"] for item in found["listed"]["findings"]} == {"the user is forgotten"}
    forget(world, "u001")
    do(world, "sweep")


# buckets


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_version_goes_and_every_upload(
    tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Versions, delete markers and unfinished uploads of the user, also in a bucket that keeps versions only since `doctor`
    looked; of others nothing is touched."""
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=3, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, per_user=2)
    client: Any = moto_server.boto3()

    def keep_versions() -> None:
        for name in TARGETS:
            client.put_bucket_versioning(Bucket=buckets[name], VersioningConfiguration={"Status": "Enabled"})

    spec = str(world.root / "plans" / "small.toml")
    if when == "before":
        keep_versions()
    do_quietly(world, "doctor", spec)
    do_quietly(world, "plan", spec)
    do_quietly(world, "run", "--wave", "all")
    do_quietly(world, "verify")
    keep_versions()
    home = home_of(world, "u001")
    key = "data/users/u001/photo 0+ü.jpg"
    client.put_object(
        Bucket=buckets[home], Key=key, Body=client.get_object(Bucket=buckets[home], Key=key)["Body"].read()
    )
    client.delete_object(Bucket=buckets[home], Key="data/users/u001/photo 1+ü.jpg")
    client.create_multipart_upload(Bucket=buckets[home], Key="data/users/u001/film")
    client.create_multipart_upload(Bucket=buckets[home], Key="data/users/u002/other")
    before = {name: versions(client, buckets[name]) for name in TARGETS}
    found = forget(world, "u001")["u001"]
    assert (found["result"], found["uploads"]) == ("erased", 1)
    after = {name: versions(client, buckets[name]) for name in TARGETS}
    for name in TARGETS:
        assert after[name] == [version for version in before[name] if "/u001/" not in version[0]]
        assert after[name]
    assert [found["Key"] for found in client.list_multipart_uploads(Bucket=buckets[home]).get("Uploads", ())] == [
        "data/users/u002/other"
    ]
    assert forget(world, "u001")["u001"]["result"] == "erased before"


def test_the_platforms_versions_stay_where_the_user_lives(
    tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version of the platform's over one of ours: ours goes from below it."""
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=2, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, per_user=2)
    client: Any = moto_server.boto3()
    for name in TARGETS:
        client.put_bucket_versioning(Bucket=buckets[name], VersioningConfiguration={"Status": "Enabled"})
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text() + ROUTING)
    do_quietly(world, "doctor", str(spec))
    do_quietly(world, "plan", str(spec))
    do_quietly(world, "run", "--wave", "all")
    do_quietly(world, "verify")
    cut_over(world)
    home = home_of(world, "u001")
    key = "data/users/u001/photo 0+ü.jpg"
    written = client.put_object(Bucket=buckets[home], Key=key, Body=b"europe")["VersionId"]
    assert forget(world, "u001", code=4)["u001"]["left"] == {"platform": 1}
    mine = [version for name in TARGETS for version in versions(client, buckets[name]) if "/u001/" in version[0]]
    assert mine == [(key, written, "version")]


def do_quietly(world: SmallWorld, *words: str) -> None:
    answer = world.migrate(*words)
    assert answer.code == 0, (words, answer.out, answer.err)


def versions(client: Any, bucket: str) -> list[tuple[str, str, str]]:
    """Every version and delete marker, seen without the product's code."""
    answer = client.list_object_versions(Bucket=bucket, Prefix="data/users/")
    found = [(item["Key"], item["VersionId"], "version") for item in answer.get("Versions", ())]
    return sorted(found + [(item["Key"], item["VersionId"], "marker") for item in answer.get("DeleteMarkers", ())])
