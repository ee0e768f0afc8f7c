"""What a run and a verification take by themselves, and how they end: the code is of what is left, and a dry run foresees it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from smallworld import SmallWorld, build, planned

from migrate.worker.loop import StopReason, Worker


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """A canary and two waves."""
    return build(tmp_path, users=10, per_user=2, odd=False, large=False)


def verdicts(world: SmallWorld) -> int:
    """How many copies the last verification has read."""
    return int(world.migrate("status", "--json").json["verification"]["verdicts"]["match"])


def lose(world: SmallWorld) -> str:
    """A copy is gone; its key."""
    store, key = min(world.at_targets())
    world.store(store).delete(key)
    return key


# which waves a verification takes


def test_each_copy_is_read_once_on_the_way_to_verified(world: SmallWorld) -> None:
    """`run` and `verify` by turns: each verification takes the wave that was copied since, and none that is verified."""
    planned(world)
    read = 0
    for wave in range(3):
        assert world.migrate("run").code == (75 if wave < 2 else 0)
        verify = world.migrate("verify", "--json")
        assert (verify.code, verify.json["pass"]["waves"]) == (0, [wave])
        read += verify.json["pass"]["verdicts"]["match"]
    assert read == 2 * len(world.objects)


def test_a_verification_with_nothing_to_do_says_so_and_what_comes_next(world: SmallWorld) -> None:
    """It ends with 0, reads nothing and begins no pass; `--wave all` reads everything again."""
    digest = planned(world)[:12]
    world.migrate("run")
    assert world.migrate("verify").code == 0
    answer = world.migrate("verify")
    assert answer.code == 0
    assert "nothing to verify" in answer.out
    assert f"`migrate run {digest}` takes the next wave" in answer.out.replace("\n", " ")
    assert f"`migrate verify {digest} --wave all` looks at everything again" in answer.out.replace("\n", " ")
    world.migrate("run", "--wave", "all")
    world.migrate("verify")
    assert world.migrate("verify", "--json").json["pass"] is None
    assert world.migrate("verify", "--wave", "all").code == 0
    assert verdicts(world) == 2 * len(world.objects)


@pytest.mark.parametrize("words", [("--level", "both-ends"), ("--level", "listing"), ("--sample", "50%")])
def test_a_look_that_was_asked_for_and_not_had_is_no_good_answer(world: SmallWorld, words: tuple[str, ...]) -> None:
    """All is verified, so another kind of look takes no wave by itself: 2, and the command that looks (Invariant 9)."""
    planned(world)
    world.migrate("run", "--wave", "all")
    world.migrate("verify")
    answer = world.migrate("verify", *words, "--json")
    assert (answer.code, answer.json["pass"]) == (2, None)
    (again,) = re.findall(r"`migrate (verify [^`]*)` looks", answer.json["next"])
    assert world.migrate(*again.split(), "--json").json["pass"]["verdicts"]["match"] > 0


def test_a_verified_wave_with_a_new_difference_is_found_without_its_name(world: SmallWorld) -> None:
    """A listing finds a copy gone; the next plain verification and its repair take this wave and no other (Invariant 9)."""
    planned(world)
    world.migrate("run", "--wave", "all")
    world.migrate("verify")
    key = lose(world)
    assert world.migrate("verify", "--wave", "all", "--level", "listing").code == 3
    wave = world.migrate("status", "--user", key.split("/")[1], "--json").json["wave"]
    repair = world.migrate("verify", "--repair", "--json")
    assert (repair.code, repair.json["repaired"], repair.json["pass"]["waves"]) == (3, 1, [wave])
    assert world.migrate("run").code == 0
    assert world.migrate("verify", "--json").json["pass"]["waves"] == [wave]
    world.assert_all_there()


# codes


@pytest.mark.parametrize("reason", [StopReason.DEADLINE, StopReason.INTERRUPTED, StopReason.FAILURES])
def test_what_comes_when_all_is_done_is_no_work_left(
    reason: StopReason, world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time, a signal or the last failure that is allowed, after the last batch: 0, or 4 for what failed, and not 75 or 130."""
    before = Worker._stop_reason

    def late(self: Worker) -> StopReason | None:
        if self._waves and not self._active and not self._left().is_any:
            return reason
        return before(self)

    planned(world)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_stop_reason", late)
        run = world.migrate("run", "--wave", "all", "--json")
        assert (run.code, run.json["stopped"]) == (0, [reason])
        verify = world.migrate("verify", "--json")
        assert (verify.code, verify.json["stopped"]) == (0, [reason])
    assert "Work is left" not in run.json["next"]
    assert "Too many" not in run.json["next"]


def test_the_last_failure_that_is_allowed_may_be_the_last_copy(world: SmallWorld) -> None:
    """`--max-failures` is reached by what was tried last: its batch is closed, nothing is left, and 4 says what there is."""
    planned(world)
    key = "users/u003/photo-0001.jpg"
    for store in ("hamar", "dublin-1", "dublin-2"):
        world.put(store, key, b"somebody else's", world.objects[key][1], {})
    assert world.migrate("run", "--wave", "all").code == 4
    again = world.migrate("run", "--wave", "all", "--retry-quarantined", "--max-failures", "2", "--json")
    assert (again.code, again.json["stopped"]) == (4, ["failures"])
    assert not any("pending" in wave["batches"] for wave in again.json["standing"])


def test_a_dry_run_ends_with_the_code_that_the_run_would(world: SmallWorld) -> None:
    """At each step of the way: waves are left, the next one waits, a difference is known, a copy is quarantined, all is done."""
    planned(world)
    key = "users/u003/photo-0001.jpg"

    def both(*words: str, code: int) -> None:
        dry = world.migrate("run", *words, "--dry-run", "--json")
        assert (dry.code, dry.json["exit_code"]) == (code, code)
        assert world.migrate("run", *words).code == code

    both(code=75)
    both(code=75)
    assert world.migrate("verify").code == 0
    for store in ("hamar", "dublin-1", "dublin-2"):
        world.put(store, key, b"somebody else's", world.objects[key][1], {})
    world.migrate("run", "--wave", "all")
    both("--wave", "all", code=4)
    for store in ("hamar", "dublin-1", "dublin-2"):
        world.store(store).delete(key)
    both("--retry-quarantined", code=0)
    lose(world)
    assert world.migrate("verify", "--wave", "all").code == 3
    both(code=3)
    world.migrate("verify", "--repair")
    both(code=0)


# words


def test_a_run_of_all_waves_names_what_checks_all(world: SmallWorld) -> None:
    """The command that it names verifies every wave."""
    planned(world)
    run = world.migrate("run", "--wave", "all", "--json")
    (check,) = re.findall(r"`migrate (verify [^`]*)`", run.json["next"])
    verify = world.migrate(*check.split(), "--json")
    assert {state for wave in verify.json["standing"] for state in wave["users"]} == {"verified"}


def test_an_error_is_one_document_on_stderr(world: SmallWorld) -> None:
    """With --json stdout has an answer or nothing."""
    planned(world)
    answer = world.migrate("run", "--wave", "77", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "no wave 77" in json.loads(answer.err)["error"]["what"]


def test_failures_of_one_user_are_not_listed_as_if_they_were(world: SmallWorld) -> None:
    """`--failures` with `--user` is refused, before and after the first run, instead of one being left out without a word."""
    planned(world)
    for _ in range(2):
        answer = world.migrate("status", "--failures", "--user", "u001")
        assert answer.code == 2
        assert "Give one of them" in answer.err
        world.migrate("run")
