"""Worker processes: what they do when their parent goes, or when they fail themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from smallworld import build_planned
from test_run_verify import finish, has_begun, sums, wait_for

from migrate.engines.assignment import Assignment, Snapshot
from migrate.engines.local import run_assignments
from migrate.privacy import WorkerBugError, bare_traceback
from migrate.worker.loop import Stop


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def an_assignment(folder: Path, *, limit_bytes: int | None = None) -> Assignment:
    """For children that do not read it."""
    return Assignment(
        workspace=str(folder),
        ledger="sqlite:///x",
        plan_folder=str(folder),
        plan_digest="",
        purpose="no such purpose",
        run_id=1,
        operator="o",
        host="h",
        country="IE",
        processes=2,
        threads=1,
        bytes_in_flight=1,
        limit_bytes=limit_bytes,
    )


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """kill -9 of the parent alone closes the pipe: its workers give their leases back and end by themselves.

    The next run need not be told to wait for them: it starts at once, and takes what they give back (Invariant 5).
    """
    world = build_planned(tmp_path, users=20, per_user=30, large=False)
    process = world.start("run", "--wave", "all", "--workers", "2", "--limit-bytes", "20kB/s")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    children = children_of(process.pid)
    assert len(children) == 2
    process.kill()
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 0, answer.err
    process.communicate()
    wait_for(lambda: not any(is_alive(child) for child in children), 20)
    sums(answer.json)
    world.assert_all_there()


def test_a_worker_that_is_killed_costs_no_copy(tmp_path: Path) -> None:
    """The other worker takes its batch over: nothing is left, so the end is 0, with a warning (Invariants 3 and 5)."""
    world = build_planned(tmp_path, users=20, per_user=30, large=False)
    process = world.start("run", "--wave", "all", "--workers", "2", "--limit-bytes", "60kB/s", "--json")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    code, out, err = finish(process)
    document = json.loads(out)
    assert code == 0, err
    assert sorted(document["stopped"]) == ["lost", "no_work"]
    assert ["ended without a word" in problem["what"] for problem in document["problems"]] == [True]
    assert "verify" in document["next"]
    sums(document)
    world.assert_all_there()


def test_all_workers_killed_leave_work_for_later(tmp_path: Path) -> None:
    """The twin: nobody is left to take over, so work is left, and the code says so."""
    world = build_planned(tmp_path, users=20, per_user=30, large=False)
    process = world.start("run", "--wave", "all", "--workers", "2", "--limit-bytes", "60kB/s", "--json")
    wait_for(lambda: has_begun(world) or process.poll() is not None)
    for child in children_of(process.pid):
        os.kill(child, signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 75, err
    assert json.loads(out)["stopped"] == ["lost", "lost"]
    assert "goes on" in json.loads(out)["next"]


def test_ctrl_c_in_a_terminal_reaches_all_and_ends_in_order(tmp_path: Path) -> None:
    """SIGINT to the whole group: exit 130, no traceback of a worker, every lease given back."""
    world = build_planned(tmp_path, users=20, per_user=30, large=False)
    process = world.start("run", "--wave", "all", "--workers", "2", "--limit-bytes", "20kB/s")
    wait_for(lambda: len(children_of(process.pid)) == 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert world.migrate("run", "--wave", "all").code == 0
    world.assert_all_there()


def test_a_bug_in_a_worker_is_told_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback comes back with the parent's error, for the crash report; its text, which may name a person, does not."""
    broken = an_assignment(tmp_path)
    monkeypatch.setattr("migrate.engines.local._CHILD", "import sys, json\nsys.stdin.readline()\n" + _BROKEN_CHILD)
    with pytest.raises(WorkerBugError, match="KeyError in a worker process") as caught:
        run_assignments([broken, broken], lambda snapshot: None, Stop())
    assert caught.value.lines[-1] == "KeyError"
    assert caught.value.lines[0] == "Traceback (most recent call last):"
    assert "u-canary" not in "\n".join([*caught.value.lines, *bare_traceback(caught.value)])


def test_the_rate_of_a_worker_that_waits_goes_to_the_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the limit each; the one that works is told of the whole as soon as the other has nothing to do."""
    assignment = an_assignment(tmp_path, limit_bytes=500)
    monkeypatch.setattr("migrate.engines.local._CHILD", _SHARING_CHILD)
    report = run_assignments([assignment, replace(assignment, threads=2)], lambda snapshot: None, Stop())
    assert [problem.what for problem in report.problems] == ["{'limit_bytes': 1000}"]


_SHARING_CHILD = """
import json, sys
def say(document): print(json.dumps(document), flush=True)
def end(error): say({"end": {"reason": "no_work", "waves": {}, "error": error}})
assignment = json.loads(sys.stdin.readline())
if assignment["threads"] == 1:
    say({"snapshot": {"waves": {}, "retries": 0, "levels": {}, "is_idle": True, "waits_for": {}}})
    sys.stdin.read()
    end(None)
else:
    end({"what": str(json.loads(sys.stdin.readline())), "remedy": "", "exit_code": 69})
"""


def test_what_an_ended_worker_did_stays_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with more than it last said: the run's next snapshot has all of it, and what its sibling did."""
    assignment = an_assignment(tmp_path)
    monkeypatch.setattr("migrate.engines.local._CHILD", _ENDING_CHILD)
    seen: list[Snapshot] = []
    run_assignments([assignment, replace(assignment, threads=2)], seen.append, Stop())
    assert seen[-1].waves[0].copies == 7 + 30


_ENDING_CHILD = """
import json, sys
def tally(copies): return {"copies": copies, "failures": 0, "size_bytes": 0, "users": 0, "batches": 0}
copies = 7 if json.loads(sys.stdin.readline())["threads"] == 1 else 30
for key, some in (("snapshot", 1), ("end", copies)):
    said = {"waves": {"0": tally(some)}, "retries": 0, "levels": {}, "is_idle": False, "waits_for": {}}
    print(json.dumps({key: {**said, "reason": "no_work", "error": None}}), flush=True)
"""


def test_a_run_does_not_wait_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers has the only batch and the other nothing: that is no waiting, neither in the end nor before."""
    world = build_planned(tmp_path, users=1, per_user=25, odd=False, large=False)
    seen: list[Snapshot] = []
    monkeypatch.setattr("migrate.cli.working.Watch.__call__", lambda _self, snapshot: seen.append(snapshot))
    assert world.migrate("run", "--wave", "all", "--workers", "2", "--limit-bytes", "10kB/s").code == 0
    assert seen
    assert not any(snapshot.waits_for for snapshot in seen)


_BROKEN_CHILD = """
from migrate.engines.child import _error
try:
    key = "-".join(("u", "canary"))
    {}[key]
except KeyError as error:
    print(json.dumps({"end": {"reason": "error", "waves": {}, **_error(error)}}), flush=True)
"""


def test_no_argument_of_a_worker_process_names_anything(tmp_path: Path) -> None:
    """What a worker is told comes over its standard input (Invariant 10)."""
    world = build_planned(tmp_path, users=20, per_user=30, large=False)
    process = world.start("run", "--wave", "all", "--workers", "2", "--limit-bytes", "20kB/s")

    def command_lines() -> list[bytes]:
        return [Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(process.pid)]

    # until its own program is loaded, a new process shows its parent's arguments
    wait_for(lambda: sum(b"engines.child" in line for line in command_lines()) == 2 or process.poll() is not None)
    lines = command_lines()
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 130
    assert lines
    assert not any(str(tmp_path).encode() in line or b"sqlite" in line for line in lines)


def test_a_child_without_a_parent_ends(tmp_path: Path) -> None:
    """Standard input that is closed at once is no assignment: the process ends, and not by hanging."""
    done = subprocess.run(
        [sys.executable, "-c", "from migrate.engines.child import main; main()"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
