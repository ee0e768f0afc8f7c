"""`plan`, `run`, `verify` and `status` through the real command line, on folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from kept import made_once
from smallworld import SmallWorld, body_of, build, build_planned, planned

from migrate.errors import DeniedError
from migrate.ledger import Ledger
from migrate.stores.file import FileStore
from migrate.worker.seals import Seals


@pytest.fixture
def unplanned(tmp_path: Path) -> SmallWorld:
    return build(tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """With its plan."""
    return build_planned(tmp_path)


@pytest.fixture
def copied(tmp_path: Path) -> SmallWorld:
    """All of it was run."""
    return all_run(tmp_path, None)


@made_once
def all_run(root: Path, ledger: str | None) -> SmallWorld:
    world = build_planned(root, ledger)
    assert world.migrate("run", "--wave", "all").code == 0
    return world


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll, with a bound."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)


def finish(process: subprocess.Popen[bytes], seconds: float = 60.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out.decode(), err.decode()


def has_begun(world: SmallWorld) -> bool:
    """Whether a run has written anything to a target."""
    return any(any((world.root / "stores" / name / "users").rglob("*-*")) for name in ("dublin-1", "dublin-2", "hamar"))


def flipped(body: bytes) -> bytes:
    """The body with its last bit turned over."""
    return body[:-1] + bytes([body[-1] ^ 1])


def sums(document: dict[str, object]) -> None:
    """Invariant 3, as the output shows it."""
    for wave in document["standing"]:  # type: ignore[attr-defined]  # plain JSON
        assert sum(wave["outcomes"].values()) == wave["copies"]


def test_the_way_from_plan_to_verified(unplanned: SmallWorld) -> None:
    """The canary first, then all waves: every object is at home and backup, every user verified (Invariants 1, 3)."""
    world = unplanned
    planned(world)
    run = world.migrate("run", "--json")
    assert run.code == 75  # the other waves are left
    assert run.json["waves"] == [0]
    assert world.migrate("verify", "--json").code == 0
    assert world.migrate("run", "--wave", "all").code == 0
    verify = world.migrate("verify", "--wave", "all", "--level", "both-ends", "--json")
    assert verify.code == 0, verify.err
    assert verify.json["pass"]["verdicts"]["match"] == 2 * len(world.objects)
    sums(verify.json)
    assert {state for wave in verify.json["standing"] for state in wave["users"]} == {"verified"}
    world.assert_all_there()
    assert world.open_uploads() == 0


def test_a_second_run_has_nothing_to_do(copied: SmallWorld) -> None:
    """A finished plan says so, and touches no target (Invariant 2)."""
    world = copied
    before = {path: path.stat().st_mtime_ns for path in (world.root / "stores").rglob("*") if path.is_file()}
    answer = world.migrate("run", "--json")
    assert answer.code == 0
    assert answer.json["done"]["copies"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (world.root / "stores").rglob("*") if path.is_file()}


def test_a_later_wave_waits_for_the_verification_of_the_earlier(world: SmallWorld) -> None:
    """Wave 1 does not start before wave 0 is verified, unless it is named."""
    assert world.migrate("run").code == 75
    waiting = world.migrate("run")
    assert waiting.code == 75
    assert "wave 1 waits: wave 0 is not verified" in waiting.err
    assert world.migrate("run", "--wave", "1").code == 75
    assert world.migrate("verify", "--wave", "0,1").code == 0
    assert world.migrate("run").code == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on_and_copies_nothing_twice(world: SmallWorld, workers: str) -> None:
    """After kill -9 the next run starts at once, and only what had no receipt is done again (Invariants 1, 2 and 5)."""

    def is_far_enough(process: subprocess.Popen[bytes], wanted: int) -> bool:
        targets = [world.root / "stores" / name / "users" for name in ("dublin-1", "dublin-2", "hamar")]
        return process.poll() is not None or sum(len(list(path.rglob("photo-*"))) for path in targets) >= wanted

    for wanted in (30, 90):
        process = world.start("run", "--wave", "all", "--workers", workers)
        wait_for(partial(is_far_enough, process, wanted))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 0, answer.err
    sums(answer.json)
    world.assert_all_there()
    assert world.open_uploads() == 0
    assert world.migrate("verify", "--level", "both-ends").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_a_run_with_a_safe_checkpoint(
    unplanned: SmallWorld, number: signal.Signals, workers: str
) -> None:
    """Exit 130 within ten seconds; the leases are given back and the next run ends the work."""
    world = unplanned
    for user in world.users:
        for index in range(30):
            key = f"users/{user}/more-{index}"
            world.put_source(key, body_of(key, 100), backup=False)
    planned(world)
    process = world.start("run", "--wave", "all", "--workers", workers)
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finish(process)
    assert time.monotonic() - began < 10
    assert code == 130, err
    assert "stopping" in err
    ledger = Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    assert ledger.leases(1).total() == 0
    ledger.close()
    assert world.migrate("run", "--wave", "all").code == 0
    world.assert_all_there()


def test_a_second_run_of_a_plan_is_turned_away_and_a_sharing_one_helps(unplanned: SmallWorld) -> None:
    """Cron overlap: 75 at once, and the command to give again; with --share both work, and nothing is doubled (Invariant 5)."""
    world = unplanned
    for user in world.users:
        for index in range(40):
            key = f"users/{user}/more-{index}"
            world.put_source(key, body_of(key, 100), backup=False)
    digest = planned(world)
    first = world.start("run", "--wave", "all", "--json")
    wait_for(lambda: has_begun(world))
    overlap = world.migrate("run", "--wave", "all")
    assert overlap.code == 75
    assert "another command works on plan" in overlap.err
    assert f"`migrate run {digest[:12]}` again" in overlap.err
    verify = world.migrate("verify", "--wave", "all")
    assert verify.code == 75
    assert f"`migrate verify {digest[:12]}` again" in verify.err
    helper = world.migrate("run", "--wave", "all", "--share", "--json")
    code, out, err = finish(first)
    # neither ends before all is done, by whomever
    assert (code, helper.code) == (0, 0), err
    done = json.loads(out)["done"]["copies"] + helper.json["done"]["copies"]
    assert done == 2 * len(world.objects)
    world.assert_all_there()


def test_drifted_sources_are_counted_and_never_mixed(world: SmallWorld) -> None:
    """Changed and gone since the plan: drifted, exit 4, and nothing of them at the target (Invariant 3)."""
    store = world.store("us")
    store.delete("users/u002/photo-0000.jpg")
    world.put("us", "users/u003/photo-0000.jpg", b"newer", world.objects["users/u003/photo-0000.jpg"][1], {})
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 4
    assert sum(wave["outcomes"]["drifted"] for wave in answer.json["standing"]) == 4
    sums(answer.json)
    assert not [
        key for _, key in world.at_targets() if key in ("users/u002/photo-0000.jpg", "users/u003/photo-0000.jpg")
    ]
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert {(entry["user"], entry["reason"]) for entry in failures} == {("u002", "gone"), ("u003", "changed")}
    assert world.migrate("status", "--user", "u002", "--json").json["state"] == "copying"


def test_what_fails_for_good_is_quarantined_and_can_be_tried_again(world: SmallWorld) -> None:
    """Something else holds the target key: quarantined as occupied, exit 4; once it is gone a retry ends the work."""
    other = world.objects["users/u001/photo-0001.jpg"][1]
    world.put("hamar", "users/u001/photo-0001.jpg", b"somebody else's", other, {})
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 4
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert [(entry["kind"], entry["key"], entry["reason"]) for entry in failures] == [
        ("quarantined", "users/u001/photo-0001.jpg", "occupied")
    ]
    assert world.migrate("status", "--user", "u001", "--json").json["state"] == "quarantined"
    world.store("hamar").delete("users/u001/photo-0001.jpg")
    assert world.migrate("run", "--wave", "all", "--retry-quarantined").code == 0
    assert world.migrate("verify").code == 0
    world.assert_all_there()


@pytest.mark.parametrize("workers", [1, 2])
def test_max_failures_stops_a_run(tmp_path: Path, workers: int) -> None:
    """The error budget of a run, over all its processes, is spent: each of them stops, and work is left."""
    world = build(tmp_path, users=20, per_user=5 * workers, large=False)
    planned(world)
    for number in range(5 * workers):
        for user in world.users:
            key = f"users/{user}/photo-{number:04d}.jpg"
            for store in ("hamar", "dublin-1", "dublin-2"):
                world.put(store, key, b"somebody else's", world.objects[key][1], {})
    answer = world.migrate("run", "--wave", "all", "--max-failures", "3", "--workers", str(workers), "--json")
    assert answer.code == 75
    assert answer.json["stopped"] == ["failures"] * workers
    assert sum(wave["outcomes"]["pending"] for wave in answer.json["standing"]) > 0
    sums(answer.json)


@pytest.mark.parametrize("level", ["listing", "content", "both-ends"])
def test_each_level_finds_what_it_looks_for(copied: SmallWorld, level: str) -> None:
    """A lost, a changed and an EXTRA object at the target: exit 3, each with its verdict; the users stay unverified."""
    world = copied
    homes = {key: name for name, key in world.at_targets()}
    lost, changed = "users/u001/photo-0001.jpg", "users/u002/photo-0002.jpg"
    world.store(homes[lost]).delete(lost)
    world.store(homes[changed]).delete(changed)
    body, attributes, tags = world.objects[changed]
    world.put(homes[changed], changed, flipped(body), attributes, tags)
    world.put("dublin-1", "users/u003/extra", b"who wrote this", attributes, {})
    answer = world.migrate("verify", "--level", level, "--json")
    assert answer.code == 3
    verdicts = answer.json["pass"]["verdicts"]
    held_here = ("dublin-1", "users/u003/photo-0001.jpg") in world.at_targets()
    assert (verdicts["missing"], verdicts["mismatch"], verdicts["unknown"]) == (1, 1, 0)
    assert verdicts["extra"] == (1 if held_here else 0)
    assert world.migrate("status", "--user", "u001", "--json").json["state"] == "copied"
    kinds = {entry["kind"] for entry in world.migrate("status", "--failures", "--json").json["failures"]}
    assert kinds == {"MISMATCH", "MISSING"} | ({"EXTRA"} if held_here else set())


def test_repair_makes_wrong_and_missing_copies_again(copied: SmallWorld) -> None:
    """--repair puts them back to pending; the next run replaces what was wrong, and all is well again (Invariant 2)."""
    world = copied
    homes = {key: name for name, key in world.at_targets()}
    lost, changed, film = "users/u001/photo-0001.jpg", "users/u002/photo-0002.jpg", "users/u001/film.mp4"
    for key in (lost, changed, film):
        world.store(homes[key]).delete(key)
    for key in (changed, film):
        body, attributes, tags = world.objects[key]
        world.put(homes[key], key, flipped(body), attributes, tags)
    answer = world.migrate("verify", "--repair", "--json")
    assert (answer.code, answer.json["repaired"]) == (3, 3)
    sums(answer.json)
    assert world.migrate("run", "--wave", "all").code == 0
    verify = world.migrate("verify", "--level", "both-ends", "--json")
    assert verify.code == 0
    assert {state for wave in verify.json["standing"] for state in wave["users"]} == {"verified"}
    world.assert_all_there()


def test_a_sample_moves_nobody(copied: SmallWorld) -> None:
    """A sample, or a level below the spec's, never makes a user verified (Invariant 9)."""
    world = copied
    for words in (("--sample", "50%"), ("--level", "listing")):
        answer = world.migrate("verify", *words, "--json")
        assert answer.code == 0
        assert answer.json["pass"]["verdicts"]["match"] > 0
        assert {state for wave in answer.json["standing"] for state in wave["users"]} == {"copied"}


def test_a_killed_verification_goes_on_where_it_was(tmp_path: Path) -> None:
    """Batches that were checked are not checked again in the same pass."""
    world = build(tmp_path, users=30, per_user=30, large=False)
    planned(world)
    world.migrate("run", "--wave", "all")
    process = world.start("verify", "--workers", "2")
    ledger = Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite")

    def some_done() -> bool:
        passes = ledger.passes(1, 1)
        return bool(passes) and ledger.pass_progress(passes[0].id).counts.match > 100

    wait_for(lambda: some_done() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    checked = ledger.pass_progress(ledger.passes(1, 1)[0].id).counts.match
    answer = world.migrate("verify", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["pass"]["id"] == 1
    assert answer.json["pass"]["verdicts"]["match"] == 2 * len(world.objects)
    assert checked > 0
    ledger.close()


@pytest.mark.parametrize("damage", ["exchanged", "lost", "cut"])
def test_a_seal_that_cannot_be_trusted_is_an_integrity_error_of_its_batch(copied: SmallWorld, damage: str) -> None:
    """Exit 5 and a finding; its users go back, all others are verified; the untouched twin verifies (Invariants 3, 8 and 9)."""
    world = copied
    assert world.migrate("verify").code == 0
    first, second = sorted((world.root / ".migrate" / "seals").rglob("receipts-*"))[:2]
    original = first.read_bytes()
    if damage == "lost":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes() if damage == "exchanged" else original[:-9])
    answer = world.migrate("verify", "--wave", "all", "--json")
    assert answer.code == 5
    assert f"sealed file {first.parent.name}/{first.name}" in answer.json["problems"][0]["what"]
    verdicts = answer.json["pass"]["verdicts"]
    assert verdicts["unknown"] > 0
    assert verdicts["match"] == 2 * len(world.objects) - verdicts["unknown"]
    assert answer.json["pass"]["batches"]["pending"] == 0
    users = {state: number for wave in answer.json["standing"] for state, number in wave["users"].items()}
    assert set(users) == {"copied", "verified"}
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert [entry["key"] for entry in failures if entry["kind"] == "SEAL_LOST"] == [f"{first.parent.name}/{first.name}"]
    first.write_bytes(original)  # brought back from a backup
    assert world.migrate("verify").code == 0


def test_a_repair_makes_the_receipts_of_a_lost_seal_anew(copied: SmallWorld) -> None:
    """What is equal at the target is present, what was wrong there comes to light; then all is verified (Invariants 1 and 3)."""
    world = copied
    seals = world.root / ".migrate" / "seals"
    first = min(seals.rglob("receipts-*"))
    first.unlink()
    answer = world.migrate("verify", "--repair", "--json")
    assert answer.code == 5
    lost = answer.json["pass"]["verdicts"]["unknown"]
    assert answer.json["repaired"] == lost
    sums(answer.json)
    run = world.migrate("run", "--wave", "all", "--json")
    assert run.code == 0, run.err
    assert sum(wave["outcomes"]["present"] for wave in run.json["standing"]) == lost
    assert run.json["done"]["copies"] == lost
    verify = world.migrate("verify", "--wave", "all", "--level", "both-ends", "--json")
    assert verify.code == 0, verify.err
    assert verify.json["pass"]["verdicts"]["match"] == 2 * len(world.objects)
    assert {state for wave in verify.json["standing"] for state in wave["users"]} == {"verified"}
    world.assert_all_there()
    assert not first.exists()


def test_an_edited_counter_is_an_integrity_error(world: SmallWorld) -> None:
    """Planned is no longer the sum of the outcomes: exit 5 (Invariant 3)."""
    world.migrate("run")
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE batches SET copies = copies - 1 WHERE number = 2")
    connection.commit()
    connection.close()
    assert world.migrate("status").code == 5
    assert world.migrate("run", "--wave", "all").code == 5


def test_plan_run_and_verify_do_not_change_the_sources(unplanned: SmallWorld) -> None:
    """Not a byte, not a time stamp, not a file more."""
    world = unplanned

    def look() -> dict[Path, tuple[int, int]]:
        return {
            path: (path.lstat().st_mtime_ns, path.lstat().st_size)
            for name in ("us", "singapore")
            for path in (world.root / "stores" / name).rglob("*")
        }

    before = look()
    planned(world)
    world.migrate("run", "--wave", "all")
    world.migrate("verify", "--level", "both-ends")
    assert look() == before


def test_a_dry_run_changes_nothing_at_all(world: SmallWorld) -> None:
    """A forecast: users, copies, bytes, requests and time; no ledger, no lock, no byte."""
    before = {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")}
    answer = world.migrate("run", "--dry-run", "--wave", "all", "--json")
    assert answer.code == 0
    assert answer.json["copies"] == 2 * len(world.objects)
    assert answer.json["requests"] > 0
    assert {path: path.lstat().st_mtime_ns for path in world.root.rglob("*")} == before


def test_time_that_is_up_leaves_work_for_later(tmp_path: Path) -> None:
    """--for ends with 75 and a safe checkpoint; --for and --until together are refused."""
    world = build(tmp_path, users=30, per_user=60, large=False)
    planned(world)
    answer = world.migrate("run", "--wave", "all", "--for", "1s", "--limit-bytes", "50kB/s", "--json")
    assert answer.code == 75
    assert answer.json["stopped"] == ["deadline"]
    sums(answer.json)
    assert world.migrate("run", "--for", "1s", "--until", "06:00").code == 2


def test_the_rate_limit_holds_over_all_processes(tmp_path: Path) -> None:
    """Two workers read no more than the run's limit together."""
    world = build(tmp_path, users=6, per_user=10, odd=False, large=False)
    for user in world.users:
        world.put_source(f"users/{user}/movie", body_of(user, 400_000), backup=False)
    planned(world)
    read = sum(len(body) for body, _, _ in world.objects.values())
    began = time.monotonic()
    answer = world.migrate("run", "--wave", "all", "--workers", "2", "--limit-bytes", "500kB/s", "--json")
    assert answer.code == 0
    # each of two buckets holds a second's worth
    assert time.monotonic() - began >= read / 500_000 - 2.2


def test_a_worker_country_that_policy_does_not_allow_is_refused(world: SmallWorld) -> None:
    """Bytes pass through the worker: exit 77 before a store is opened (Invariant 7)."""
    code, _, err = finish(world.start("run", MIGRATE_COUNTRY="US"))
    assert code == 77
    assert "US" in err
    assert world.migrate("run", "--wave", "all").code == 0
    code, out, err = finish(world.start("verify", MIGRATE_COUNTRY="US"))
    assert (code, out) == (77, "")
    ledger = Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    assert not ledger.passes(1, 10)  # refused before anything was begun
    ledger.close()


def test_progress_in_cron_is_a_structured_line(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, a line every so often says where the run is, and names no user and no key (Invariant 10)."""
    monkeypatch.setattr("migrate.report.progress.LINE_SECONDS", 0.0)
    answer = world.migrate("run", "--wave", "all", "--limit-bytes", "20MB/s")
    lines = [line for line in answer.err.splitlines() if "event=progress" in line]
    assert lines
    for word in ("copies=", "copies_planned=", "bytes=", "retries=", "workers=1", "seconds_left=", "users="):
        assert word in lines[-1]
    assert "users/u" not in answer.err


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 3)])
def test_thirty_two_requests_to_a_silent_server_do_not_hold_a_signal(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    """Every thread of each worker process waits for a server that accepts and says nothing: the run still ends within ten seconds
    with 130, and no process of it stays behind."""
    world = build(tmp_path, users=20, per_user=10 * workers, odd=False, large=False)
    silent = socket.create_server(("127.0.0.1", 0), backlog=256)
    spec = world.root / "plans" / "small.toml"
    place = f"http://127.0.0.1:{silent.getsockname()[1]}"
    text = spec.read_text().replace("concurrency = 8", "concurrency = 32")
    for name in ("dublin-1", "dublin-2", "hamar"):
        text = text.replace(
            f'url = "file:stores/{name}"',
            f'url = "s3://{name}/"\nendpoint = "{place}"\nregion = "eu"\ncredentials = "env:TARGET"\nconcurrency_max = 96',
        )
    spec.write_text(text)
    keys = {"TARGET_ACCESS_KEY_ID": "key", "TARGET_SECRET_ACCESS_KEY": "secret"}
    code, out, err = finish(world.start("plan", str(spec), "--json", **keys))
    assert code == 0, err
    (blocker,) = json.loads(out)["blockers"]  # nobody could probe the silent targets
    assert blocker["kind"] == "unprobed"
    process = world.start("run", "--wave", "all", "--accept", blocker["accept"], "--workers", str(workers), **keys)
    waiting = []
    silent.settimeout(60)
    while len(waiting) < 32 * workers:
        waiting.append(silent.accept()[0])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    assert len(children) == (workers if workers > 1 else 0)
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finish(process, 20)
    assert time.monotonic() - began < 10
    assert code == 130, err
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    for connection in (*waiting, silent):
        connection.close()


@pytest.mark.parametrize("level", ["listing", "content"])
def test_an_extra_object_is_found_where_no_prefix_shows_the_user(tmp_path: Path, level: str) -> None:
    """The user stands behind a year: whole stores are looked through once; the user with the EXTRA object is held back."""
    world = build(tmp_path, users=10, per_user=3, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(
        spec.read_text().replace(
            'name = "photos"',
            'name = "mail"\npattern = "mail/{year}/{user}/{rest}"\ncategory = "restricted"\n[[layout.rules]]\nname = "photos"',
        )
    )
    for user in world.users:
        key = f"mail/2020/{user}/letter"
        world.put_source(key, body_of(key, 100))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify", "--level", level).code == 0
    attributes = world.objects["mail/2020/u003/letter"][1]
    homes = {key: name for name, key in world.at_targets()}
    world.put(homes["mail/2020/u003/letter"], "mail/2021/u003/extra", b"who wrote this", attributes, {})
    answer = world.migrate("verify", "--wave", "all", "--level", level, "--json")
    assert answer.code == 3
    assert answer.json["pass"]["verdicts"]["extra"] == 1
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert [(entry["kind"], entry["user"], entry["key"]) for entry in failures] == [
        ("EXTRA", "u003", "mail/2021/u003/extra")
    ]
    states = {user: world.migrate("status", "--user", user, "--json").json["state"] for user in ("u003", "u004")}
    assert states == {"u003": "copied", "u004": "copied" if level == "listing" else "verified"}
    assert not list((world.root / ".migrate" / "scratch").glob("verify-*"))


def test_a_batch_that_has_all_outcomes_and_was_not_closed_is_closed_by_the_next_run(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seals' folder was full: exit 69 and a remedy; the next run ends the batch, and says 0 only then (Invariants 1, 3)."""
    seals = world.root / ".migrate" / "seals"

    def full(*_values: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Seals, "_put", full)
        answer = world.migrate("run", "--wave", "all")
    assert answer.code == 69, answer.err
    assert "Make room" in answer.err
    assert not list(seals.rglob("*.parquet"))
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    world.assert_all_there()


def test_quarantined_copies_can_be_tried_again_after_a_kill(world: SmallWorld) -> None:
    """Leases of the dead are taken over before anything else is asked of the ledger (Invariant 5)."""
    other = world.objects["users/u001/photo-0001.jpg"][1]
    world.put("hamar", "users/u001/photo-0001.jpg", b"somebody else's", other, {})
    process = world.start("run", "--wave", "all", "--limit-bytes", "1MB/s")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    world.store("hamar").delete("users/u001/photo-0001.jpg")
    answer = world.migrate("run", "--wave", "all", "--retry-quarantined")
    assert answer.code == 0, answer.err
    world.assert_all_there()


def test_an_edited_outcome_is_an_integrity_error(copied: SmallWorld) -> None:
    """The users' own sums do not agree with the batches' any more: exit 5 (Invariant 3)."""
    world = copied
    assert world.migrate("status").code == 0
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE batches SET copied = copied - 1, drifted = drifted + 1 WHERE number = 2")
    connection.commit()
    connection.close()
    assert world.migrate("status").code == 5


def test_waves_that_run_backwards_are_refused(copied: SmallWorld) -> None:
    """`3-0` would be no wave at all, and nothing checked must not look like all well (Invariant 9)."""
    world = copied
    answer = world.migrate("verify", "--wave", "2-0")
    assert answer.code == 2
    assert "0-2" in answer.err


def test_verifying_before_anything_is_copied_is_for_later(world: SmallWorld) -> None:
    """A timer that verifies before the first run is not a wrong command: 75."""
    assert world.migrate("verify").code == 75


def test_failures_of_a_plan_are_shown_whatever_was_verified_last(copied: SmallWorld) -> None:
    """A later sample, or another wave, does not hide what the last full verification found."""
    world = copied
    key = "users/u001/photo-0001.jpg"
    homes = {key: name for name, key in world.at_targets()}
    world.store(homes[key]).delete(key)
    assert world.migrate("verify").code == 3
    world.migrate("verify", "--sample", "1%")
    world.migrate("verify", "--wave", "0")
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert [(entry["kind"], entry["key"]) for entry in failures] == [("MISSING", key)]


def test_a_target_that_may_not_be_listed_is_not_a_target_without_extra_objects(
    copied: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused listing ends a verification with 69: nobody is verified on what was not looked at (Invariants 4 and 9)."""
    world = copied

    def refuse(self: FileStore, prefix: str = "", *, start_after: str = "") -> object:
        raise DeniedError(self.name, "list")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "list", refuse)
        answer = world.migrate("verify")
    assert answer.code == 69, answer.err
    standing = world.migrate("status", "--json").json["standing"]
    assert not any("verified" in wave["users"] for wave in standing)
    assert world.migrate("verify").code == 0
