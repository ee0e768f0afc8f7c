"""A delta from the change at the source to its proof: what changed is copied, what was deleted is removed, no more is read."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kept import made_once
from smallworld import SmallWorld, body_of, build, planned

from migrate.errors import RefusedError
from migrate.ledger import Ledger, ProcessIdentity
from migrate.model import Attributes, Purpose
from migrate.stores.file import FileStore


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Planned, copied and verified."""
    return verified(tmp_path, request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


@made_once
def verified(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=8, per_user=4, copies_max=20)
    world.ledger = ledger
    planned(world)
    moved(world)
    return world


def moved(world: SmallWorld) -> None:
    for words in (("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err


def delta(world: SmallWorld, *words: str) -> dict[str, object]:
    answer = world.migrate("delta", *words, "--json")
    assert answer.code == 0, answer.err
    return dict(answer.json)


def remove(world: SmallWorld, key: str, *, backup: bool = True) -> None:
    for store in ("us", "singapore") if backup else ("us",):
        world.store(store).delete(key)
    del world.objects[key]


def states(world: SmallWorld) -> dict[str, int]:
    answer = world.migrate("status", "--json")
    assert answer.code == 0, answer.err
    found: dict[str, int] = {}
    for wave in answer.json["standing"]:
        for state, number in wave["users"].items():
            found[state] = found.get(state, 0) + number
    return {state: number for state, number in found.items() if number}


def test_changes_come_over_and_deletions_too(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """New, changed and deleted objects; a deletion that the backup has not followed; and of the others not a byte is read at any
    store, neither to plan nor to copy nor to verify. A dry run builds no plan."""
    world.put_source("users/u000/new.jpg", b"new")
    world.put_source("users/u001/photo-0001.jpg", b"changed")
    world.put_source("users/u001/film.mp4", body_of("cut", 11 * 2**20))
    remove(world, "users/u002/photo-0002.jpg")
    remove(world, "users/u003/photo-0000.jpg", backup=False)
    read: set[tuple[bool, str]] = set()
    get = FileStore.get

    def watched(store: FileStore, key: str, **given: object) -> object:
        read.add((store.name in ("us", "singapore"), key))
        return get(store, key, **given)  # type: ignore[arg-type]

    plans = world.migrate("plans", "--json").json
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "get", watched)
        assert delta(world, "--dry-run")["copies"] == 10
        assert world.migrate("plans", "--json").json == plans
        assert delta(world)["copies"] == 10
        assert read == set()
        assert world.migrate("run", "--wave", "all").code == 0
        changed = {"users/u000/new.jpg", "users/u001/photo-0001.jpg", "users/u001/film.mp4"}
        assert {key for is_source, key in read if is_source} == changed
        assert world.migrate("verify").code == 0
        assert {key for _, key in read} == changed
    world.assert_all_there()
    assert states(world) == {"verified": 8}
    assert world.migrate("verify", "--level", "both-ends", "--wave", "all").code == 0
    assert world.migrate("verify", "--level", "listing", "--wave", "all").code == 0
    assert delta(world)["copies"] == 0


def lags(world: SmallWorld, *words: str) -> dict[int, tuple[str | None, int]]:
    """By wave, as of when the sources are at the targets, and how many copies are open."""
    answer = world.migrate("status", *words, "--json")
    assert answer.code == 0, answer.err
    return {lag["wave"]: (lag["sources_seen"], lag["open_copies"]) for lag in answer.json["lags"]}


def told_lags(world: SmallWorld) -> dict[int, list[str]]:
    """The same in words: by wave, what stands behind it."""
    lines = world.migrate("status").out.splitlines()
    header = next(place for place, line in enumerate(lines) if "sources as of" in line)
    rows = [line.split() for line in lines[header + 1 : header + 4]]
    return {int(row[0]): row[1:] for row in rows}


def seen(world: SmallWorld) -> str:
    """When the newest plan saw the sources."""
    return str(world.migrate("status", "--json").json["sources_seen"])


def test_a_wave_is_as_far_behind_as_the_newest_plan_that_is_whole_for_it(world: SmallWorld) -> None:
    """While a delta has something left for a wave, be it for a person to look at, no receipts show more than that the wave is as
    the plan before left it; the other waves are further (Invariant 9)."""
    parent, key = world.migrate("plans", "--json").json["plans"][0]["digest"], "users/u001/photo-0001.jpg"
    wave = int(world.migrate("status", "--user", "u001", "--json").json["wave"])
    others = sorted({0, 1, 2} - {wave})
    first = seen(world)
    assert lags(world) == {0: (first, 0), 1: (first, 0), 2: (first, 0)}
    world.put_source(key, b"changed")
    delta(world)
    assert world.migrate("run", "--wave", ",".join(map(str, others))).code == 75
    second = seen(world)
    assert second > first
    assert lags(world) == {wave: (first, 2), **dict.fromkeys(others, (second, 0))}
    assert lags(world, parent) == {}
    world.put_source(key, b"changed once more")
    assert world.migrate("run", "--wave", "all").code == 4
    assert lags(world) == {wave: (first, 2), **dict.fromkeys(others, (second, 0))}
    told = {number: " ".join(row[-3:]) for number, row in told_lags(world).items()}
    assert told == {wave: "2 14 B", **dict.fromkeys(others, "0 0 B")}
    delta(world)
    assert world.migrate("run", "--wave", "all").code == 0
    third = seen(world)
    assert third > second
    assert lags(world) == {0: (third, 0), 1: (third, 0), 2: (third, 0)}


def test_a_wave_that_was_never_whole_has_no_lag(tmp_path: Path) -> None:
    """Before it is copied, and while a copy of it is quarantined: no receipts show as of when it is at the targets."""
    world = build(tmp_path, users=6, per_user=4, odd=False, large=False)
    planned(world)
    key = "users/u002/photo-0001.jpg"
    wave = int(world.migrate("explain", "u002", "--json").json["user"]["wave"])
    others = sorted({0, 1, 2} - {wave})
    for store in ("dublin-1", "dublin-2"):
        world.put(store, key, b"somebody else's", Attributes(), {})
    assert world.migrate("run", "--wave", ",".join(map(str, others))).code == 75
    copies = {found["wave"]: found["copies"] for found in world.migrate("status", "--json").json["standing"]}
    assert lags(world) == {wave: (None, copies[wave]), **dict.fromkeys(others, (seen(world), 0))}
    assert world.migrate("run", "--wave", "all").code == 4
    assert lags(world)[wave][0] is None
    assert told_lags(world)[wave][:2] == ["–", "–"]


def test_the_older_plan_is_named_by_nobody_any_more(world: SmallWorld) -> None:
    """Once its delta has begun, run, verify and delta of the parent are refused and name it; status says where its users are."""
    parent = world.migrate("plans", "--json").json["plans"][0]["digest"]
    child = str(delta(world)["digest"])
    assert world.migrate("verify", parent, "--wave", "all").code == 0
    assert world.migrate("run", child).code == 0
    for words in (("run", parent), ("verify", parent), ("delta", parent)):
        answer = world.migrate(*words)
        assert answer.code == 77, answer.err
        assert child[:12] in answer.err
    answer = world.migrate("status", parent)
    assert answer.code == 0, answer.err
    assert child[:12] in answer.out
    assert states(world) == {"verified": 8}


def test_a_drifted_user_goes_on_by_a_delta(tmp_path: Path) -> None:
    """The source changed between plan and run: of that user the changed object alone is planned, and all are verified."""
    world = build(tmp_path, users=6, per_user=4, odd=False, large=False)
    planned(world)
    world.put_source("users/u002/photo-0001.jpg", b"written meanwhile")
    assert world.migrate("run", "--wave", "all").code == 4
    assert world.migrate("verify").code in (0, 4)
    assert states(world) == {"verified": 5, "copying": 1}
    assert delta(world)["copies"] == 2
    moved(world)
    world.assert_all_there()
    assert states(world) == {"verified": 6}


def test_what_was_not_verified_is_planned_again_and_not_called_proved(tmp_path: Path) -> None:
    """A copy without a MATCH is in the delta (Invariant 9), and takes the place of itself."""
    world = build(tmp_path, users=4, per_user=3, odd=False, large=False)
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    assert delta(world)["copies"] == 2 * len(world.objects)
    moved(world)
    world.assert_all_there()


def test_a_delta_waits_for_a_batch_that_was_begun(tmp_path: Path) -> None:
    """Nobody knows what of it stands at a target without a receipt (Invariant 2)."""
    world = build(tmp_path, users=6, per_user=4, copies_max=8, odd=False, large=False)
    planned(world)
    answer = world.migrate("delta")
    assert answer.code == 75, answer.err
    with world.start("run", "--wave", "all", MIGRATE_PAUSE_AT="group-committed") as run:
        os.waitpid(run.pid, os.WUNTRACED)
        run.kill()
    answer = world.migrate("delta")
    assert answer.code == 75
    assert "was begun and is not done" in answer.err
    moved(world)
    assert delta(world)["copies"] == 0


def test_a_key_that_is_there_after_all_is_not_removed(world: SmallWorld) -> None:
    """A tombstone stands for a listing: where the source has the object again, the copy drifts and the target keeps what it has
    (Invariant 4)."""
    key = "users/u002/photo-0002.jpg"
    body, attributes, tags = world.objects[key]
    remove(world, key)
    delta(world)
    for store in ("us", "singapore"):
        world.put(store, key, body, attributes, tags)
    world.objects[key] = (body, attributes, tags)
    assert world.migrate("run", "--wave", "all").code == 4
    world.assert_all_there()
    assert delta(world)["copies"] == 2
    moved(world)
    world.assert_all_there()


def test_what_somebody_else_wrote_is_neither_replaced_nor_removed(world: SmallWorld) -> None:
    """Only what carries the ETag of the line's receipt gives way (Invariant 2)."""
    changed, deleted = "users/u001/photo-0001.jpg", "users/u002/photo-0002.jpg"
    homes = {key: store for (store, key) in world.at_targets() if key in (changed, deleted)}
    for key, store in homes.items():
        world.put(store, key, b"written in Europe", Attributes(), {})
    world.put_source(changed, b"changed")
    remove(world, deleted)
    delta(world)
    assert world.migrate("run", "--wave", "all").code == 4
    for key, store in homes.items():
        assert world.at_targets()[store, key][0] == b"written in Europe"
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert {(entry["key"], entry["reason"]) for entry in failures} == {(changed, "occupied"), (deleted, "occupied")}


def test_a_deleted_object_that_comes_back_at_a_target_is_found(world: SmallWorld) -> None:
    """The corrupted twin: what a tombstone removed stands there again, and is a MISMATCH; the repair removes it."""
    key = "users/u002/photo-0002.jpg"
    remove(world, key)
    delta(world)
    assert world.migrate("run", "--wave", "all").code == 0
    store = next(store for (store, other) in world.at_targets() if other == "users/u002/photo-0001.jpg")
    world.put(store, key, b"x", Attributes(), {})
    answer = world.migrate("verify", "--repair")
    assert answer.code == 3, answer.err
    moved(world)
    world.assert_all_there()


def test_people_come_and_go(world: SmallWorld) -> None:
    """Who leaves the scope has every copy removed, and sources keep what they have; who enters is copied, and so is who comes
    back; homes stay."""
    people = dict(world.users) | {"u004": "US", "u900": "FI"}
    lines = ["user_id,country", *(f"{user},{country}" for user, country in people.items())]
    (world.root / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    world.put_source("users/u900/first.jpg", b"hello")
    world.users["u900"] = "SE"
    delta(world)
    moved(world)
    left = {key: held for key, held in world.objects.items() if key.startswith("users/u004/")}
    assert left
    for key in left:
        del world.objects[key]
        assert world.store("us").head(key)
    world.assert_all_there()
    lines[lines.index("u004,US")] = f"u004,{world.users['u004']}"
    (world.root / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert delta(world)["copies"] == 2 * len(left)
    moved(world)
    world.objects |= left
    world.assert_all_there()


def test_a_delta_takes_the_spec_as_it_is_by_now(tmp_path: Path) -> None:
    """A directory of another day, and a country that nobody had decided: without it the delta is refused; what the line has
    decided for good is refused with it."""
    world = build(tmp_path, users=4, per_user=3, odd=False, large=False)
    planned(world)
    moved(world)
    world.users["u900"] = "CH"
    lines = ["user_id,country", *(f"{user},{country}" for user, country in world.users.items())]
    (world.root / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    world.put_source("users/u900/first.jpg", b"hello")
    answer = world.migrate("delta")
    assert answer.code == 77, answer.err
    assert "CH (1)" in answer.err
    assert "migrate delta --spec SPEC" in answer.err
    path = world.root / "plans" / "small.toml"
    text = re.sub("as_of = .*", f"as_of = {datetime.now(UTC).isoformat()}", path.read_text(encoding="utf-8"))
    path.write_text(text.replace("copies_max = 60", "copies_max = 61"), encoding="utf-8")
    answer = world.migrate("delta", "--spec", str(path))
    assert answer.code == 78, answer.err
    assert "batches.copies_max" in answer.err
    path.write_text(text + '\n[scope.decisions]\nCH = "in"\n', encoding="utf-8")
    assert delta(world, "--spec", str(path))["copies"] == 2
    moved(world)
    world.assert_all_there()
    assert delta(world)["copies"] == 0


def test_a_stray_is_extra_to_a_delta_too(world: SmallWorld) -> None:
    """Beside what the line keeps, which is not EXTRA (Invariant 9)."""
    world.put_source("users/u000/new.jpg", b"new")
    delta(world)
    assert world.migrate("run", "--wave", "all").code == 0
    store = next(store for (store, key) in world.at_targets() if key == "users/u000/new.jpg")
    world.put(store, "users/u000/stray", b"who wrote this", Attributes(), {})
    answer = world.migrate("verify")
    assert answer.code == 3, answer.err
    extras = world.migrate("status", "--failures", "--json").json["failures"]
    assert [(entry["key"], entry["store"]) for entry in extras] == [("users/u000/stray", store)]


@pytest.mark.parametrize("is_somebodys", [False, True])
def test_what_a_process_that_died_has_left_of_a_copy_that_drifted_is_replaced(
    is_somebodys: bool, tmp_path: Path
) -> None:
    """It had been written, and its receipt had not when the source changed: it has the source's ETag of then. The twin has
    another, and is somebody's (Invariant 2)."""
    world, key = build(tmp_path, users=2, per_user=2, odd=False, large=False), "users/u001/photo-0001.jpg"
    planned(world)
    body, attributes, tags = world.objects[key]
    body = b"somebody's" if is_somebodys else body
    world.put_source(key, b"changed since")
    assert world.migrate("run", "--wave", "all").code == 4
    ledger = Ledger.open(f"sqlite:///{tmp_path}/.migrate/ledger.sqlite")
    row = ledger.user("u001")
    ledger.close()
    assert row is not None
    sites = (str(row.home), str(row.backup))
    for site in sites:
        world.put(site, key, body, attributes, tags)
    delta(world)
    assert world.migrate("run", "--wave", "all").code == (4 if is_somebodys else 0)
    if is_somebodys:
        assert {world.at_targets()[site, key][0] for site in sites} == {body}
    else:
        moved(world)
        world.assert_all_there()


def test_a_delta_that_is_built_on_something_else_by_now_is_not_begun(world: SmallWorld) -> None:
    """A repair has put copies back since: what the delta took for settled is not (Invariant 9)."""
    child = str(delta(world)["digest"])
    parent = next(plan["digest"] for plan in world.migrate("plans", "--json").json["plans"] if plan["digest"] != child)
    store, key = next(iter(world.at_targets()))
    world.store(store).delete(key)
    assert world.migrate("verify", parent, "--wave", "all", "--repair").code == 3
    assert world.migrate("run", parent, "--wave", "all").code == 0
    answer = world.migrate("run", child)
    assert answer.code == 75, answer.err
    assert "since this delta was built" in answer.err
    assert delta(world, parent)["copies"] == 2
    moved(world)
    world.assert_all_there()


def test_what_is_found_before_a_delta_begins_is_not_forgotten(world: SmallWorld) -> None:
    """One difference is mended and another comes up, so that there are as many as when the delta was built: it is not begun, and
    the next one has both (Invariant 9)."""
    parent = world.migrate("plans", "--json").json["plans"][0]["digest"]
    (first, one), (second, other) = [place for place in world.at_targets() if place[1].endswith("photo-0001.jpg")][:2]
    sound = world.at_targets()[first, one]
    world.put(first, one, b"garbage", Attributes(), {})
    assert world.migrate("verify", "--wave", "all").code == 3
    child = str(delta(world)["digest"])
    world.put(first, one, *sound)
    world.put(second, other, b"garbage", Attributes(), {})
    assert world.migrate("verify", parent, "--wave", "all").code == 3
    answer = world.migrate("run", child)
    assert answer.code == 75, answer.err
    assert f"migrate delta {parent[:12]}" in answer.err
    assert delta(world, parent)["copies"] == 2
    moved(world)
    world.assert_all_there()


def test_who_vanishes_from_the_directory_is_told_of(world: SmallWorld) -> None:
    """With all their objects: the delta is blocked until somebody accepts that their copies stay."""
    gone = [key for key in world.objects if key.startswith("users/u003/")]
    lines = ["user_id,country", *(f"{user},{country}" for user, country in world.users.items() if user != "u003")]
    (world.root / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for key in gone:
        remove(world, key)
    built = delta(world)
    (blocker,) = built["blockers"]  # type: ignore[misc]
    assert (blocker["kind"], blocker["count"]) == ("vanished", 1)
    assert world.migrate("run").code == 77
    assert world.migrate("run", "--accept", blocker["accept"]).code == 0
    told = world.migrate("delta").out
    assert "nothing blocks it" in told
    assert "accepted of a plan before, and the same to the last item: 1 vanished" in told
    assert world.migrate("run").code == 0  # what was accepted of the line stays so


def test_nothing_is_removed_of_who_is_on_hold(world: SmallWorld) -> None:
    """A hold that was set after the plan: the source has deleted the object, and the copies are the last there are."""
    key = "users/u002/photo-0002.jpg"
    held = world.objects[key]
    remove(world, key)
    delta(world)
    assert world.migrate("hold", "--user", "u002", "--reason", "claim 4711").code == 0
    assert world.migrate("run", "--wave", "all").code == 4
    world.objects[key] = held
    world.assert_all_there()
    assert world.migrate("hold", "--user", "u002", "--release", "--reason", "settled").code == 0
    del world.objects[key]
    delta(world)
    moved(world)
    world.assert_all_there()


def test_nothing_of_the_plan_before_is_leased_once_its_delta_has_begun(world: SmallWorld) -> None:
    """However a run of it came by the first look: what is left of it is in the delta (Invariant 5)."""
    parent = world.migrate("plans", "--json").json["plans"][0]["digest"]
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        plan_id = ledger.plan_id(parent)
        assert plan_id is not None
        now = datetime.now(UTC)
        run_id = ledger.start_run(
            verb="verify", operator="o", host="h", country="IE", tool_version="0", arguments={}, plan=parent, now=now
        )
        worker = ledger.start_worker(run_id, ProcessIdentity.current(), now)
        assert ledger.lease(plan_id, worker, Purpose.COPY) is None
        delta(world)
        assert world.migrate("run").code == 0
        with pytest.raises(RefusedError, match="continued by the delta"):
            ledger.lease(plan_id, worker, Purpose.COPY)
    finally:
        ledger.close()
    assert states(world) == {"verified": 8}
