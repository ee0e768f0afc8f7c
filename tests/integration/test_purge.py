"""A purge: its plan, what is confirmed, what is deleted and what is not, and what keeps it from beginning."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from purgeworld import (
    ROUTING,
    at_sources,
    confirmed,
    digest_of,
    execute,
    homes,
    ledger_of,
    move,
    moved,
    of,
    purge,
    states,
)
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import SmallWorld, body_of, build
from test_cutover import everything

from migrate.errors import DeniedError, StoreError, TransientStoreError
from migrate.model import DELETED, Attributes
from migrate.planner.folder import find_plan
from migrate.planner.of_users import LineOfUsers
from migrate.states import UserState
from migrate.stores.base import Capabilities
from migrate.stores.door import Door
from migrate.stores.file import FileStore
from migrate.stores.memory import MemoryPlace, forget_places, place
from migrate.stores.s3_read import S3Reader
from migrate.workspace import Workspace

USERS = 4
IMAGE = Attributes(content_type="a/b")
U = UserState


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Cut over, and every window is over."""
    return moved(tmp_path, request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


@pytest.fixture
def quick(tmp_path: Path) -> SmallWorld:
    """The same on SQLite alone."""
    return moved(tmp_path, None)


def test_a_wave_is_purged_once_its_digest_is_confirmed(world: SmallWorld) -> None:
    """Until then nothing is deleted; then the sources are empty of the users, the targets are as they were, a sweep finds no
    residue, and history and status say so (Invariants 1 and 3)."""
    world.store("us").create_upload("users/u001/film", attributes=IMAGE)
    before, untouched = at_sources(world), everything(world)
    first = purge(world, "--dry-run")
    assert first["users"] | {"ready": USERS, "not_ready": 0} == first["users"]
    counts = {"object": 3 * USERS, "version": 0, "delete-marker": 0, "never_copied": 0}
    for name, uploads in (("us", 1), ("singapore", 0)):
        found = first["purge"]["stores"][name]
        assert found | counts | {"upload": uploads} == found
    assert purge(world, "--dry-run")["purge"]["digest"] == first["purge"]["digest"]  # of the same state the same
    digest = first["purge"]["digest"]
    waiting = purge(world, code=75)
    assert waiting["purge"]["digest"] == digest
    assert f"--confirm {digest[:12]}" in waiting["next_step"]
    assert everything(world) == untouched
    for words, code in (
        (("--confirm", "0" * 12), 2),
        (("--confirm", digest[:11]), 2),
        (("--confirm", digest, "--dry-run"), 2),
    ):
        refused = world.migrate("purge", "--wave", "all", *words, "--json")
        assert (refused.code, refused.out) == (code, ""), refused.err
    assert world.migrate("purge", "--wave", "0", "--confirm", digest).code == 2  # it is of other waves
    assert at_sources(world) == before
    assert set(states(world).values()) == {U.OBSERVING}

    done = purge(world, "--confirm", digest[:12])
    assert (done["users"]["purged"], done["deleted"], done["remains"]) == (USERS, 6 * USERS + 1, [])
    assert at_sources(world) == {"us": [], "singapore": []}
    assert world.store("us").list_uploads() == []
    assert set(states(world).values()) == {U.PURGED}
    world.assert_all_there()
    with ledger_of(world) as ledger:
        events = [(event.to_state, event.note) for event in ledger.history("u001")][-2:]
        assert events == [(U.PURGING, f"purge plan {digest[:12]}"), (U.PURGED, None)]
        found_move = ledger.move_of("u001")
        assert found_move is not None
        assert found_move.purged_at is not None
    swept = world.migrate("sweep", "--json")
    assert swept.code == 0, swept.out
    assert swept.json["found"]["residue"]["number"] == swept.json["found"]["awaiting_purge"]["number"] == 0
    where = world.migrate("where", "u001", "--json").json
    assert (where["state"], where["verified"]) == ("purged", True)
    assert {store["objects"] for store in where["stores"] if store["role"] != "target"} == {0}
    assert world.migrate("status").code == 0
    again = purge(world, "--confirm", digest)
    assert again["users"] | {"purged": 0, "purged_before": USERS} == again["users"]
    assert purge(world, "--dry-run")["users"]["purged_before"] == USERS
    assert list((world.root / ".migrate" / "scratch").glob("purge/*")) == []


def put(world: SmallWorld, store: str, key: str, body: bytes = b"something else") -> None:
    world.put(store, key, body, IMAGE, {})


def _aged(world: SmallWorld, store: str, key: str) -> None:
    """Another object at a target, from before the flip."""
    put(world, store, key)
    path = world.root / "stores" / store / key
    os.utime(path, (1_000_000_000, 1_000_000_000))


def _at_both(world: SmallWorld, key: str) -> None:
    for store in ("us", "singapore"):
        put(world, store, key)


def _lost_at_both(world: SmallWorld) -> None:
    """As a bucket that was emptied, or a lifecycle rule, would have it."""
    for store in homes(world)["u001"]:
        for number in range(3):
            world.store(store).delete(f"users/u001/photo-000{number}.jpg")


def _home_of(world: SmallWorld) -> str:
    return homes(world)["u001"][0]


def _backup_of(world: SmallWorld) -> str:
    return homes(world)["u001"][1]


KEY = "users/u001/photo-0001.jpg"
Break = Callable[[SmallWorld], None]
BREAKS: dict[str, list[Break]] = {
    "state": [lambda world: execute(world, "UPDATE users SET state = 'cut_over' WHERE user_id = 'u001'")],
    "window": [
        lambda world: execute(world, "UPDATE moves SET observe_until = 4000000000000000 WHERE user_id = 'u001'"),
        lambda world: execute(world, "UPDATE moves SET observe_until = NULL WHERE user_id = 'u001'"),
    ],
    "hold": [lambda world: _held(world, "u001")],
    "copies": [
        lambda world: execute(world, "UPDATE users SET matched = 5, good = 5 WHERE user_id = 'u001'"),
    ],
    "verdicts": [lambda world: execute(world, "UPDATE users SET matched = 5 WHERE user_id = 'u001'")],
    "route": [
        lambda world: execute(world, "UPDATE routes SET home = 'us' WHERE user_id = 'u001'"),
        lambda world: execute(
            world,
            "UPDATE routes SET frozen_by = 'somebody', frozen_until = 4000000000000000 WHERE user_id = 'u001'",
        ),
    ],
    "home": [
        lambda world: world.store(_home_of(world)).delete(KEY),
        lambda world: _aged(world, _home_of(world), KEY),
    ],
    "backup": [
        lambda world: world.store(_backup_of(world)).delete(KEY),
        lambda world: _aged(world, _backup_of(world), KEY),
    ],
    "deletions": [lambda world: _lost_at_both(world)],
    "late": [
        lambda world: _at_both(world, "users/u001/written-after-the-flip.jpg"),
        lambda world: _at_both(world, KEY),
        lambda world: put(world, "us", KEY),
    ],
}


def _held(world: SmallWorld, user: str) -> None:
    assert world.migrate("hold", "--user", user, "--reason", "claim 4711").code == 0


@pytest.mark.parametrize(
    ("check", "number"), [(check, number) for check, breaks in BREAKS.items() for number in range(len(breaks))]
)
def test_each_check_keeps_its_user_and_no_other(quick: SmallWorld, check: str, number: int) -> None:
    """The corrupted twins of the purge above. What comes up keeps the user out of a new purge plan, and back from one that was
    made before: nothing of that user is deleted, and all of the others is (Invariants 4 and 9)."""
    world = quick
    # without a receipt there is no verdict either
    expected = {check: 1} | ({"verdicts": 1} if check == "copies" else {})
    digest = digest_of(world)
    BREAKS[check][number](world)
    mine = of("u001", at_sources(world))
    looked = purge(world, "--dry-run", code=4)
    assert (looked["missing"], looked["purge"]["users"]) == (expected, USERS - 1)
    done = purge(world, "--confirm", digest, code=4)
    assert (done["missing"], done["users"]["purged"]) == (expected, USERS - 1)
    assert [each["user"] for each in done["who"]] == ["u001"]
    after = at_sources(world)
    assert (of("u001", after), sum(map(len, after.values()))) == (mine, mine)
    assert states(world)["u001"] in (U.OBSERVING, U.CUT_OVER)


def test_the_window_is_told_and_a_layout_that_cannot_be_listed_by_user_purges_nobody(tmp_path: Path) -> None:
    world = moved(tmp_path, None, users=2)
    execute(world, "UPDATE moves SET observe_until = 4000000000000000")
    shown = world.migrate("purge", "--wave", "all")
    assert shown.code == 4
    assert "is observed until 2096-10-02" in shown.out
    assert "next: Nobody of these waves can be purged now." in shown.out
    assert not (world.root / ".migrate" / "purges").exists()


def test_what_the_platform_did_since_the_flip_is_its_own_and_counted(quick: SmallWorld) -> None:
    """Changed at the new home, not yet at the backup; deleted at both; written anew: none of it keeps the user."""
    world, (home, backup) = quick, homes(quick)["u001"]
    put(world, home, "users/u001/photo-0000.jpg", b"edited in Europe")
    world.store(backup).delete("users/u001/photo-0000.jpg")
    for store in (home, backup):
        world.store(store).delete("users/u001/photo-0001.jpg")
        put(world, store, "users/u001/taken-in-europe.jpg")
    # as after a cutover that was killed: when the flip was the ledger knows too late
    execute(world, "UPDATE moves SET flipped_at = 4000000000000000")
    looked = purge(world, "--dry-run")["purge"]
    assert (looked["deleted_since"], looked["newer"]) == (1, 1)
    assert confirmed(world)["users"]["purged"] == USERS
    assert at_sources(world) == {"us": [], "singapore": []}
    assert world.store(home).head("users/u001/taken-in-europe.jpg").size == len(b"something else")


def test_nothing_but_the_users_own_goes_and_what_was_never_copied_is_named(tmp_path: Path) -> None:
    """Keys under a user's prefix that the layout gives to nobody, or to another user, stay; what only the backup has and the spec
    leaves there is in the plan by name; a user out of scope stays as well, and so does a longer name."""
    rules = """[[layout.rules]]
name = "pinned"
pattern = "users/u001/pinned/{rest}"
shared = true
policy = "keep"

[[layout.rules]]
name = "lent"
pattern = "users/u001/lent/{user}/{rest}"
category = "restricted"

"""
    world = build(tmp_path, users=3, per_user=2, odd=False, large=False)
    with (tmp_path / "users.csv").open("a") as file:
        file.write("carl,US\n")
    staying = {"users/u001/pinned/one", "users/u001/lent/carl/one", "users/carl/one", "users/u0010/a longer name"}
    for key in staying:
        for store in ("us", "singapore"):
            put(world, store, key)
    put(world, "singapore", "users/u002/only in the backup")
    spec = tmp_path / "plans" / "small.toml"
    text = spec.read_text().replace("[[layout.rules]]", f"{rules}[[layout.rules]]", 1)
    more = '[reconcile.backup_only]\nrestricted = "exclude"\n[orphans]\npolicy = "keep"\n'
    spec.write_text(text + ROUTING + more)
    move(world)
    looked = purge(world, "--dry-run")["purge"]
    assert (looked["stores"]["us"]["never_copied"], looked["stores"]["singapore"]["never_copied"]) == (0, 1)
    assert looked["left_alone"] == 4
    query = f"SELECT key FROM read_parquet('{looked['folder']}/entries.parquet') WHERE never_copied"
    assert duckdb.sql(query).fetchall() == [("users/u002/only in the backup",)]
    assert confirmed(world)["users"]["purged"] == 3
    assert {name: set(found) for name, found in at_sources(world).items()} == {"us": staying, "singapore": staying}


@pytest.mark.parametrize(
    ("store", "operation"), [("us", "list"), ("singapore", "list"), ("singapore", "list_uploads"), ("dublin-1", "list")]
)
def test_a_listing_that_fails_deletes_nothing(
    quick: SmallWorld, store: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 4: neither when the plan is made nor when it is carried out."""
    world = quick
    digest, before = digest_of(world), at_sources(world)
    method = getattr(FileStore, operation)

    def failing(self: FileStore, *given: Any, **named: Any) -> Any:
        if self.name == store:
            raise DeniedError(self.name, operation)
        return method(self, *given, **named)

    touched = {user for user, places in homes(world).items() if store in places or store in ("us", "singapore")}
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, operation, failing)
        looked = purge(world, "--dry-run", "--max-failures", "100", code=69)
        assert looked["users"]["failed"] == len(touched)
        done = purge(world, "--confirm", digest, "--max-failures", "100", code=69)
    assert done["users"]["failed"] == len(touched)
    after = at_sources(world)
    for user in world.users:
        assert of(user, after) == (of(user, before) if user in touched else 0)
        assert states(world)[user] is (U.OBSERVING if user in touched else U.PURGED)
    assert purge(world, "--confirm", digest)["users"]["purged"] == len(touched)


def test_a_user_is_not_purged_before_the_sources_were_listed_again(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that fails after the deletions is no proof that nothing is left: the user stays `purging`, and the same digest
    goes on (Invariants 4 and 9)."""
    world, digest = quick, digest_of(quick)
    listing, deleted = FileStore.list, FileStore.delete
    gone: list[str] = []

    def deleting(self: FileStore, key: str, **named: Any) -> None:
        deleted(self, key, **named)
        gone.append(key)

    def failing(self: FileStore, *given: Any, **named: Any) -> Any:
        if self.name == "singapore" and any(key.startswith("users/u001/") for key in gone) and "users/u001/" in given:
            raise StoreError(self.name, "list", "gone")
        return listing(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", deleting)
        patch.setattr(FileStore, "list", failing)
        done = purge(world, "--confirm", digest, code=69)
    assert (done["users"]["purged"], done["users"]["failed"]) == (USERS - 1, 1)
    assert states(world)["u001"] is U.PURGING
    assert purge(world, "--confirm", digest)["users"]["purged"] == 1


def test_what_takes_an_objects_place_is_not_deleted(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store has no versions each deletion follows a look that still shows what was listed. What came instead is told,
    and goes by a purge plan that names it."""
    world, digest = quick, digest_of(quick)
    head = FileStore.head

    def replacing(self: FileStore, key: str, **named: Any) -> Any:
        if self.name == "singapore" and key == KEY:
            put(world, "singapore", KEY, b"written in the meantime")
        return head(self, key, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "head", replacing)
        done = purge(world, "--confirm", digest, code=4)
    assert (done["users"]["purged"], done["users"]["not_empty"]) == (USERS - 1, 1)
    assert done["remains"] == [{"store": "singapore", "reason": "changed since it was listed", "number": 1}]
    assert at_sources(world) == {"us": [], "singapore": [KEY]}
    assert states(world)["u001"] is U.PURGING
    assert purge(world, "--confirm", digest, code=4)["missing"] == {"changed": 1}
    assert confirmed(world)["users"]["purged"] == 1
    assert at_sources(world) == {"us": [], "singapore": []}


def test_what_is_written_while_the_user_is_purged_is_told_and_stays(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has confirmed it: the last listing finds it, and the user is not called purged (Invariant 9). A writer who does not
    heed the routes would do so."""
    world, digest, delete = quick, digest_of(quick), FileStore.delete
    late = "users/u001/written-meanwhile.jpg"

    def writing(self: FileStore, key: str, **named: Any) -> None:
        delete(self, key, **named)
        if self.name == "us" and key == KEY:
            put(world, "us", late)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", writing)
        done = purge(world, "--confirm", digest, code=4)
    assert (done["users"]["purged"], done["users"]["not_empty"]) == (USERS - 1, 1)
    assert done["remains"] == [{"store": "us", "reason": "new", "number": 1}]
    assert at_sources(world) == {"us": [late], "singapore": []}
    assert states(world)["u001"] is U.PURGING
    # it was never copied: whoever deletes it has looked at it
    assert purge(world, "--confirm", digest, code=4)["missing"].keys() == {"late"}
    world.store("us").delete(late)
    assert purge(world, "--confirm", digest)["users"]["purged"] == 1


def test_deletions_that_are_denied_leave_the_user_purging(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is told by store and reason; the next purge plan takes it."""
    world, digest, delete = quick, digest_of(quick), FileStore.delete

    def denying(self: FileStore, key: str, **named: Any) -> None:
        if self.name == "singapore" and key == KEY:
            raise DeniedError(self.name, "delete", key=key)
        delete(self, key, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", denying)
        done = purge(world, "--confirm", digest, code=4)
    assert done["remains"] == [{"store": "singapore", "reason": "denied", "number": 1}]
    assert states(world)["u001"] is U.PURGING
    assert world.migrate("sweep").code == 0  # who is not purged leaves no residue, but waits
    assert confirmed(world)["users"]["purged"] == 1


def test_a_hold_stops_a_deletion_that_is_tried_again(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that keeps failing is asked again and again; not once the user is on hold."""
    world, digest, delete = quick, digest_of(quick), FileStore.delete

    def failing(self: FileStore, key: str, **named: Any) -> None:
        if self.name == "singapore" and key == KEY:
            with ledger_of(world) as ledger:
                ledger.hold("u001", "claim 4711", operator="olga", run_id=None, now=datetime.now(UTC))
            raise TransientStoreError(self.name, "delete", key=key)
        delete(self, key, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", failing)
        done = purge(world, "--confirm", digest, code=4)
    assert (done["missing"], done["users"]["purged"]) == ({"hold": 1}, USERS - 1)
    assert KEY in at_sources(world)["singapore"]
    assert states(world)["u001"] is U.PURGING


def test_a_user_who_fails_halts_nobody_before_as_many_failed_as_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = moved(tmp_path, None, more="[cutover]\nconcurrency = 1\n")
    digest = digest_of(world)

    def failing(self: FileStore, prefix: str = "", **named: Any) -> Any:
        raise DeniedError(self.name, "list")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", failing)
        done = purge(world, "--confirm", digest, "--max-failures", "2", code=69)
    assert done["halted"]
    assert (done["users"]["failed"], done["users"]["left"]) == (2, USERS - 2)
    assert set(states(world).values()) == {U.OBSERVING}


TAMPERS: dict[str, Callable[[Path], None]] = {
    "a key": lambda folder: _rewritten(folder, "entries", "replace(key, 'photo', 'other') AS key", "key"),
    "a version": lambda folder: _rewritten(folder, "entries", "'7' AS version_id", "version_id"),
    "an entry less": lambda folder: _rewritten(folder, "entries", "key", "key", where="number > 0"),
    "a user": lambda folder: _rewritten(folder, "users", "concat(user_id, 'x') AS user_id", "user_id"),
    "the waves": lambda folder: _said(folder, "waves", [0]),
    "the plan": lambda folder: _said(folder, "plan", "0" * 64),
    "another format": lambda folder: _said(folder, "format", 99),
    "no document": lambda folder: _emptied(folder / "purge.json"),
    "no entries": lambda folder: _emptied(folder / "entries.parquet"),
}


def _rewritten(folder: Path, kind: str, expression: str, column: str, *, where: str = "TRUE") -> None:
    path = folder / f"{kind}.parquet"
    other = folder / "other"
    columns = f"SELECT * REPLACE ({expression})" if " AS " in expression else f"SELECT * EXCLUDE ({column}), {column}"
    duckdb.sql(f"COPY ({columns} FROM read_parquet('{path}') WHERE {where}) TO '{other}' (FORMAT parquet)")
    other.rename(path)


def _said(folder: Path, name: str, value: object) -> None:
    path = folder / "purge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("what", TAMPERS)
def test_a_purge_plan_that_was_changed_is_refused_and_made_anew(quick: SmallWorld, what: str) -> None:
    """Invariant 6: before anything is deleted."""
    world, looked = quick, purge(quick, "--dry-run")["purge"]
    before = at_sources(world)
    TAMPERS[what](Path(looked["folder"]))
    refused = world.migrate("purge", "--wave", "all", "--confirm", looked["digest"], "--json")
    assert refused.code == (78 if what == "another format" else 5), refused.err
    assert "Traceback" not in refused.err
    assert at_sources(world) == before
    assert set(states(world).values()) == {U.OBSERVING}
    assert digest_of(world) == looked["digest"]
    assert purge(world, "--confirm", looked["digest"])["users"]["purged"] == USERS


def test_another_plans_purge_is_not_this_ones(quick: SmallWorld) -> None:
    """Nothing of a plan that was not run, or that is continued, is purged; after a delta the purge is made of that one."""
    world = quick
    assert world.migrate("purge", "--json").code == 2  # no wave
    assert world.migrate("purge", "--wave", "9", "--json").code == 2
    digest = digest_of(world)
    old = world.migrate("plans", "--json").json
    first = (old["plans"] if isinstance(old, dict) else old)[0]["digest"]
    assert world.migrate("delta", "--json").code == 0
    assert world.migrate("purge", "--wave", "all", "--json").code == 75  # the delta, of which nothing was run
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("purge", first, "--wave", "all", "--confirm", digest, "--json").code == 77
    assert world.migrate("purge", "--wave", "all", "--confirm", digest, "--json").code == 2
    assert confirmed(world)["users"]["purged"] == USERS
    world.assert_all_there()


def test_a_purge_goes_on_alone(quick: SmallWorld) -> None:
    """Neither beside a run nor beside another purge (75); its plan can be made meanwhile."""
    world, digest = quick, digest_of(quick)
    plan = json.loads((world.root / ".migrate" / "purges" / digest[:16] / "purge.json").read_text())["plan"]
    with ledger_of(world) as ledger, ledger.hold_plan(plan, share=False, alone=True, verb="purge"):
        assert world.migrate("purge", "--wave", "all", "--confirm", digest, "--json").code == 75
        assert digest_of(world) == digest
    assert purge(world, "--confirm", digest)["users"]["purged"] == USERS


def test_no_user_id_and_no_key_goes_into_logs_or_the_runs_arguments(quick: SmallWorld) -> None:
    """Invariant 10: on stdout who was asked for, on stderr nobody; `purge.json` names nobody."""
    world = quick
    _held(world, "u001")
    answer = world.migrate("purge", "--wave", "all")
    assert answer.code == 75, answer.err
    assert "u001" in answer.out
    assert "confirm with" in answer.out
    (folder,) = (world.root / ".migrate" / "purges").iterdir()
    done = world.migrate("purge", "--wave", "all", "--confirm", folder.name)
    assert done.code == 0
    for text in (answer.err, done.err, (folder / "purge.json").read_text()):
        assert not re.search(r"u00\d|photo", text)
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}
    with ledger_of(world) as ledger:
        assert "u00" not in str([run.arguments for run in ledger.runs(10) if run.verb == "purge"])


def test_who_was_forgotten_after_the_flip_is_purged_and_stays_forgotten(world: SmallWorld) -> None:
    """Without a window and a look at the targets, where nothing is any more; a hold wins all the same. Who was never moved
    stays."""
    home, backup = homes(world)["u001"]
    for key in [key for key in world.objects if key.startswith("users/u001/")]:
        world.store(home).delete(key)
        world.store(backup).delete(key)
        del world.objects[key]
    execute(world, "UPDATE moves SET observe_until = NULL WHERE user_id = 'u001'")
    with ledger_of(world) as ledger:
        run_id = ledger.runs(1)[0].id
        ledger.forgotten("u001", run_id, ledger.history("u001")[-1].at, note="request 7")
        ledger.hold("u001", "claim", operator="olga", run_id=None, now=ledger.history("u001")[-1].at)
    assert purge(world, "--dry-run", code=4)["missing"] == {"hold": 1}
    assert world.migrate("hold", "--user", "u001", "--release", "--reason", "settled").code == 0
    execute(world, "UPDATE moves SET flipped_at = NULL, frozen_ms = NULL WHERE user_id = 'u001'")
    assert purge(world, "--dry-run", code=4)["missing"] == {"state": 1}
    execute(world, "UPDATE moves SET flipped_at = 1, frozen_ms = 1 WHERE user_id = 'u001'")
    assert confirmed(world)["users"]["purged"] == USERS
    assert at_sources(world) == {"us": [], "singapore": []}
    assert states(world)["u001"] is U.FORGOTTEN
    with ledger_of(world) as ledger:
        found = ledger.move_of("u001")
        assert found is not None
        assert found.purged_at is not None
        assert "sources purged" in str(ledger.history("u001")[-1].note)
    assert purge(world, "--dry-run")["users"]["purged_before"] == USERS
    world.assert_all_there()


def test_what_comes_to_the_sources_of_who_was_forgotten_is_a_residue(quick: SmallWorld) -> None:
    """As of anybody who is purged: until then it awaits that, and is counted."""
    world = quick
    assert world.migrate("forget", "--user", "u001").code == 0
    awaiting = world.migrate("sweep", "--json")
    assert (awaiting.code, awaiting.json["found"]["awaiting_purge"]["number"]) == (0, 6 * USERS)
    assert confirmed(world)["users"]["purged"] == USERS
    clean = world.migrate("sweep", "--json")
    assert (clean.code, clean.json["found"]["awaiting_purge"]["number"]) == (0, 0)
    put(world, "us", KEY)
    found = world.migrate("sweep", "--list", "residue", "--json")
    assert found.code == 3
    assert [(row["store"], row["user_id"]) for row in found.json["listed"]["findings"]] == [("us", "u001")]


def test_who_lives_at_the_old_home_when_they_are_forgotten_keeps_the_sources(quick: SmallWorld) -> None:
    """A way back has flipped them at the platform, and was killed before the ledger knew: nothing of theirs goes (Invariant 1).
    The purge above is the twin."""
    world = quick
    with ledger_of(world) as ledger:
        ledger.begin_return("u001", ledger.runs(1)[0].id, datetime.now(UTC))
        ledger.forgotten("u001", ledger.runs(1)[0].id, datetime.now(UTC))
    digest = digest_of(world)
    mine = of("u001", at_sources(world))
    execute(world, "UPDATE routes SET frozen_by = 'x', frozen_until = 4000000000000000 WHERE user_id = 'u001'")
    assert purge(world, "--dry-run", code=4)["missing"] == {"home": 1}
    execute(world, "UPDATE routes SET home = 'us', frozen_by = NULL, frozen_until = NULL WHERE user_id = 'u001'")
    assert purge(world, "--dry-run", code=4)["missing"] == {"home": 1}
    done = purge(world, "--confirm", digest, code=4)
    assert (done["missing"], done["users"]["purged"]) == ({"home": 1}, USERS - 1)
    assert of("u001", at_sources(world)) == mine > 0


def test_a_home_that_keeps_versions_has_to_show_that_something_was_deleted(tmp_path: Path) -> None:
    """A delete marker says so. A key without any version at both targets was lost, or expired (Invariant 4), unless an operator
    takes the home's word for it."""
    forget_places()
    world = build(tmp_path, users=2, per_user=3, odd=False, large=False)
    spec = tmp_path / "plans" / "small.toml"
    text = spec.read_text()
    targets = {name: place(name) for name in ("dublin-1", "dublin-2", "hamar")}
    for name, found in targets.items():
        found.versioned = True
        text = text.replace(f'url = "file:stores/{name}"', f'url = "memory:{name}"')
    spec.write_text(text + ROUTING)
    move(world)
    for name in homes(world)["u001"]:
        targets[name].remove(KEY)
    assert purge(world, "--dry-run")["purge"]["deleted_since"] == 1
    for name in homes(world)["u001"]:
        for info in targets[name].versions("users/u001/photo-0002.jpg"):
            targets[name].remove(info.key, info.version_id)
    looked = purge(world, "--dry-run", code=4)
    assert (looked["missing"], looked["users"]["ready"]) == ({"deletions": 1}, 1)
    looked = purge(world, "--dry-run", "--trust-home")["purge"]
    assert (looked["users"], looked["deleted_since"], looked["trusted"]) == (2, 2, 1)
    # what was confirmed are objects, and not a number of them
    for name in homes(world)["u001"]:
        targets[name].seed("users/u001/photo-0002.jpg", world.objects["users/u001/photo-0002.jpg"][0])
        for info in targets[name].versions("users/u001/photo-0001.jpg"):
            targets[name].remove(info.key, info.version_id)
    done = purge(world, "--confirm", looked["digest"], code=4)
    assert (done["missing"], done["users"]["purged"]) == ({"deletions": 1}, 1)
    assert of("u001", at_sources(world)) == 6


def test_what_is_gone_at_home_and_backup_goes_at_the_sources_once_the_home_is_trusted(quick: SmallWorld) -> None:
    """Whom and how much that is about stands in the purge plan, under its digest: who loses everything afterwards stays. Gone at
    one of the two alone is a loss, whoever is trusted (Invariant 1)."""
    world, at = quick, homes(quick)

    def lose(user: str, *stores: str) -> None:
        for key in [key for key in world.objects if key.startswith(f"users/{user}/")]:
            for store in stores:
                world.store(store).delete(key)

    lose("u001", *at["u001"])
    looked = purge(world, "--dry-run", code=4)
    assert (looked["missing"], looked["users"]["ready"]) == ({"deletions": 1}, USERS - 1)
    assert "--trust-home" in looked["who"][0]["why"]["deletions"]
    trusting = purge(world, "--dry-run", "--trust-home")
    assert (trusting["users"]["ready"], trusting["purge"]["trusted"]) == (USERS, 3)
    digest = trusting["purge"]["digest"]
    refused = world.migrate("purge", "--wave", "all", "--trust-home", "--confirm", digest)
    assert (refused.code, "trusted" in refused.err) == (2, True)
    others = sorted(set(world.users) - {"u001"})
    lose(others[0], *at[others[0]])
    lose(others[1], at[others[1]][0])
    done = purge(world, "--confirm", digest, code=4)
    assert (done["missing"], done["users"]["purged"]) == ({"deletions": 1, "home": 1}, USERS - 2)
    assert states(world)["u001"] is U.PURGED
    left = at_sources(world)
    assert [of(user, left) for user in ("u001", *others)] == [0, 6, 6, 0]


def test_who_has_lost_receipts_stays_and_nobody_else(tmp_path: Path) -> None:
    """A sealed file that is gone keeps those whose receipts it had (Invariant 4)."""
    world = build(tmp_path, users=USERS, per_user=3, copies_max=6, odd=False, large=False)
    spec = tmp_path / "plans" / "small.toml"
    spec.write_text(spec.read_text() + ROUTING)
    move(world)
    digest = digest_of(world)
    with ledger_of(world) as ledger:
        row = ledger.user("u001")
    assert row is not None
    (sealed,) = (tmp_path / ".migrate" / "seals").glob(f"*/receipts-{row.first_batch:08d}-*.parquet")
    sealed.unlink()
    assert purge(world, "--dry-run", code=4)["missing"] == {"copies": 1}
    done = purge(world, "--confirm", digest, code=4)
    assert (done["missing"], done["users"]["purged"]) == ({"copies": 1}, USERS - 1)
    assert [each["user"] for each in done["who"]] == ["u001"]
    assert of("u001", at_sources(world)) > 0


def test_what_a_rollback_has_not_come_to_delete_is_purged(quick: SmallWorld) -> None:
    """It was deleted at the new home, is known, and stands at the sources as it did. What stands there instead is kept."""
    world = quick
    with closing(LineOfUsers(find_plan(Workspace(world.root), None))) as line:
        tombstone = line.of(["u001"])["u001"]["us", KEY].planned._replace(flag=DELETED)
    for store in homes(world)["u001"]:
        world.store(store).delete(KEY)
    with ledger_of(world) as ledger:
        row, run_id, now = ledger.user("u001"), ledger.runs(1)[0].id, datetime.now(UTC)
        assert row is not None
        token = ledger.begin_return("u001", run_id, now)
        ledger.plan_late("u001", token, row.plan_id, run_id, [tombstone], {})
        ledger.stayed("u001", token, run_id, now)
    digest = digest_of(world)
    path = world.root / "stores" / "us" / KEY
    times = path.stat()
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert purge(world, "--dry-run", code=4)["missing"] == {"late": 1}
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert purge(world, "--confirm", digest)["users"]["purged"] == USERS
    assert at_sources(world) == {"us": [], "singapore": []}


def test_who_left_the_directory_is_purged_by_the_newest_plan(quick: SmallWorld) -> None:
    """A delta that does not name them takes them over, and what the plans before have copied of them is still known: a purge
    looks whether it is all there. Until then the way back is open as well."""
    world = quick
    listed = (world.root / "users.csv").read_text().splitlines()
    kept = [line for line in listed if not line.startswith("u001,")]
    (world.root / "users.csv").write_text("\n".join(kept) + "\n")
    for _ in range(2):  # nor does a second delta leave them behind
        answer = world.migrate("delta", "--json")
        assert answer.code == 0, answer.err
        assert world.migrate("run", "--wave", "all").code == 0
    answer = world.migrate("rollback", "--user", "u001", "--dry-run", "--json")
    assert answer.code == 0, answer.out
    _, backup = homes(world)["u001"]
    lost = f"{world.root}/stores/{backup}/{KEY}"
    os.rename(lost, f"{lost}.aside")
    assert purge(world, "--dry-run", code=4)["missing"] == {"backup": 1}
    os.rename(f"{lost}.aside", lost)
    assert confirmed(world)["users"]["purged"] == USERS
    assert at_sources(world) == {"us": [], "singapore": []}
    assert states(world)["u001"] is U.PURGED


# typed at a terminal

INTERRUPT = "INTERRUPT"


def typed(world: SmallWorld, text: str) -> tuple[int, str]:
    """A purge at a terminal at which that is typed: exit code, and what is shown."""
    own, theirs = pty.openpty()
    # whoever starts the tests may ignore the signal that a terminal sends, and children inherit that
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = (
        f"{heed}; import migrate.jobs.elsewhere as e; e.LATE_SECONDS = 0; from migrate.__main__ import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *world.arguments(["purge", "--wave", "all"])],
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            chunk = os.read(own, 65536)
            if not chunk:
                break
            shown += chunk
            if b"To delete this" in shown and text:
                digest = re.search(rb"purge plan ([0-9a-f]{64})", shown)
                assert digest is not None, shown
                if text == INTERRUPT:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(own, text.replace("DIGEST", digest[1][:12].decode()).encode())
                text = ""
    except OSError:  # Linux: nobody has the other side any more
        pass
    finally:
        os.close(own)
        process.wait(timeout=120)
    return process.returncode, shown.decode()


@pytest.mark.parametrize("text", ["yes\n", "DIGESTx\n", "\n", "\x04"])
def test_what_is_not_the_digest_deletes_nothing(quick: SmallWorld, text: str) -> None:
    """Anything else than its first twelve characters ends with 75, and so does the end of the input."""
    before = at_sources(quick)
    code, shown = typed(quick, text)
    assert code == 75, shown
    assert "nothing was deleted" in shown
    assert at_sources(quick) == before


def test_the_digest_is_typed(quick: SmallWorld) -> None:
    """The twin of the above: the counts by store are shown, and what was typed carries it out. A signal in between is 130."""
    before = at_sources(quick)
    code, shown = typed(quick, INTERRUPT)
    assert (code, at_sources(quick)) == (130, before), shown
    code, shown = typed(quick, "DIGEST\n")
    assert code == 0, shown
    assert re.search(r"singapore +12 +0 +0 +0 ", shown), shown
    assert set(states(quick).values()) == {U.PURGED}


# versions


def in_memory(root: Path) -> SmallWorld:
    """A world whose sources are in this process."""
    forget_places()
    world = build(root, users=3, per_user=0, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    text = spec.read_text()
    for name in ("us", "singapore"):
        text = text.replace(f'url = "file:stores/{name}"', f'url = "memory:{name}"')
    spec.write_text(text + ROUTING)
    return world


@pytest.mark.parametrize("versioned", [True, False])
def test_a_store_that_nobody_has_probed_is_asked_for_its_versions(
    tmp_path: Path, versioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain DELETE would only add a marker: each version, marker and upload goes by its own name, of each key the current one
    last, so that nothing comes to life."""
    world = in_memory(tmp_path)
    places: dict[str, MemoryPlace] = {}
    for name in ("us", "singapore"):
        places[name] = place(name)
        places[name].versioned = versioned
        for user in world.users:
            for number in range(3):
                places[name].seed(f"users/{user}/{number}", b"an older one", attributes=IMAGE)
                places[name].seed(f"users/{user}/{number}", body_of(f"{user}{number}", 50), attributes=IMAGE)
            for _ in range(130 if user == "u001" else 1):  # more than go at once
                places[name].seed(f"users/{user}/deleted", b"gone before")
            places[name].remove(f"users/{user}/deleted")
    monkeypatch.setattr("migrate.jobs.wave_users.Door", _unprobed())
    move(world)
    for name in ("us", "singapore"):
        body = {info.key: info for info in places[name].versions("")}
        assert len(body) == (12 if versioned else 9)
    looked = purge(world, "--dry-run")["purge"]["stores"]["us"]
    expected = (
        {"object": 0, "version": 150, "delete-marker": 3}
        if versioned
        else {"object": 9, "version": 0, "delete-marker": 0}
    )
    assert looked | expected == looked
    current: list[int] = []

    def watch(operation: str, key: str) -> None:
        if operation == "delete":
            current.append(len(places["us"].page("users/", "")[0]))

    places["us"].after = watch
    assert confirmed(world)["users"]["purged"] == 3
    assert current == sorted(current, reverse=True), "something came to life"
    assert {name: found.versions("") for name, found in places.items()} == {"us": [], "singapore": []}


def test_versions_that_are_kept_since_a_moment_ago_are_no_plain_deletion(tmp_path: Path) -> None:
    """Between listing and deletion the bucket begins to keep versions: a plain DELETE would leave a marker over the same bytes,
    so the object stays."""
    world = in_memory(tmp_path)
    places = {name: place(name) for name in ("us", "singapore")}
    for found in places.values():
        found.seed("users/u001/1", b"content", attributes=IMAGE)  # the others have nothing, and are purged of it
    move(world)
    digest = digest_of(world)
    singapore = places["singapore"]

    def versioning(operation: str, key: str) -> None:
        if (operation, key, singapore.versioned) == ("head", "users/u001/1", False):
            singapore.versioned = True
            singapore.seed(key, b"content", attributes=IMAGE)

    singapore.fault = versioning
    done = purge(world, "--confirm", digest, code=4)
    assert done["users"] | {"purged": 2, "not_empty": 1} == done["users"]
    assert not any(info.is_delete_marker for info in singapore.versions("users/u001/"))
    assert singapore.find("users/u001/1") is not None
    # to this store the version from before has no id: nothing can be said to be that one, and what is above it stays, too
    done = confirmed(world, 4)
    assert {each["reason"]: each["number"] for each in done["remains"]} == {
        "failed": 1, "kept, since an older version under it is left": 1,
    }  # fmt: skip
    assert not any(info.is_delete_marker for info in singapore.versions("users/u001/"))


def _unprobed() -> Any:
    """The door as it opens stores of which nothing is known."""

    class Unprobed(Door):
        def __init__(self, *given: Any, capabilities: Any, **named: Any) -> None:
            super().__init__(*given, capabilities=dict.fromkeys(("us", "singapore"), Capabilities()), **named)

    return Unprobed


WITH_LOCKS = [("moto_server", "locks"), ("rgw_server", "locks")]


@pytest.fixture(params=[*WITH_LOCKS, ("moto_server", "versions since"), ("rgw_server", "versions since")], ids=" ".join)
def buckets(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SmallWorld, dict[str, str], Any]:
    """Sources in buckets: the first keeps versions, some time since or, with object lock, from its beginning; the backup none."""
    server: S3Server = request.getfixturevalue(request.param[0])
    for name, value in credentials(server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=3, per_user=0, odd=False, large=False)
    names = on_s3(world, server, per_user=2, locked=["us"] if request.param[1] == "locks" else [])
    client: Any = server.boto3()
    client.put_bucket_versioning(Bucket=names["us"], VersioningConfiguration={"Status": "Enabled"})
    spec = tmp_path / "plans" / "small.toml"
    spec.write_text(spec.read_text() + ROUTING)
    for body in (b"older", b"newer"):
        for name in ("us", "singapore"):
            client.put_object(Bucket=names[name], Key=PHOTO, Body=body, ContentType="image/jpeg")
    for _ in range(2):
        client.put_object(Bucket=names["us"], Key="data/users/u002/deleted", Body=b"before")
        client.delete_object(Bucket=names["us"], Key="data/users/u002/deleted")
    assert world.migrate("doctor", str(spec)).code == 0
    move(world)
    client.create_multipart_upload(Bucket=names["us"], Key="data/users/u002/film")
    return world, names, client


PHOTO = "data/users/u002/photo 0+ü.jpg"


def held_at(client: Any, bucket: str) -> list[tuple[str, str]]:
    found = client.list_object_versions(Bucket=bucket)
    kinds = [("Versions", "version"), ("DeleteMarkers", "marker")]
    return [(item["Key"], kind) for name, kind in kinds for item in found.get(name, ())]


def test_versions_markers_and_uploads_of_buckets_go(buckets: tuple[SmallWorld, dict[str, str], Any]) -> None:
    """Seen by boto3: nothing of the users is left in either bucket, and what only lies beside them is."""
    world, names, client = buckets
    client.put_object(Bucket=names["us"], Key="beside/users/u002/x", Body=b"x")
    looked = purge(world, "--dry-run")["purge"]["stores"]
    us, singapore = looked["us"], looked["singapore"]
    # the first versions of a bucket that keeps them later are called `null`, and another object can take their place
    assert (us["version"], us["object"]) in ((5, 6), (11, 0))
    assert (us["delete-marker"], us["upload"]) == (2, 1)
    assert (singapore["object"], singapore["version"], singapore["delete-marker"]) == (6, 0, 0)
    done = confirmed(world)
    assert done["users"]["purged"] == 3
    assert held_at(client, names["us"]) == [("beside/users/u002/x", "version")]
    assert held_at(client, names["singapore"]) == []
    assert client.list_multipart_uploads(Bucket=names["us"]).get("Uploads", []) == []
    assert world.migrate("sweep").code == 0


@pytest.mark.parametrize("buckets", WITH_LOCKS, indirect=True, ids=" ".join)
def test_what_a_lock_keeps_is_told_and_nothing_above_it_goes(
    buckets: tuple[SmallWorld, dict[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a key whose older version is under a legal hold the current one stays as well: without it the older would be current.
    Once the lock is gone a new purge plan ends it."""
    world, names, client = buckets
    key = PHOTO
    versions = client.list_object_versions(Bucket=names["us"], Prefix=key)["Versions"]
    oldest = next(item["VersionId"] for item in versions if not item["IsLatest"])
    client.put_object_legal_hold(Bucket=names["us"], Key=key, VersionId=oldest, LegalHold={"Status": "ON"})
    done = confirmed(world, 4)
    assert (done["users"]["purged"], done["users"]["not_empty"]) == (2, 1)
    reasons = {(each["store"], each["reason"]): each["number"] for each in done["remains"]}
    assert reasons == {("us", "object lock"): 1, ("us", "kept, since an older version under it is left"): 1}
    assert states(world)["u002"] is U.PURGING
    assert client.get_object(Bucket=names["us"], Key=key)["Body"].read() == b"newer"
    client.put_object_legal_hold(Bucket=names["us"], Key=key, VersionId=oldest, LegalHold={"Status": "OFF"})
    assert confirmed(world)["users"]["purged"] == 1
    assert held_at(client, names["us"]) == []


@pytest.mark.parametrize("buckets", WITH_LOCKS[:1], indirect=True, ids=" ".join)
def test_a_bucket_that_does_not_let_its_versions_be_listed_purges_nobody(
    buckets: tuple[SmallWorld, dict[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 4: not known is not none."""
    world, names, client = buckets
    before = held_at(client, names["us"])

    def denied(self: S3Reader, prefix: str = "") -> Any:
        raise DeniedError(self.name, "list versions")

    monkeypatch.setattr(S3Reader, "list_versions", denied)
    looked = purge(world, "--dry-run", code=69)
    assert (looked["users"]["failed"], looked["purge"]) == (3, None)
    assert held_at(client, names["us"]) == before
