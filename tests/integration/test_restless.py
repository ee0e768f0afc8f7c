"""Who writes without pause always has a copy that is behind its source: the freeze and its last delta take them over all the
same, with nothing lost, and nobody is called proved for what nobody has looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from purgeworld import ROUTING, at_sources, confirmed, end_windows, ledger_of, states
from smallworld import SmallWorld, body_of, build, planned

from migrate.errors import PreconditionError
from migrate.jobs.last_delta import known_of
from migrate.model import Attributes
from migrate.states import UserState
from migrate.stores.file import FileStore

USERS = 4
KEY = "users/u000/photo-0001.jpg"
U = UserState


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


def laid(root: Path, more: str = "") -> SmallWorld:
    """A world that is planned."""
    world = build(root, users=USERS, per_user=3, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    spec.write_text(spec.read_text() + ROUTING + more, encoding="utf-8")
    planned(world)
    return world


def do(world: SmallWorld, *words: str, code: int = 0) -> Any:
    answer = world.migrate(*words, "--json")
    assert answer.code == code, (answer.code, answer.out, answer.err)
    return answer.json


def cutover(world: SmallWorld, *words: str, code: int = 0) -> Any:
    return do(world, "cutover", "--wave", "all", *words, code=code)


def write(world: SmallWorld, key: str, body: str) -> None:
    world.put_source(f"users/{key}.jpg", body.encode())


def delete(world: SmallWorld, key: str) -> None:
    for store in ("us", "singapore"):
        world.store(store).delete(f"users/{key}.jpg")
    del world.objects[f"users/{key}.jpg"]


def test_who_never_pauses_goes_over_and_is_purged(tmp_path: Path) -> None:
    """One object of a user, all of a user's, and one that is deleted, drift; the writing goes on until the freeze. What the
    freeze may copy is bounded as ever, and a purge takes what was brought late for proved (Invariants 1 and 9)."""
    world = laid(tmp_path, "[cutover]\nlate_objects_max = 3\n")
    write(world, "u000/photo-0001", "once")
    for number in range(3):
        write(world, f"u001/photo-000{number}", "once, too")
    delete(world, "u002/photo-0001")
    do(world, "run", "--wave", "all", code=4)
    assert cutover(world, "--dry-run", code=4)["missing"] == {"state": USERS}, "nobody has looked yet"
    do(world, "verify", code=4)
    restless = dict.fromkeys(("u000", "u001", "u002"), U.COPYING)
    assert states(world) == {**restless, "u003": U.VERIFIED}
    looked = cutover(world, "--dry-run")
    assert (looked["users"]["ready"], looked["late_objects"]) == (USERS, 5)

    write(world, "u000/photo-0001", "twice, and longer")
    write(world, "u000/photo-0002", "once by now")
    delete(world, "u001/photo-0000")
    write(world, "u002/photo-0001", "there again")
    write(world, "u001/more", "new")
    held = cutover(world, "--dry-run", code=4)
    assert ([each["user"] for each in held["who"]], held["missing"]) == (["u001"], {"late": 1})
    delete(world, "u001/more")
    moved = cutover(world)
    assert (moved["users"]["moved"], moved["late_objects"]) == (USERS, 6)
    world.assert_all_there()
    assert set(states(world).values()) == {U.OBSERVING}
    with ledger_of(world) as ledger:
        assert [event.from_state for event in ledger.history("u001")] == [U.COPYING, U.FROZEN, U.CUT_OVER]
    end_windows(world)
    assert confirmed(world)["users"]["purged"] == USERS
    assert at_sources(world) == {"us": [], "singapore": []}
    world.assert_all_there()


def test_by_a_delta_of_which_all_has_drifted_and_back_again(tmp_path: Path) -> None:
    """The same object in every plan: the delta has nothing else of the user's, and its wave is verified without being named. What
    the copy was to replace is replaced. The sources stand, so the way back is open (Invariant 2)."""
    world = laid(tmp_path)
    for words in (("run", "--wave", "all"), ("verify",)):
        do(world, *words)
    write(world, "u000/photo-0001", "since the plan")
    assert do(world, "delta")["copies"] == 2
    write(world, "u000/photo-0001", "since the delta, and longer")
    do(world, "run", "--wave", "all", code=4)
    assert do(world, "verify", code=4)["pass"] is not None
    assert do(world, "verify", code=4)["pass"] is None
    write(world, "u000/photo-0001", "since the verification, and longer still")
    assert cutover(world)["users"]["moved"] == USERS
    world.assert_all_there()
    do(world, "rollback", "--wave", "all")
    assert set(states(world).values()) == {U.ROLLED_BACK}
    for store in ("us", "singapore"):
        with world.store(store).get(KEY) as download:
            assert download.read() == world.objects[KEY][0]


def test_what_was_written_in_europe_before_going_back_is_not_overwritten(tmp_path: Path) -> None:
    """The copy that a delta plans anew drifts, and names what the first plan had left there: what stands there by now is the
    user's, and is no cutover's to replace, however often it is tried (Invariant 2)."""
    world = laid(tmp_path)
    for words in (("run", "--wave", "all"), ("verify",), ("cutover", "--wave", "all")):
        do(world, *words)
    with ledger_of(world) as ledger:
        row = ledger.user("u000")
    assert row is not None
    home = str(row.home)
    world.put(home, KEY, b"written in Europe", Attributes(content_type="a/b"), {})
    do(world, "rollback", "--wave", "all")
    write(world, "u000/photo-0001", "at the old home again")
    do(world, "delta")
    write(world, "u000/photo-0001", "since the delta, and longer")
    do(world, "run", "--wave", "all", code=4)
    do(world, "verify", code=4)
    for _ in range(2):
        found = cutover(world, code=4)
        assert [each["user"] for each in found["who"]] == ["u000"]
        assert "occupied" in found["who"][0]["why"]["failed"]
        with world.store(home).get(KEY) as download:
            assert download.read() == b"written in Europe"
    world.store(home).delete(KEY)
    assert cutover(world)["users"]["moved"] == 1
    world.assert_all_there()


def test_at_both_ends_a_source_that_moved_on_is_brought_as_well(tmp_path: Path) -> None:
    """Its copy has a receipt, and no verification can say more than that the source is another by now."""
    world = laid(tmp_path, '[verify]\nlevel = "both-ends"\n')
    do(world, "run", "--wave", "all")
    write(world, "u000/photo-0001", "another")
    delete(world, "u001/photo-0002")
    do(world, "verify", code=4)
    assert states(world) == {"u000": U.COPIED, "u001": U.COPIED, "u002": U.VERIFIED, "u003": U.VERIFIED}
    moved = cutover(world)
    assert (moved["users"]["moved"], moved["late_objects"]) == (USERS, 2)
    world.assert_all_there()
    end_windows(world)
    assert confirmed(world)["users"]["purged"] == USERS


def drift(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object drifts under the copying, and is at the source as it was planned before and after."""
    get = FileStore.get

    def changing(store: FileStore, key: str, **given: Any) -> Any:
        if (store.name, key) == ("us", KEY):
            raise PreconditionError(store.name, "GET", "another by now", key=key)
        return get(store, key, **given)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "get", changing)
        do(world, "run", "--wave", "all", code=4)
    do(world, "verify", code=4)


def test_a_drifted_copy_without_a_late_receipt_does_not_flip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 9. The corrupted twin is a last delta that believes the listing, which is as the plan has it: the user stays. The
    right one takes the object whatever the listing says."""
    world = laid(tmp_path)
    drift(world, monkeypatch)

    def believing(line: Any, late: Any, spec: Any, *_behind: Any) -> Any:
        return known_of(line, late, spec)

    def unseen(*_: Any) -> Iterator[Any]:
        """The gate would see that nothing is there."""
        yield [lambda: None]
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("migrate.jobs.cutover_user.known_of", believing)
        patch.setattr("migrate.jobs.cutover_user._lost", unseen)
        broken = cutover(world, code=4)
    assert [each["user"] for each in broken["who"]] == ["u000"]
    assert "was not brought" in broken["who"][0]["why"]["failed"]
    assert broken["users"]["moved"] == USERS - 1
    assert states(world)["u000"] is U.COPYING
    found = cutover(world)
    assert (found["users"]["moved"], found["late_objects"]) == (1, 1)
    world.assert_all_there()


def test_what_stands_where_a_copy_has_drifted_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours has ever been there, so it is not overwritten, and its user stays (Invariant 2)."""
    world = laid(tmp_path)
    drift(world, monkeypatch)
    with ledger_of(world) as ledger:
        row = ledger.user("u000")
    assert row is not None
    home = str(row.home)
    world.put(home, KEY, body_of("somebody's", 30), Attributes(content_type="a/b"), {})
    failed = cutover(world, code=4)
    assert "occupied" in failed["who"][0]["why"]["failed"]
    assert states(world)["u000"] is U.COPYING
    with world.store(home).get(KEY) as download:
        assert download.read() == body_of("somebody's", 30)
    world.store(home).delete(KEY)
    assert cutover(world)["users"]["moved"] == 1
    world.assert_all_there()
