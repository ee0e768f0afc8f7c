"""`migrate hold`, and what `status` says of it, through the real entry point on folders."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from commands import HOSTILE_USER, Run, build_workspace, is_harmless, runner, runs_of

from migrate.errors import ExitCode


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("MIGRATE_COUNTRY", "MIGRATE_LEDGER", "MIGRATE_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIGRATE_OPERATOR", "olga")
    return runner(capsys, tmp_path)


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Run:
    """A plan of anna and bert, both copied."""
    spec = str(build_workspace(tmp_path))
    assert run("plan", spec).code == 0
    accepted = [part for found in run("show", "--json").answer["blockers"] for part in ("--accept", found["accept"])]
    done = run("run", "--wave", "all", *accepted)
    assert done.code == 0, done.err
    return run


def test_a_hold_is_set_listed_and_released(run: Run, tmp_path: Path) -> None:
    """With its reason and by whom; again with the same reason nothing changes, and neither does another release."""
    build_workspace(tmp_path)
    first = run("hold", "--user", "anna", "--reason", "claim 17", "--json").answer
    assert (first["changed"], first["known"], first["hold"]["reason"], first["hold"]["operator"]) == (
        True, False, "claim 17", "olga",
    )  # fmt: skip
    again = run("hold", "--user", "anna", "--reason", " claim 17 ", "--json").answer
    assert (again["changed"], again["hold"]) == (False, first["hold"])
    assert "is on hold already" in run("hold", "--user", "anna", "--reason", "claim 17").out
    other = run("hold", "--user", "anna", "--reason", "claim 18", "--json").answer
    assert (other["changed"], other["hold"]) == (True, first["hold"] | {"reason": "claim 18"})
    assert run("hold", "--json").answer["holds"] == [other["hold"]]
    assert "claim 18" in run("hold").out
    done = run("hold", "--user", "anna", "--release", "--reason", "settled")
    assert (done.code, "is no longer on hold" in done.out) == (0, True)
    done = run("hold", "--user", "anna", "--release", "--reason", "settled")
    assert (done.code, "is not on hold" in done.out) == (0, True)
    assert run("hold", "--json").answer["holds"] == []
    assert run("hold").out == "nobody is on hold\n"
    rows = runs_of(tmp_path)
    assert [(row.verb, row.operator, row.exit_code) for row in rows] == [("hold", "olga", 0)] * 6
    assert {str(row.arguments) for row in rows} == {"{'release': False}", "{'release': True}"}


def test_a_look_at_the_holds_makes_no_ledger(run: Run, tmp_path: Path) -> None:
    """Who only looks leaves nothing behind (invariant 12)."""
    assert run("hold", "--json").answer == {"ledger": None, "holds": []}
    assert "no ledger here yet" in run("hold").out
    assert list(tmp_path.iterdir()) == []


def test_a_hold_may_come_before_a_plan_and_says_so(run: Run, tmp_path: Path) -> None:
    """A user whom nobody has heard of is put on hold all the same, and told, with the ledger; one in a plan's directory is known,
    also where the plan was not run, or where the user does not move."""
    spec = str(build_workspace(tmp_path))
    done = run("hold", "--user", "anna", "--reason", "a claim")
    assert done.code == 0
    assert "no plan here has such a user" in done.out
    assert "ledger.sqlite" in done.out
    assert run("plan", spec).code == 0
    for user, known in (("anna", True), ("carl", True), ("zoe", False)):
        assert run("hold", "--user", user, "--reason", "another claim", "--json").answer["known"] is known
    (folder,) = (tmp_path / ".migrate/plans").iterdir()
    (folder / "plan.json").write_text("{}")  # one that cannot be read stops no hold
    assert run("hold", "--user", "bert", "--reason", "a claim", "--json").answer["known"] is False


def test_status_tells_who_is_on_hold(copied: Run) -> None:
    """How many of the plan's users, and of one user since when, why, and what happened before; a hold stops no verification."""
    assert copied("status", "--json").answer["on_hold"] == 0
    assert "on hold" not in copied("status").out
    assert copied("hold", "--user", "anna", "--reason", "claim 17", "--json").answer["known"] is True
    copied("hold", "--user", "stranger", "--reason", "of no plan")
    assert copied("verify", "--wave", "all").code == 0
    assert copied("status", "--json").answer["on_hold"] == 1
    assert "on hold: 1 user;" in copied("status").out
    shown = copied("status", "--user", "anna").out
    assert "verified" in shown
    assert "by olga: claim 17" in shown
    copied("hold", "--user", "anna", "--release", "--reason", "settled")
    answer = copied("status", "--user", "anna", "--json").answer
    assert answer["hold"] is None
    assert [(event["kind"], event["note"]) for event in answer["history"]] == [
        ("hold", "claim 17"),
        ("release", "settled"),
    ]
    assert "released in run" in copied("status", "--user", "anna").out
    assert copied("status", "--json").answer["on_hold"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--user", "anna"),
        ("--user", "anna", "--reason", "  "),
        ("--user", "anna", "--release"),
        ("--user", "", "--reason", "a claim"),
        ("--reason", "a claim"),
        ("--release",),
    ],
)
def test_a_hold_names_somebody_and_a_reason(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Anything else is a usage error, and changes nothing."""
    done = run("hold", *words)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert not (tmp_path / ".migrate").exists()


def test_a_user_may_be_named_on_stdin_and_be_hostile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the id stands in no list of processes (invariant 10), and what a terminal would obey is shown as text."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{HOSTILE_USER}\n"))
    done = run("hold", "--user", "-", "--reason", HOSTILE_USER)
    assert done.code == 0
    assert is_harmless(done.out + done.err)
    assert is_harmless(run("hold").out)
    assert run("hold", "--json").answer["holds"][0]["user_id"] == HOSTILE_USER
