"""Verifications that come one after another, through the command line: what stands, what is answered, what is said at the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from smallworld import Answer, SmallWorld, body_of, build, build_planned, planned

from migrate.errors import DeniedError
from migrate.ledger import EXTRA
from migrate.model import Attributes
from migrate.pauses import VARIABLE, PausePoint
from migrate.stores.file import FileStore
from migrate.verify import check_object, check_prefix
from migrate.worker import checking

VERIFIED = {"verified"}


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Five users with three objects each, all copied; each user is split over two batches."""
    return copied(tmp_path, None)


@made_once
def copied(root: Path, ledger: str | None) -> SmallWorld:
    world = build_planned(root, ledger, users=5, per_user=3, copies_max=4, odd=False, large=False)
    assert world.migrate("run", "--wave", "all").code == 0
    return world


def homes(world: SmallWorld) -> dict[str, str]:
    return {key: name for name, key in world.at_targets()}


def lose(world: SmallWorld, key: str) -> str:
    """Delete one copy of an object; where it was."""
    store = homes(world)[key]
    world.store(store).delete(key)
    return store


def give_back(world: SmallWorld, store: str, key: str) -> None:
    body, attributes, tags = world.objects[key]
    world.put(store, key, body, attributes, tags)


def killed(world: SmallWorld, point: PausePoint, times: int, *words: str) -> None:
    """Run a command, and kill it where it comes to the point for the given time."""
    process = world.start(*words, **{VARIABLE: f"{point}:{times}"})
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    if stopped:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    assert stopped, "it did not come to this point"


def half_verified(world: SmallWorld, *words: str) -> list[str]:
    """Kill a verification after some of its batches; the users of these batches."""
    killed(world, PausePoint.CHECK_FINISHING, 5, "verify", *words)
    return [
        row[0]
        for row in rows(
            world,
            "SELECT DISTINCT user_id FROM users u JOIN checks c ON c.plan_id = u.plan_id AND c.state = 'done'"
            " AND c.number BETWEEN u.first_batch AND u.last_batch ORDER BY c.number",
        )
    ]


def rows(world: SmallWorld, statement: str) -> list[Any]:
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    found = connection.execute(statement).fetchall()
    connection.commit()
    connection.close()
    return found


def state(world: SmallWorld, user: str) -> str:
    return str(world.migrate("status", "--user", user, "--json").json["state"])


def states(answer: Answer) -> set[str]:
    return {state for wave in answer.json["standing"] for state in wave["users"]}


def failures(world: SmallWorld) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["key"]) for entry in world.migrate("status", "--failures", "--json").json["failures"]]


def test_what_a_lower_level_found_is_looked_at_again_by_the_pass_that_goes_on(world: SmallWorld) -> None:
    """A full pass is killed, a listing finds a copy gone that it had matched: nobody is verified on that (Invariant 9)."""
    user = half_verified(world)[0]
    key = f"users/{user}/photo-0000.jpg"
    lose(world, key)
    assert world.migrate("verify", "--wave", "all", "--level", "listing").code == 3
    answer = world.migrate("verify", "--json")
    assert answer.code == 3
    assert answer.json["pass"]["verdicts"]["missing"] == 1
    assert state(world, user) == "copied"
    assert failures(world) == [("MISSING", key)]


def test_a_repair_in_an_unfinished_pass_is_looked_at_again_by_it(tmp_path: Path) -> None:
    """The pass waits for waves that are not copied. What it found wrong is repaired, and when it goes on it reports what is
    there now."""
    world = build_planned(tmp_path, users=5, per_user=3, copies_max=4, odd=False, large=False)
    assert world.migrate("run").code == 75
    key = min(key for _, key in world.at_targets())
    lose(world, key)
    first = world.migrate("verify", "--wave", "all", "--repair", "--json")
    assert (first.code, first.json["repaired"], first.json["pass"]["verdicts"]["missing"]) == (3, 1, 1)
    assert first.json["pass"]["ended_at"] is None
    assert world.migrate("run", "--wave", "all").code == 0
    last = world.migrate("verify", "--wave", "all", "--json")
    assert last.json["pass"]["id"] == first.json["pass"]["id"]
    assert (last.code, last.json["pass"]["verdicts"]["missing"]) == (0, 0)
    assert last.json["pass"]["verdicts"]["match"] == 2 * len(world.objects)
    assert states(last) == VERIFIED
    assert failures(world) == []


def test_all_waves_are_the_same_pass_however_they_are_named(world: SmallWorld) -> None:
    """`--wave all`, each wave by number, and no word about waves: a killed verification of one goes on under the other, also
    where some of its waves are verified by now."""
    half_verified(world, "--wave", "all")
    assert state(world, rows(world, "SELECT user_id FROM users WHERE wave = 0")[0][0]) == "verified"
    for words, goes_on in (((), True), (("--wave", "0,1,2"), False)):
        answer = world.migrate("verify", *words)
        assert answer.code == 0
        assert ("goes on with the verification begun" in answer.err) == goes_on
        assert "all waves" in answer.out
    assert [row[0] for row in rows(world, "SELECT waves FROM passes ORDER BY id")] == ["*", "*"]


def test_a_verification_that_was_left_alone_too_long_begins_anew_and_says_so(world: SmallWorld) -> None:
    """What was matched more than a week ago, and lost since, is not called verified."""
    user = half_verified(world)[0]
    rows(world, "UPDATE passes SET worked_at = worked_at - 8 * 86400 * 1000000")
    lose(world, f"users/{user}/photo-0000.jpg")
    answer = world.migrate("verify", "--wave", "all")
    assert answer.code == 3
    assert "is closed: this one takes its place" in answer.err
    assert state(world, user) == "copied"


def test_a_newer_match_answers_an_older_difference(world: SmallWorld) -> None:
    """Once it is there again, and was seen, `status --failures` is silent, whichever waves or share were looked at."""
    key = "users/u001/photo-0001.jpg"
    store = lose(world, key)
    assert world.migrate("verify").code == 3
    give_back(world, store, key)
    wave = rows(world, "SELECT wave FROM users WHERE user_id = 'u001'")[0][0]
    assert world.migrate("verify", "--wave", str(wave)).code == 0
    assert failures(world) == []
    assert world.migrate("run").code == 0


def test_a_shallow_look_does_not_answer_what_a_deeper_one_found(world: SmallWorld) -> None:
    """Its size and ETag are right, its bytes are not: the listing knows it, says so, and verifies nobody (Invariant 9)."""
    key = "users/u001/photo-0001.jpg"
    store = homes(world)[key]
    path = next(path for path in (world.root / "stores" / store).rglob("photo-0001.jpg*") if "u001" in str(path))
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert world.migrate("verify").code == 3
    before = failures(world)
    assert before == [("MISMATCH", key)]
    answer = world.migrate("verify", "--level", "listing", "--json")
    assert (answer.code, answer.json["pass"]["verdicts"]["mismatch"]) == (3, 1)
    assert failures(world) == before
    assert state(world, "u001") == "copied"


def test_a_run_does_not_end_with_all_done_while_a_difference_stands(world: SmallWorld) -> None:
    """Exit 3 and where to look, until a repair or a newer verification answers it."""
    key = "users/u001/photo-0001.jpg"
    lose(world, key)
    world.migrate("verify")
    answer = world.migrate("run")
    assert answer.code == 3
    assert "A verification found MISSING" in answer.out
    assert "--repair" in answer.out
    assert world.migrate("verify", "--repair").code == 3
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert world.migrate("run").code == 0
    world.put(homes(world)[key], "users/u001/stray", b"who wrote this", world.objects[key][1], {})
    assert world.migrate("verify", "--wave", "all").code == 3
    answer = world.migrate("run")
    assert answer.code == 3
    assert "found EXTRA" in answer.out
    assert "--repair" not in answer.out


def test_extra_objects_of_users_without_objects_are_found(tmp_path: Path) -> None:
    """Their prefixes are listed at home and backup; who has nothing there is verified, and nobody else (Invariant 9)."""
    world = build(tmp_path, users=4, per_user=2, odd=False, large=False)
    with (world.root / "users.csv").open("a") as people:
        people.writelines(f"z{number:03d},NO\n" for number in range(5))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    attributes = world.objects["users/u001/photo-0001.jpg"][1]
    world.put("hamar", "users/z001/stray", b"who wrote this", attributes, {})
    world.put("hamar", "users/z0010/of nobody", b"who wrote this", attributes, {})
    answer = world.migrate("verify", "--json")
    assert (answer.code, answer.json["pass"]["verdicts"]["extra"]) == (3, 1)
    assert failures(world) == [("EXTRA", "users/z001/stray")]
    assert [state(world, f"z{number:03d}") for number in range(3)] == ["verified", "copied", "verified"]
    world.store("hamar").delete("users/z001/stray")
    answer = world.migrate("verify", "--json")
    assert answer.code == 0
    assert states(answer) == VERIFIED
    assert failures(world) == []


def test_a_listing_that_fails_verifies_no_user_without_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to have seen is not to have seen nothing (Invariants 4 and 9)."""
    world = build(tmp_path, users=2, per_user=1, odd=False, large=False)
    with (world.root / "users.csv").open("a") as people:
        people.write("z001,NO\n")
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0

    def refuse(self: FileStore, prefix: str = "", *, start_after: str = "") -> object:
        raise DeniedError(self.name, "list")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", refuse)
        assert world.migrate("verify").code == 69
    assert state(world, "z001") == "copied"
    assert world.migrate("verify").code == 0


def test_a_sample_that_picks_nothing_says_so(world: SmallWorld) -> None:
    """Exit 2 and no word of all being well (Invariant 9)."""
    answer = world.migrate("verify", "--sample", "0.0001%", "--json")
    assert (answer.code, answer.json["pass"]["verdicts"]["match"]) == (2, 0)
    assert answer.json["next"].startswith("Nothing was checked")


@pytest.mark.parametrize("size", [300, 11 * 2**20], ids=["whole", "parted"])
def test_both_ends_of_a_source_that_moved_on(tmp_path: Path, size: int) -> None:
    """The copies equal their receipts, and cannot be confirmed: exit 4, and who was verified stays so. A copy that differs from
    its receipt is wrong all the same."""
    world = build(tmp_path, users=4, per_user=3, odd=False, large=False)
    changed, gone, damaged = (f"users/u00{number}/moving" for number in (1, 2, 3))
    for key in (changed, gone, damaged):
        world.put_source(key, body_of(key, size))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    attributes = world.objects[changed][1]
    for key in (changed, damaged):
        world.put("us", key, b"newer", attributes, {})
    world.store("us").delete(gone)
    store = lose(world, damaged)
    body = world.objects[damaged][0]
    world.put(store, damaged, body[:-1] + bytes([body[-1] ^ 1]), attributes, {})
    answer = world.migrate("verify", "--wave", "all", "--level", "both-ends", "--json")
    verdicts = answer.json["pass"]["verdicts"]
    assert (answer.code, verdicts["unknown"], verdicts["mismatch"]) == (3, 5, 1)
    reasons = {
        (entry["kind"], entry["reason"]) for entry in world.migrate("status", "--failures", "--json").json["failures"]
    }
    assert reasons == {("UNKNOWN", "source_changed"), ("UNKNOWN", "source_gone"), ("MISMATCH", "receipt_content")}
    assert [state(world, f"u00{number}") for number in range(4)] == ["verified", "verified", "verified", "copied"]
    world.store(store).delete(damaged)
    give_back(world, store, damaged)
    assert world.migrate("verify").code == 0, (
        "it is as its receipt says again, and that was all that could be said of it"
    )
    answer = world.migrate("verify", "--wave", "all", "--level", "both-ends", "--json")
    assert (answer.code, answer.json["pass"]["verdicts"]["unknown"]) == (4, 6)
    assert "equal to the receipt" in answer.json["next"]
    assert states(answer) == VERIFIED


# the words at the end


def test_a_sample_and_a_lower_level_say_that_they_verify_nobody(world: SmallWorld) -> None:
    """All is well as far as it was looked at, which is not far enough."""
    for words in (("--sample", "50%"), ("--level", "listing")):
        answer = world.migrate("verify", *words)
        assert answer.code == 0
        assert "verifies nobody" in answer.out


def test_the_end_of_a_verification_names_what_waits(tmp_path: Path) -> None:
    """The whole canary drifted: nobody of it could go on, so the next wave goes on by name only; 75 would promise too much."""
    world = build(tmp_path, users=10, per_user=2, odd=False, large=False)
    planned(world)
    users = [f"u{number:03d}" for number in range(10)]
    canary = next(user for user in users if world.migrate("explain", user, "--json").json["user"]["wave"] == 0)
    world.store("us").delete(f"users/{canary}/photo-0000.jpg")
    assert world.migrate("run").code == 75
    answer = world.migrate("verify", "--json")
    assert answer.code == 4
    assert "2 copies drifted" in answer.json["next"]
    assert "run" in answer.json["next"]
    assert "--wave 1" in answer.json["next"]
    assert world.migrate("run").code == 4, "it is as the words say"
    assert world.migrate("run", "--wave", "1").code == 75


def test_the_next_wave_is_promised_only_where_it_may_start(world: SmallWorld, tmp_path: Path) -> None:
    """A verification of a later wave leaves an earlier one unverified, which the words name."""
    (tmp_path / "other").mkdir()
    other = build(tmp_path / "other", users=10, per_user=2, odd=False, large=False)
    planned(other)
    assert other.migrate("run", "--wave", "0,1").code == 75
    answer = other.migrate("verify", "--wave", "1", "--json")
    assert "Wave 2 waits: wave 0 is not verified" in answer.json["next"]
    assert "takes the next wave" in other.migrate("verify", "--wave", "0", "--json").json["next"]


def test_a_verification_that_is_stopped_names_the_command_that_goes_on(tmp_path: Path) -> None:
    """Everything is copied, so it is not `run` that is missing; the words repeat level and sample."""
    world = build(
        tmp_path, users=14, per_user=3, copies_max=4, odd=False, large=False
    )  # more batches than are begun at once
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    process = world.start(
        "verify", "--level", "both-ends", "--sample", "90%", "--json", **{VARIABLE: "check-finishing:2"}
    )
    os.waitpid(process.pid, os.WUNTRACED)
    os.kill(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"--level both-ends --sample 90%` goes on" in out
    assert b"migrate run" not in out


def test_a_pass_that_ended_says_when(world: SmallWorld) -> None:
    """`ended_at` is in the answer of the command that ended it."""
    ended = world.migrate("verify", "--json").json["pass"]
    assert ended["ended_at"] is not None
    assert ended["ended_at"] == world.migrate("status", "--json").json["verification"]["ended_at"]


def test_a_signal_stops_a_repair_between_two_batches(world: SmallWorld) -> None:
    """What was put back is committed, what was not is left for the next repair: exit 130 or 3, and the sums hold."""
    keys = [f"users/u00{number}/photo-0000.jpg" for number in range(5)]
    for key in keys:
        lose(world, key)
    process = world.start("verify", "--repair", "--json", **{VARIABLE: f"{PausePoint.COPIES_REOPENING}:2"})
    os.waitpid(process.pid, os.WUNTRACED)
    os.kill(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert b'"repaired": 2' in out
    assert b"verify %b --wave all --repair` goes on" % json.loads(out)["plan"][:12].encode() in out
    again = world.migrate("verify", "--wave", "all", "--repair", "--json")
    assert (again.code, again.json["repaired"]) == (3, 3)
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    world.assert_all_there()


def test_listing_whole_stores_tells_how_far_it_is(tmp_path: Path) -> None:
    """A line a store, with how many objects were listed, before the first batch is checked (Invariant 10: no key, no user)."""
    world = build(tmp_path, users=4, per_user=2, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    rule = 'name = "mail"\npattern = "mail/{year}/{user}/{rest}"\ncategory = "restricted"\n[[layout.rules]]\n'
    spec.write_text(spec.read_text().replace('name = "photos"', rule + 'name = "photos"'))
    with (world.root / "users.csv").open("a") as people:
        people.write("z001,NO\n")
    for user in world.users:
        world.put_source(f"mail/2020/{user}/letter", body_of(user, 100))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    attributes = world.objects["mail/2020/u001/letter"][1]
    world.put("hamar", "mail/2021/z001/stray", b"who wrote this", attributes, {})
    answer = world.migrate("verify")
    assert answer.code == 3
    assert failures(world) == [(EXTRA.upper(), "mail/2021/z001/stray")]
    lines = [line for line in answer.err.splitlines() if "event=listing" in line]
    assert any("step=hamar" in line for line in lines), answer.err
    assert any("users without copies" in line for line in lines)
    assert "z001" not in answer.err


@pytest.mark.parametrize("what", ["listing", "content"])
def test_a_look_that_fails_last_leaves_its_batch_unchecked(
    world: SmallWorld, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all else has ended, one look fails and ends the command: its user is not verified for that (invariants 4 and 9)."""
    stray = "users/u001/photo-0000.jpg.stray"  # in the range of the user's first batch
    store = homes(world)["users/u001/photo-0000.jpg"]
    world.put(store, stray, b"who wrote this", Attributes(), {})
    others = threading.Semaphore(0)

    def failing(real: Callable[..., Any], is_it: Callable[..., bool]) -> Callable[..., Any]:
        def look(*values: Any) -> Any:
            if not is_it(*values):
                try:
                    return real(*values)
                finally:
                    others.release()
            while others.acquire(timeout=1):
                continue  # until nobody else has ended for a second
            raise DeniedError(store, what, "AccessDenied")

        return look

    with monkeypatch.context() as patch:
        if what == "listing":
            patch.setattr(
                checking,
                "check_prefix",
                failing(
                    check_prefix,
                    lambda place, user, _, __, after, *___: (place, user, after) == (store, "u001", None),
                ),
            )
        else:
            patch.setattr(
                checking,
                "check_object",
                failing(check_object, lambda planned, *_: planned.key.endswith("u001/photo-0000.jpg")),
            )
        assert world.migrate("verify").code == 69
    states = {state for wave in world.migrate("status", "--json").json["standing"] for state in wave["users"]}
    assert "copied" in states, "somebody was not looked at"
    with closing(sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")) as ledger:
        query = "SELECT c.state FROM checks c JOIN users u ON u.first_batch = c.number WHERE u.user_id = 'u001'"
        assert ledger.execute(query).fetchall() != [("done",)]
    answer = world.migrate("verify", "--json")
    assert answer.code == 3, answer.err
    assert answer.json["pass"]["verdicts"]["extra"] == 1


def test_another_ledger_touches_no_proof(world: SmallWorld) -> None:
    """A cron line without its ledger: the plan was run with another one, whose receipts stay as they are (invariant 3)."""
    seals = {path: path.read_bytes() for path in (world.root / ".migrate" / "seals").rglob("*") if path.is_file()}
    assert seals
    world.ledger = f"sqlite:///{world.root}/other.sqlite"
    for words in (["run", "--dry-run"], ["run", "--wave", "all"], ["verify"], ["status"]):
        answer = world.migrate(*words)
        assert answer.code == 5, words
        assert "was begun with another ledger" in answer.err
    world.ledger = None
    assert {path: path.read_bytes() for path in seals} == seals
    assert world.migrate("verify").code == 0


def test_a_sealed_file_that_is_brought_back_is_read_by_the_pass_that_goes_on(tmp_path: Path) -> None:
    """The pass is open, since not all is copied: its batch that had lost its receipts is checked again, and only what is lost
    now is named."""
    world = build_planned(tmp_path, users=5, per_user=3, copies_max=4, odd=False, large=False)
    assert world.migrate("run").code == 75
    seals = world.root / ".migrate" / "seals"
    before = set(seals.rglob("receipts-*"))
    first = min(before)
    first.rename(tmp_path / first.name)
    lost = world.migrate("verify", "--wave", "all", "--json")
    assert lost.code == 5
    assert lost.json["pass"]["ended_at"] is None
    (tmp_path / first.name).rename(first)
    assert world.migrate("run", "--wave", "all").code == 0
    second = min(set(seals.rglob("receipts-*")) - before)
    second.rename(tmp_path / second.name)
    again = world.migrate("verify", "--wave", "all", "--json")
    assert (again.code, again.json["pass"]["id"]) == (5, lost.json["pass"]["id"])
    (problem,) = again.json["problems"]
    assert second.name in problem["what"]
    assert first.name not in problem["what"]
    (tmp_path / second.name).rename(second)
    last = world.migrate("verify", "--wave", "all", "--json")
    assert (last.code, last.json["pass"]["verdicts"]["unknown"]) == (0, 0)
    assert states(last) == VERIFIED


def test_who_was_looked_for_by_another_verification_is_said_to_be_left(tmp_path: Path) -> None:
    """Two verifications at once, of two levels, look for a user without copies; the one that looked first is not at its end, says
    what is left and is at its end the next time."""
    world = build(tmp_path, users=3, per_user=2, odd=False, large=False)
    with (world.root / "users.csv").open("a") as people:
        people.write("z001,IE\n")
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    words = ("verify", "--wave", "all", "--share")
    process = world.start(*words, **{VARIABLE: f"{PausePoint.PASS_ENDING}:1"})
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert world.migrate(*words, "--level", "listing").code == 0
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert b"Users who have no copies are left to look for" in out
    assert world.migrate(*words).code == 0
    assert state(world, "z001") == "verified"


def test_a_ledger_that_was_put_back_from_its_backup_goes_on(tmp_path: Path) -> None:
    """What was sealed since the backup stays where it is and is in nobody's way; what is at the targets is not copied again."""
    world = build(tmp_path, users=8, per_user=3, copies_max=6, odd=False, large=False)
    planned(world)
    assert world.migrate("run", "--wave", "0").code == 75
    assert world.migrate("ledger", "backup", str(tmp_path / "backup.sqlite")).code == 0
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    before = {path: path.read_bytes() for path in (world.root / ".migrate" / "seals").rglob("*.parquet")}
    for left in (world.root / ".migrate").glob("ledger.sqlite*"):
        left.unlink()
    (tmp_path / "backup.sqlite").rename(world.root / ".migrate" / "ledger.sqlite")
    again = world.migrate("run", "--wave", "all", "--json")
    assert again.code == 0, again.err
    last = world.migrate("verify", "--json")
    assert (last.code, states(last)) == (0, VERIFIED)
    world.assert_all_there()
    assert {path: path.read_bytes() for path in before} == before
