"""A rollback from the gate to the old home, on both ledgers: who goes back, who stays, and that nothing comes or goes by it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
import routes as platforms
from kept import made_once
from purgeworld import confirmed, end_windows, purge
from routes import Hook, Platform
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import SmallWorld, body_of, build, planned
from test_cutover import (
    Broken,
    cutover,
    everything,
    homes,
    keep_from_flipping,
    ledger_of,
    placed,
    routes_of,
    states,
    verified,
)

from migrate.errors import DeniedError, LaterError, MoveRefusedError, TransientStoreError, UnreachableError
from migrate.ledger import Ledger
from migrate.model import Attributes
from migrate.routing.sql import SqlRouter
from migrate.states import UserState
from migrate.stores.file import FileStore

USERS = 6
EUROPE = Attributes(content_type="a/b")
SOURCES = ("us", "singapore")
HOOK_KEY = "0123456789abcdef, the hook's"


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Everybody lives at the new home, with what had changed by then."""
    return moved(tmp_path, request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


@pytest.fixture
def quick(tmp_path: Path) -> SmallWorld:
    """The same on SQLite alone."""
    return moved(tmp_path, None)


@made_once
def moved(root: Path, ledger: str | None, more: str = "") -> SmallWorld:
    """Three photos each; those of u003 and u004 were changed, added to and deleted while they were frozen."""
    world = verified(root, ledger, more)
    world.put_source("users/u003/new.jpg", b"new")
    world.put_source("users/u004/photo-0001.jpg", b"changed")
    for store in SOURCES:
        world.store(store).delete("users/u004/photo-0002.jpg")
    del world.objects["users/u004/photo-0002.jpg"]
    cutover(world)
    return world


def rollback(world: SmallWorld, *words: str, code: int = 0) -> dict[str, Any]:
    asked = words if "--user" in words else ("--wave", "all", *words)
    answer = world.migrate("rollback", *asked, "--json")
    assert answer.code == code, (answer.code, answer.out, answer.err)
    return dict(answer.json)


def backups(world: SmallWorld) -> dict[str, str]:
    with ledger_of(world) as ledger:
        rows = [ledger.user(user) for user in world.users]
    return {row.user_id: str(row.backup) for row in rows if row is not None}


def held(world: SmallWorld, *stores: str) -> dict[tuple[str, str], str]:
    """By store and key, the ETags of all that stands there."""
    return {(name, info.key): info.etag for name in stores for page in world.store(name).list() for info in page}


def delete_in_europe(world: SmallWorld, key: str, *, backup: bool = True) -> None:
    """As the platform does for a user: at the home, and later at the backup site."""
    user = key.split("/")[1]
    for store in (placed(world)[user], *([backups(world)[user]] if backup else [])):
        world.store(store).delete(key)


def write_in_europe(world: SmallWorld, key: str, body: bytes) -> None:
    world.put(placed(world)[key.split("/")[1]], key, body, EUROPE, {})


def why(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {each["user"]: each["why"] for each in found["who"]}


def test_users_go_back_and_nothing_erased_comes_to_life(world: SmallWorld) -> None:
    """The sources stand as they were but for what was deleted in Europe; what was written there stays there and is listed. A dry
    run says the same, and changes nothing (Invariants 1 and 4)."""
    write_in_europe(world, "users/u000/written.jpg", b"written in Europe")
    write_in_europe(world, "users/u001/photo-0001.jpg", b"changed in Europe")
    write_in_europe(world, "users/u003/new.jpg", b"changed in Europe, too")
    for key in ("users/u002/photo-0002.jpg", "users/u003/photo-0000.jpg", "users/u004/photo-0001.jpg"):
        delete_in_europe(world, key)
        del world.objects[key]
    before, untouched = (held(world, *SOURCES), world.at_targets()), everything(world)
    kept = {
        ("u000", "users/u000/written.jpg", "new"),
        ("u001", "users/u001/photo-0001.jpg", "changed"),
        ("u003", "users/u003/new.jpg", "changed"),
    }

    looked = rollback(world, "--dry-run")
    assert looked["users"] | {"ready": USERS, "back": 0} == looked["users"]
    assert (looked["replayed"], looked["kept"]["new"], looked["kept"]["changed"]) == (3, 1, 2)
    assert everything(world) == untouched
    assert homes(world) == placed(world)
    assert set(states(world).values()) == {UserState.OBSERVING}

    found = rollback(world)
    assert found["users"] == {
        "back": USERS, "ready": 0, "back_before": 0, "not_moved": 0, "not_ready": 0, "failed": 0, "open": 0, "settled": 0,
        "left": 0,
    }  # fmt: skip
    assert found["replayed"] == 3
    assert 0 < found["frozen_ms_max"] < 20_000
    assert {(each["user"], each["key"], each["kind"]) for each in found["kept"]["objects"]} == kept
    rows = duckdb.connect().execute(f"SELECT user_id, key, kind FROM '{found['kept']['file']}'").fetchall()
    assert set(rows) == kept
    assert Path(found["kept"]["file"]).stat().st_mode & 0o077 == 0
    assert set(homes(world).values()) == {"us"}
    assert set(states(world).values()) == {UserState.ROLLED_BACK}
    with routes_of(world) as routes:
        assert all(routes.read(user).frozen_by is None for user in world.users)
    assert held(world, *SOURCES) == {place: etag for place, etag in before[0].items() if place[1] in world.objects}
    assert world.at_targets() == before[1]
    with ledger_of(world) as ledger:
        assert [event.to_state for event in ledger.history("u002")][-2:] == [
            UserState.RETURNING,
            UserState.ROLLED_BACK,
        ]
        assert all(copy.receipt is not None for copy in ledger.late_of(["u002"])["u002"])  # Invariant 1

    again = rollback(world)
    assert (again["users"]["back"], again["users"]["back_before"]) == (0, USERS)
    assert rollback(world, "--user", "u002")["users"]["back_before"] == 1


def foreign_freeze(world: SmallWorld) -> None:
    with routes_of(world) as routes:
        routes.freeze("u002", "somebody else's", 15)


def elsewhere(world: SmallWorld) -> None:
    with routes_of(world) as routes:
        routes.freeze("u002", "somebody else's", 15)
        routes.flip("u002", "somebody else's", "singapore")
        routes.unfreeze("u002", "somebody else's")


def lost_at_the_source(world: SmallWorld) -> None:
    world.store("us").delete("users/u002/photo-0001.jpg")


def changed_at_the_source(world: SmallWorld) -> None:
    world.put("us", "users/u002/photo-0001.jpg", b"another", EUROPE, {})


def absent_at_home(world: SmallWorld) -> None:
    delete_in_europe(world, "users/u002/photo-0001.jpg", backup=False)


def another_at_a_source(store: str) -> Callable[[SmallWorld], None]:
    def change(world: SmallWorld) -> None:
        delete_in_europe(world, "users/u002/photo-0001.jpg")
        world.put(store, "users/u002/photo-0001.jpg", b"another", EUROPE, {})

    return change


def on_hold(world: SmallWorld) -> None:
    delete_in_europe(world, "users/u002/photo-0001.jpg")
    assert world.migrate("hold", "--user", "u002", "--reason", "court order").code == 0


def too_many(world: SmallWorld) -> None:
    for number in range(3):
        write_in_europe(world, f"users/u002/written-{number}.jpg", b"written")


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("route", foreign_freeze),
        ("route", elsewhere),
        ("sources", lost_at_the_source),
        ("sources", changed_at_the_source),
        ("deletions", absent_at_home),
        ("replay", another_at_a_source("us")),
        ("replay", another_at_a_source("singapore")),
        ("hold", on_hold),
        ("listing", too_many),
    ],
)
def test_the_gate_says_what_is_in_the_way_and_the_others_go(
    tmp_path: Path, check: str, change: Callable[[SmallWorld], None]
) -> None:
    """Each check by its own corrupted twin: u002 stays, with nothing of theirs touched, and the others go back."""
    world = moved(tmp_path, None, "[cutover]\nobjects_max = 5\n")
    change(world)
    before = held(world, *SOURCES), world.at_targets()
    home = homes(world)["u002"]
    for words in (("--dry-run",), ()):
        found = rollback(world, *words, code=4)
        assert why(found).keys() == {"u002"}
        assert why(found)["u002"].keys() == {check}
        assert (
            check != "replay"
            or "has another one than was copied: delete it there if it is to go" in why(found)["u002"][check]
        )
        assert found["missing"] == {check: 1}
    assert found["users"]["back"] == USERS - 1
    assert (held(world, *SOURCES), world.at_targets()) == before
    assert homes(world) == dict.fromkeys(world.users, "us") | {"u002": home}
    assert states(world)["u002"] is UserState.OBSERVING


def test_a_key_that_no_rule_knows_and_lost_receipts_are_in_the_way(tmp_path: Path) -> None:
    world = build(tmp_path, users=2, per_user=2, odd=False, large=False)
    spec = tmp_path / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace("users/{user}/{rest}", "users/{user}/photo-{rest}"), encoding="utf-8")
    planned(world)
    for words in (("run", "--wave", "all"), ("verify",)):
        assert world.migrate(*words).code == 0
    cutover(world)
    write_in_europe(world, "users/u001/film.mp4", b"written")
    assert why(rollback(world, "--dry-run", code=4)) == {
        "u001": {"keys": "1 key of theirs at the home, which no rule knows"}
    }
    for path in (tmp_path / ".migrate" / "seals").glob("*/receipts-*"):
        path.rename(tmp_path / path.name)
    found = rollback(world, "--dry-run", code=4)
    assert {user: set(each) for user, each in why(found).items()} == {
        "u000": {"receipts"},
        "u001": {"receipts", "keys"},
    }


def test_what_only_the_home_lacks_is_deleted_when_somebody_says_so(quick: SmallWorld) -> None:
    """The home may have lost it, so it takes a word; a hold stops deletions alone."""
    world = quick
    absent_at_home(world)
    assert world.migrate("hold", "--user", "u001", "--reason", "court order").code == 0
    assert rollback(world, "--trust-home")["users"]["back"] == USERS
    gone = "users/u002/photo-0001.jpg"
    assert not {("us", gone), ("singapore", gone)} & held(world, *SOURCES).keys()
    assert (backups(world)["u002"], gone) in world.at_targets()


def test_one_user_goes_back_alone(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name or from stdin; the others live where they lived, and the id is in no run's arguments (Invariant 10)."""
    found = rollback(world, "--user", "u004")
    assert (found["users"]["back"], found["waves"]) == (1, None)
    assert homes(world) == placed(world) | {"u004": "us"}
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115 - closed with the process
    assert world.migrate("rollback", "--user", "-").code == 2
    with ledger_of(world) as ledger:
        told = json.dumps([run.arguments for run in ledger.runs(10)])
    assert "u004" not in told


def test_who_cannot_go_back_is_told_why(tmp_path: Path) -> None:
    """Before the move, after a purge has begun, unknown, or not named at all."""
    world = verified(tmp_path, None)
    nobody = rollback(world)["users"]
    assert nobody == dict.fromkeys(nobody, 0) | {"not_moved": USERS}
    assert why(rollback(world, "--user", "u001", code=4)) == {"u001": {"state": "is verified, and has not moved"}}
    cutover(world)
    with ledger_of(world) as ledger:
        with ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE moves SET observe_until = flipped_at WHERE user_id = 'u002'")
        move = ledger.move_of("u002")
        assert move is not None
        assert move.observe_until is not None
        ledger.begin_purge("u002", move.run_id, move.observe_until)
    assert "a purge has begun" in why(rollback(world, "--user", "u002", code=4))["u002"]["state"]
    found = rollback(world, code=4)
    assert "a purge has begun" in why(found)["u002"]["state"]
    assert found["users"]["back"] == USERS - 1
    assert homes(world)["u002"] != "us"
    for wrong in ("--user nobody", "--user a/b", "--user u001 --wave 0", "--wave 9", ""):
        assert world.migrate("rollback", *wrong.split()).code == 2


@pytest.mark.parametrize(
    ("verb", "after", "error", "goes"),
    [
        ("freeze", False, LaterError("held"), False),
        ("freeze", True, UnreachableError("gone"), False),
        ("flip", False, UnreachableError("gone"), False),
        ("flip", True, UnreachableError("gone"), True),
        ("unfreeze", False, UnreachableError("gone"), True),
        ("unfreeze", True, UnreachableError("gone"), True),
    ],
)
def test_whatever_becomes_of_a_question_the_platform_decides_on_the_way_back(
    quick: SmallWorld, verb: str, after: bool, error: Exception, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledger and platform agree, nobody stays frozen, and what was written is listed of who is back."""
    world = quick
    write_in_europe(world, "users/u002/written.jpg", b"written")
    import migrate.cli.wave_users as command

    opened = command.open_router

    @contextmanager
    def breaking(*given: Any) -> Iterator[Any]:
        with opened(*given) as router:
            yield Broken(router, verb, after=after, error=error)

    monkeypatch.setattr(command, "open_router", breaking)
    monkeypatch.setattr("migrate.jobs.freezes._READ_AGAIN_SECONDS", 0.01)
    found = rollback(world, code=0 if goes else 69 if isinstance(error, UnreachableError) else 4)
    assert homes(world) == dict.fromkeys(world.users, "us") | ({} if goes else {"u002": placed(world)["u002"]})
    assert states(world)["u002"] is (UserState.ROLLED_BACK if goes else UserState.OBSERVING)
    assert found["kept"]["new"] == goes
    assert (found["kept"]["file"] is not None) == goes
    with routes_of(world) as routes:
        assert routes.read("u002").frozen_by is None


@contextmanager
def platform_by(kind: str, root: Path) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Platform]]]]:
    """A platform behind a hook that fails now and then, or behind a command: the spec's words, and the way to it."""
    if kind == "http":
        with Hook(HOOK_KEY.encode()).served() as hook:
            hook.faults = [*[""] * 9, "lost", *[""] * 9, "503", *[""] * 9, "half"]
            yield f'kind = "http"\n[routing.http]\nurl = "{hook.url}"\nkey = "env:HOOK_KEY"\n', hook.held
        return
    state = root / "platform.json"
    state.write_text(json.dumps(asdict(Platform())))
    argv = json.dumps([sys.executable, "-S", "-E", platforms.__file__, str(state)])
    yield f'kind = "command"\n[routing.command]\nargv = {argv}\n', partial(platforms.kept, state)


@pytest.mark.parametrize("kind", ["http", "command"])
def test_people_go_there_and_back_by_a_hook_and_by_a_command(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform has each user's home, and nobody frozen; the ledger follows, and has no routes of its own."""
    monkeypatch.setenv("HOOK_KEY", HOOK_KEY)
    with platform_by(kind, tmp_path) as (words, held_platform):

        def lives() -> dict[str, str]:
            with held_platform() as platform:
                assert not any(platform.is_frozen(row) for row in platform.routes.values())
                return {user: platform.row(user)["home"] for user in platform.routes}

        world = moved(tmp_path / "world", None, words)
        assert lives() == placed(world)
        assert set(states(world).values()) == {UserState.OBSERVING}
        assert rollback(world)["users"]["back"] == USERS
        assert lives() == dict.fromkeys(world.users, "us")
        assert set(states(world).values()) == {UserState.ROLLED_BACK}
        with ledger_of(world) as ledger, ledger.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM routes").scalar() == 0


def test_a_platform_that_does_not_show_the_old_home_is_found(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has flipped back, and the route that is read says otherwise: 5, and the user stays."""
    world, flip = quick, SqlRouter.flip

    def lying(router: SqlRouter, user: str, token: str, site: str) -> None:
        if user != "u002":
            flip(router, user, token, site)

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "flip", lying)
        answer = world.migrate("rollback", "--wave", "all", "--json")
    assert (answer.code, answer.out) == (5, ""), answer.err
    assert (states(world)["u002"], homes(world)["u002"]) == (UserState.OBSERVING, placed(world)["u002"])
    with routes_of(world) as routes:
        assert all(routes.read(user).frozen_by is None for user in world.users)
    rollback(world)
    assert set(homes(world).values()) == {"us"}


def test_nobody_is_flipped_after_a_deletion_of_which_nobody_knows(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a request could land on what the user writes later (Invariant 2): the user stays, and the next rollback goes on."""
    world = quick
    delete_in_europe(world, "users/u002/photo-0001.jpg")
    delete = FileStore.delete

    def lost(store: FileStore, key: str, **given: Any) -> None:
        delete(store, key, **given)
        raise TransientStoreError(store.name, "DELETE", "the answer was lost", key=key)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", lost)
        found = rollback(world, code=4)
    assert why(found) == {
        "u002": {"failed": "nobody knows whether an object was deleted at a source: the next rollback asks"}
    }
    assert homes(world)["u002"] == placed(world)["u002"]
    assert states(world)["u002"] is UserState.OBSERVING
    assert rollback(world)["users"]["back"] == 1
    assert not {key for _, key in held(world, *SOURCES)} & {"users/u002/photo-0001.jpg"}


def test_what_is_written_anew_after_its_deletion_was_replayed_is_another_object(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A way back broke off after the deletions; the user brings the object back in Europe. The next one lets the user go, and
    tells of it."""
    world = quick
    key = "users/u002/photo-0001.jpg"
    home, backup = placed(world)["u002"], backups(world)["u002"]
    delete_in_europe(world, key)
    with monkeypatch.context() as patch:
        keep_from_flipping(patch, "u002")
        assert rollback(world, code=4)["users"]["failed"] == 1
    assert states(world)["u002"] is UserState.OBSERVING
    for store in (home, backup):
        world.put(store, key, *world.objects[key])
    found = rollback(world)
    assert found["users"]["back"] == 1
    assert [(each["key"], each["kind"]) for each in found["kept"]["objects"]] == [(key, "new")]
    assert {name for name, each in held(world, *SOURCES) if each == key} == set()


@pytest.mark.parametrize(("where", "step"), [(SqlRouter, "freeze"), (Ledger, "plan_late")])
def test_a_hold_that_is_set_while_the_user_is_frozen_stops_deletions(
    quick: SmallWorld, where: type, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last look, and after it."""
    world = quick
    delete_in_europe(world, "users/u002/photo-0001.jpg")
    before = held(world, *SOURCES)
    done = getattr(where, step)

    def late(one: Any, user: str, *given: Any) -> None:
        done(one, user, *given)
        if user == "u002":
            with ledger_of(world) as ledger:
                ledger.hold(user, "court", operator="x", run_id=None, now=datetime.now(UTC))

    monkeypatch.setattr(where, step, late)
    found = rollback(world, code=4)
    assert "on hold" in why(found)["u002"]["failed"]
    assert held(world, *SOURCES) == before
    assert states(world)["u002"] is UserState.OBSERVING


@pytest.mark.parametrize("source", SOURCES)
def test_only_what_was_looked_at_is_deleted_at_a_source(
    quick: SmallWorld, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another object comes to be there after the last look: it stays, and so does the user."""
    world = quick
    key = "users/u002/photo-0001.jpg"
    delete_in_europe(world, key)
    plan_late = Ledger.plan_late

    def changing(ledger: Ledger, user: str, *given: Any) -> None:
        plan_late(ledger, user, *given)
        world.put(source, key, b"another", EUROPE, {})

    monkeypatch.setattr(Ledger, "plan_late", changing)
    found = rollback(world, code=4)
    assert "another object" in why(found)["u002"]["failed"]
    with world.store(source).get(key) as download:
        assert download.read() == b"another"
    assert homes(world)["u002"] == placed(world)["u002"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_listing_that_fails_is_no_deletion(quick: SmallWorld, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the gate, and not under the freeze, whoever trusts the home (Invariant 4)."""
    world = quick
    before = held(world, *SOURCES)
    home = placed(world)["u002"]
    listed = FileStore.list
    asked = 0

    def failing(store: FileStore, prefix: str = "", **given: Any) -> Any:
        nonlocal asked
        if store.name == home and "u002" in prefix:
            asked += 1
            if asked >= times:
                raise DeniedError(store.name, "LIST")
        return listed(store, prefix, **given)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", failing)
        found = rollback(world, "--trust-home", code=69)
    assert why(found).keys() == {"u002"}
    assert held(world, *SOURCES) == before
    assert homes(world)["u002"] == home
    assert states(world)["u002"] is UserState.OBSERVING


def test_who_is_forgotten_meanwhile_is_not_flipped(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform says where they live, so nobody is asked again."""
    world = quick
    freeze = SqlRouter.freeze

    def forgetting(router: SqlRouter, user: str, token: str, ttl: int) -> None:
        freeze(router, user, token, ttl)
        if user == "u002":
            with ledger_of(world) as ledger:
                move = ledger.move_of(user)
                assert move is not None
                ledger.forgotten(user, move.run_id, datetime.now(UTC))

    monkeypatch.setattr(SqlRouter, "freeze", forgetting)
    found = rollback(world, code=4)
    assert (why(found).keys(), found["users"]["open"]) == ({"u002"}, 0)
    assert homes(world)["u002"] == placed(world)["u002"]
    assert states(world)["u002"] is UserState.FORGOTTEN
    with routes_of(world) as routes:
        assert routes.read("u002").frozen_by is None


def test_one_user_who_may_not_be_written_down_stops_nobody_else(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody is forgotten amid the replay of their deletions: their way is over, and the others go."""
    world = quick
    delete_in_europe(world, "users/u002/photo-0001.jpg")
    planned = Ledger.plan_late

    def refused(ledger: Ledger, user: str, *given: Any) -> None:
        if user == "u002":
            raise MoveRefusedError("the user is not frozen under this attempt's token")
        planned(ledger, user, *given)

    monkeypatch.setattr(Ledger, "plan_late", refused)
    found = rollback(world, code=4)
    assert (found["users"]["back"], found["users"]["failed"]) == (USERS - 1, 1)
    assert why(found).keys() == {"u002"}


def test_who_has_lost_everything_has_hardly_deleted_it(quick: SmallWorld) -> None:
    """As where both buckets were emptied: the sources have the last copies, and keep them until somebody says that it was so
    meant (Invariant 4)."""
    world = quick
    keys = [key for key in world.objects if key.startswith("users/u002/")]
    for key in keys:
        delete_in_europe(world, key)
    before = held(world, *SOURCES)
    assert why(rollback(world, code=4)).keys() == {"u002"}
    assert held(world, *SOURCES) == before
    assert rollback(world, "--trust-home")["replayed"] == len(keys)


def test_a_delta_that_was_built_before_the_way_back_is_built_anew(tmp_path: Path) -> None:
    """It takes for settled what the platform has written to since (Invariant 9)."""
    world = verified(tmp_path, None)
    plan = world.migrate("plans", "--json").json["plans"][0]["digest"]
    assert world.migrate("delta").code == 0
    assert world.migrate("cutover", plan, "--wave", "all").code == 0
    write_in_europe(world, "users/u002/photo-0001.jpg", b"changed in Europe")
    assert world.migrate("rollback", plan, "--wave", "all").code == 0
    answer = world.migrate("run", "--wave", "all")
    assert (answer.code, "Build a new one" in answer.err) == (75, True), answer.err
    assert set(states(world).values()) == {UserState.ROLLED_BACK}


def test_too_many_failures_halt_a_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = moved(tmp_path, None, "[cutover]\nconcurrency = 1\n")

    def refused(*_given: Any) -> None:
        raise LaterError("not now")

    monkeypatch.setattr(SqlRouter, "flip", refused)
    found = rollback(world, "--max-failures", "2", code=75)
    assert (found["halted"], found["users"]["failed"], found["users"]["left"]) == (True, 2, USERS - 2)
    assert set(states(world).values()) == {UserState.OBSERVING}


def test_a_signal_lets_who_is_frozen_stay(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfrozen, and left for the next rollback."""
    world = quick
    freeze = SqlRouter.freeze

    def interrupting(router: SqlRouter, user: str, token: str, ttl: int) -> None:
        freeze(router, user, token, ttl)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "freeze", interrupting)
        patch.setattr("migrate.cli.working.end_at_once", lambda **_given: None)  # each user's freeze sends one
        found = rollback(world, code=130)
    assert found["users"]["left"] + found["users"]["back"] == USERS
    assert found["users"]["left"] > 0
    with routes_of(world) as routes:
        assert all(routes.read(user).frozen_by is None for user in world.users)
    assert set(states(world).values()) <= {UserState.OBSERVING, UserState.ROLLED_BACK}
    rollback(world)
    assert set(states(world).values()) == {UserState.ROLLED_BACK}


def test_nobody_works_on_the_plan_beside_a_rollback(quick: SmallWorld) -> None:
    """A second one, and whatever writes, is told to come again (75); a dry run holds nobody up."""
    world = quick
    digest = world.migrate("plans", "--json").json["plans"][0]["digest"]
    with ledger_of(world) as ledger, ledger.hold_plan(digest, share=False, alone=True):
        assert world.migrate("rollback", "--wave", "all").code == 75
        rollback(world, "--dry-run")
    assert set(homes(world).values()) != {"us"}


def test_verifications_leave_out_who_is_back_and_a_delta_looks_at_them_anew(quick: SmallWorld) -> None:
    """What Europe has written is neither called wrong nor overwritten; who has nothing of that is verified again, by a
    verification alone, and moves again (Invariants 2 and 9)."""
    world = quick
    write_in_europe(world, "users/u000/photo-0000.jpg", b"changed in Europe")
    delete_in_europe(world, "users/u001/photo-0001.jpg")
    del world.objects["users/u001/photo-0001.jpg"]
    assert rollback(world)["users"]["back"] == USERS
    verdicts = world.migrate("verify", "--wave", "all", "--repair", "--json")
    assert verdicts.code == 0, verdicts.err
    assert set(states(world).values()) == {UserState.ROLLED_BACK}
    assert world.migrate("sweep", "--json").code == 0
    assert "rolled_back" in world.migrate("status").out
    assert world.migrate("where", "u000", "--json").json["state"] == "rolled_back"
    assert cutover(world, code=4)["missing"] == {"state": USERS}

    assert world.migrate("delta", "--json").code == 0
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 4, (answer.out, answer.err)
    found = states(world)
    assert found.pop("u000") is UserState.QUARANTINED
    assert set(found.values()) == {UserState.COPIED}
    home = placed(world)["u000"]
    with world.store(home).get("users/u000/photo-0000.jpg") as download:
        assert download.read() == b"changed in Europe"
    answer = world.migrate("verify", "--json")
    assert answer.code in (0, 4), (answer.out, answer.err)
    moved_again = cutover(world, code=4)
    assert moved_again["users"]["moved"] == USERS - 1
    assert homes(world) == placed(world) | {"u000": "us"}


def test_who_went_back_without_changes_is_not_verified_by_a_delta(quick: SmallWorld) -> None:
    """What Europe has done to their copies shows in no source (Invariant 9)."""
    world = quick
    rollback(world)
    world.store(placed(world)["u005"]).delete("users/u005/photo-0000.jpg")  # after the rollback, by whoever
    assert world.migrate("delta", "--json").code == 0
    assert world.migrate("run", "--wave", "all").code == 0
    assert set(states(world).values()) == {UserState.COPIED}
    assert world.migrate("verify").code == 0
    assert set(states(world).values()) == {UserState.VERIFIED}
    world.assert_all_there()


def test_who_moved_before_a_delta_goes_back_by_the_delta(quick: SmallWorld) -> None:
    """It takes them over, and plans nothing of theirs; a delta that was built while they were away is not begun afterwards."""
    world = quick
    delete_in_europe(world, "users/u003/new.jpg")  # a late copy
    first = world.migrate("delta", "--json").json["digest"]
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("delta", "--json").code == 0
    found = world.migrate("rollback", first, "--wave", "all", "--json")
    assert (found.code, found.json["users"]["back"], found.json["replayed"]) == (0, USERS, 1)
    assert set(homes(world).values()) == {"us"}
    assert world.migrate("run", "--wave", "all").code == 75


def test_no_user_id_and_no_key_goes_into_logs_of_a_rollback(quick: SmallWorld) -> None:
    """Invariant 10: on stdout who was asked for, on stderr nobody."""
    world = quick
    write_in_europe(world, "users/u000/written.jpg", b"written")
    lost_at_the_source(world)
    answer = world.migrate("--debug", "rollback", "--wave", "all")
    assert answer.code == 4
    assert "u002" in answer.out
    assert "written.jpg" in answer.out
    assert "u00" not in answer.err
    assert ".jpg" not in answer.err


def test_buckets_that_keep_versions(tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delete marker at the home shows a deletion, though the backup site lags; at the sources deletions leave markers, and the
    versions behind them. What is sent back arrives with all that it has, in parts where it is large."""
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=3, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, per_user=2)
    client: Any = moto_server.boto3()
    for bucket in buckets.values():
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    spec = tmp_path / "plans" / "small.toml"
    spec.write_text(
        spec.read_text() + '\n[routing]\ndrain_seconds = "1s"\nfreeze_seconds_max = "20s"\n', encoding="utf-8"
    )
    assert world.migrate("doctor", str(spec)).code == 0
    planned(world)
    for words in (("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    cutover(world)
    home = buckets[placed(world)["u001"]]
    key = "data/users/u001/photo 0+ü.jpg"
    client.delete_object(Bucket=home, Key=key)
    client.put_object(Bucket=home, Key="data/users/u001/film", Body=b"changed in Europe")
    large = {
        "Body": body_of("large", 11 * 2**20),
        "ContentType": "video/mp4",
        "Metadata": {"by": "u002"},
        "Tagging": "a=b",
    }
    client.put_object(Bucket=buckets[placed(world)["u002"]], Key="data/users/u002/large", **large)
    assert rollback(world, "--user", "u002", "--send-back", "Ms Counsel")["kept"]["sent_back"] == 1
    sent = client.get_object(Bucket=buckets["us"], Key="data/users/u002/large")
    assert sent["Body"].read() == large["Body"]
    assert (sent["ContentType"], sent["Metadata"]) == ("video/mp4", {"by": "u002"})
    tags = client.get_object_tagging(Bucket=buckets["us"], Key="data/users/u002/large")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b"}]
    assert rollback(world)["users"]["back"] == 2
    for bucket in (buckets["us"], buckets["singapore"]):
        listed = client.list_object_versions(Bucket=bucket, Prefix=key)
        assert [marker["IsLatest"] for marker in listed["DeleteMarkers"]] == [True]
        assert len(listed["Versions"]) == 1
    assert client.get_object(Bucket=home, Key="data/users/u001/film")["Body"].read() == b"changed in Europe"


def test_what_was_written_is_sent_back_where_somebody_has_approved_it(world: SmallWorld) -> None:
    """New and changed objects arrive at the source as they are in Europe, before the user lives there; the name is in run and
    history, and the dry run counts them and sends nothing."""
    film = body_of("film", 11 * 2**20)
    write_in_europe(world, "users/u000/written.jpg", b"written in Europe")
    write_in_europe(world, "users/u000/film.mp4", film)
    write_in_europe(world, "users/u001/photo-0001.jpg", b"changed in Europe")
    before = held(world, *SOURCES)
    looked = rollback(world, "--dry-run", "--send-back", "Ms Counsel")
    assert looked["kept"]["sent_back"] == 3
    assert held(world, *SOURCES) == before
    assert world.migrate("rollback", "--wave", "all", "--send-back", " ").code == 2
    found = rollback(world, "--send-back", "Ms Counsel")
    assert (found["users"]["back"], found["kept"]["sent_back"]) == (USERS, 3)
    for key, body in (
        ("users/u000/written.jpg", b"written in Europe"),
        ("users/u000/film.mp4", film),
        ("users/u001/photo-0001.jpg", b"changed in Europe"),
    ):
        with world.store("us").get(key) as download:
            assert download.read() == body
            assert download.info.attributes.content_type == "a/b"
    changed = {place for place, etag in held(world, *SOURCES).items() if before.get(place) != etag}
    assert {store for store, _ in changed} == {"us"}
    assert len(changed) == 3
    with ledger_of(world) as ledger:
        notes = [event.note for event in ledger.history("u001") if event.to_state is UserState.RETURNING]
        assert notes == ["what they wrote is sent back, approved by Ms Counsel"]
        assert [run.arguments["send_back"] for run in ledger.runs(1)] == ["Ms Counsel"]


def test_who_was_sent_back_and_stayed_goes_with_what_was_written_since(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flip failed after the sending, and the user wrote on: what was sent counts as known, and the newer is sent."""
    world = quick
    for key in ("users/u002/photo-0001.jpg", "users/u002/written.jpg"):
        write_in_europe(world, key, b"first")
    with monkeypatch.context() as patch:
        keep_from_flipping(patch, "u002")
        assert rollback(world, "--send-back", "Ms Counsel", code=4)["users"]["failed"] == 1
    write_in_europe(world, "users/u002/written.jpg", b"second")
    found = rollback(world, "--user", "u002", "--send-back", "Ms Counsel")
    assert [(each["key"], each["kind"]) for each in found["kept"]["objects"]] == [("users/u002/written.jpg", "changed")]
    for key, body in (("users/u002/photo-0001.jpg", b"first"), ("users/u002/written.jpg", b"second")):
        with world.store("us").get(key) as download:
            assert download.read() == body


def test_what_cannot_be_sent_back_is_in_the_way_of_the_exception_alone(tmp_path: Path) -> None:
    """Something nobody knows stands under the key at the source; or too much was written for a freeze."""
    world = moved(tmp_path, None, "[cutover]\nlate_objects_max = 2\n")
    write_in_europe(world, "users/u002/written.jpg", b"written")
    world.put("us", "users/u002/written.jpg", b"another", EUROPE, {})
    for number in range(3):
        write_in_europe(world, f"users/u003/written-{number}.jpg", b"written")
    for words in (("--dry-run",), ()):
        found = rollback(world, "--send-back", "Ms Counsel", *words, code=4)
        assert {user: set(each) for user, each in why(found).items()} == {"u002": {"send_back"}, "u003": {"send_back"}}
    assert rollback(world)["users"]["back"] == 2


def refusing(monkeypatch: pytest.MonkeyPatch, where: type, verb: str, *, from_time: int = 1) -> None:
    """From this call on, the verb is refused."""
    done, calls = getattr(where, verb), 0

    def refused(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= from_time:
            raise LaterError("not now")
        return done(*given, **named)

    monkeypatch.setattr(where, verb, refused)


def test_the_delta_after_a_sending_back_finds_whole_users(world: SmallWorld) -> None:
    """The backup site lags in all that was written: there are our older copies, one of a last delta and one of the platform's own
    among them, and one that was deleted at the home alone. The delta brings all of it up to date, and everybody moves again
    (Invariants 1 and 2)."""
    at_backup = backups(world)
    world.put(at_backup["u001"], "users/u001/photo-0001.jpg", b"once", EUROPE, {})
    sent = {
        "users/u000/photo-0000.jpg": b"changed in Europe",
        "users/u001/photo-0001.jpg": b"changed twice in Europe",
        "users/u002/written.jpg": b"written in Europe",
        "users/u003/new.jpg": b"a late copy, changed in Europe",
        "users/u004/film.mp4": body_of("film", 11 * 2**20),
    }
    for key, body in sent.items():
        write_in_europe(world, key, body)
        world.objects[key] = (body, EUROPE, {})
    gone = "users/u005/photo-0002.jpg"
    delete_in_europe(world, gone, backup=False)
    del world.objects[gone]
    found = rollback(world, "--send-back", "Ms Counsel", "--trust-home")
    assert (found["users"]["back"], found["kept"]["sent_back"], found["replayed"]) == (USERS, len(sent), 1)
    with ledger_of(world) as ledger:
        late = [copy for copies in ledger.late_of(world.users).values() for copy in copies if copy.key in {*sent, gone}]
    assert {(copy.key, copy.role.value) for copy in late} == {
        (key, role) for key in (*sent, gone) for role in ("home", "backup")
    }
    assert {copy.size for copy in late if copy.key == "users/u003/new.jpg"} == {len(sent["users/u003/new.jpg"])}
    # one comes to the backup site after all
    world.put(at_backup["u002"], "users/u002/written.jpg", sent["users/u002/written.jpg"], EUROPE, {})

    for words in (("delta",), ("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, (words, answer.out, answer.err)
    world.assert_all_there()
    assert cutover(world)["users"]["moved"] == USERS
    assert homes(world) == placed(world)


def test_what_the_backup_site_got_after_the_way_back_is_not_overwritten(quick: SmallWorld) -> None:
    """The corrupted twin: the delta may replace what the rollback saw there, and nothing else (Invariant 2)."""
    world = quick
    key = "users/u000/photo-0000.jpg"
    write_in_europe(world, key, b"changed in Europe")
    rollback(world, "--send-back", "Ms Counsel")
    world.put(backups(world)["u000"], key, b"from nobody knows where", EUROPE, {})
    assert world.migrate("delta").code == 0
    assert world.migrate("run", "--wave", "all").code == 4
    assert states(world)["u000"] is UserState.QUARANTINED
    assert world.at_targets()[backups(world)["u000"], key][0] == b"from nobody knows where"


def test_who_was_sent_back_and_stayed_is_purged_as_the_platform_has_them(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup site lags in one object, and never gets another; a third is deleted in Europe since, which takes both sites to
    say so (Invariant 4)."""
    world = quick
    changed, written, gone = (f"users/u002/{name}.jpg" for name in ("photo-0001", "written", "gone"))
    for key in (changed, written, gone):
        write_in_europe(world, key, b"in Europe")
    world.put(backups(world)["u002"], gone, b"in Europe", EUROPE, {})
    with monkeypatch.context() as patch:
        refusing(patch, SqlRouter, "flip")
        rollback(world, "--user", "u002", "--send-back", "Ms Counsel", code=4)
    assert {("us", key) for key in (changed, written, gone)} <= held(world, *SOURCES).keys()
    end_windows(world)
    delete_in_europe(world, gone, backup=False)
    assert purge(world, "--dry-run", code=4)["missing"] == {"home": 1}
    world.store(backups(world)["u002"]).delete(gone)
    assert confirmed(world)["users"]["purged"] == USERS
    assert held(world, *SOURCES) == {}
    assert (placed(world)["u002"], changed) in world.at_targets()


def test_a_sending_back_that_was_killed_is_ended_by_the_next_one_or_by_a_purge(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has sent, and not written down what it sent: the source has objects whose ETags are of their parts. Nobody goes back by
    them alone; the next sending knows its own, also where the user has written on."""
    world = quick
    film, song, changed, gone = (
        f"users/u002/{name}" for name in ("film.mp4", "song.mp3", "photo-0001.jpg", "gone.mp4")
    )
    sent = {film: body_of("film", 11 * 2**20), song: b"sung", changed: body_of("changed", 11 * 2**20)}
    sent[gone] = body_of("gone", 11 * 2**20)
    for key, body in sent.items():
        write_in_europe(world, key, body)
    with monkeypatch.context() as patch:
        refusing(patch, Ledger, "plan_late", from_time=2)
        rollback(world, "--user", "u002", "--send-back", "Ms Counsel", code=4)
    assert {("us", key) for key in sent} <= held(world, *SOURCES).keys()
    assert "--send-back ends it" in why(rollback(world, "--user", "u002", code=4))["u002"]["sources"]
    end_windows(world)
    assert purge(world, "--dry-run")["users"]["ready"] == USERS

    sent[song] = b"sung otherwise"
    write_in_europe(world, song, sent[song])
    delete_in_europe(world, gone, backup=False)  # which never had it
    del sent[gone]
    found = rollback(world, "--user", "u002", "--send-back", "Ms Counsel")
    assert (found["users"]["back"], found["kept"]["sent_back"], found["replayed"]) == (1, 3, 1)
    assert ("us", gone) not in held(world, *SOURCES)
    for key, body in sent.items():
        with world.store("us").get(key) as download:
            assert download.read() == body


def test_who_was_not_sent_back_after_all_goes_back_as_the_sources_are(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sending back broke off before it sent anything: what it had in mind keeps nobody."""
    world = quick
    for key in ("users/u002/photo-0001.jpg", "users/u002/written.jpg"):
        write_in_europe(world, key, b"in Europe")
    before = held(world, *SOURCES)
    with monkeypatch.context() as patch:
        refusing(patch, FileStore, "put")
        rollback(world, "--user", "u002", "--send-back", "Ms Counsel", code=4)
    assert rollback(world)["users"]["back"] == USERS
    assert held(world, *SOURCES) == before


def test_a_backup_of_a_source_that_lags_keeps_nobody_from_going_back(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an older object under a key that was deleted in Europe: the deletion is for that as well. One that came there since
    the move is nobody's that we know (Invariant 4)."""
    world = quick
    key = "users/u002/photo-0001.jpg"
    write_in_europe(world, key, b"changed in Europe")
    with monkeypatch.context() as patch:
        refusing(patch, SqlRouter, "flip")
        rollback(world, "--user", "u002", "--send-back", "Ms Counsel", code=4)
    assert len({held(world, *SOURCES)[source, key] for source in SOURCES}) == 2
    delete_in_europe(world, key)
    found = rollback(world)
    assert (found["users"]["back"], found["replayed"]) == (USERS, 1)
    assert not {(source, key) for source in SOURCES} & held(world, *SOURCES).keys()


def test_a_later_seal_that_is_lost_makes_no_older_receipt_the_last_one(tmp_path: Path) -> None:
    """A copy that was repaired has two receipts. Of which one is at the home, nobody knows without the later."""
    world = build(tmp_path, users=2, per_user=2, odd=False, large=False)
    planned(world)
    do = world.migrate
    assert (do("run", "--wave", "all").code, do("verify").code) == (0, 0)
    sealed = set((tmp_path / ".migrate" / "seals").glob("*/receipts-*"))
    with ledger_of(world) as ledger:
        rows = {user: ledger.user(user) for user in world.users}
    row = rows["u001"]
    assert row is not None
    world.put(str(row.home), "users/u001/photo-0001.jpg", b"damaged", EUROPE, {})
    assert do("verify", "--wave", "all", "--repair").code == 3
    assert (do("run", "--wave", "all").code, do("verify", "--wave", "all").code) == (0, 0)
    cutover(world)
    (later,) = set((tmp_path / ".migrate" / "seals").glob("*/receipts-*")) - sealed
    later.unlink()
    assert {user: set(each) for user, each in why(rollback(world, "--dry-run", code=4)).items()} == {
        user: {"receipts"} for user, each in rows.items() if each is not None and each.first_batch == row.first_batch
    }
