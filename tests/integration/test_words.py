"""What the command line says and answers where something is in the way: codes, JSON lines, and the next step that works."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from smallworld import SmallWorld, body_of, build, build_planned, planned

from migrate.errors import ExitCode


@pytest.fixture
def unplanned(tmp_path: Path) -> SmallWorld:
    return build(tmp_path, users=10, per_user=3, large=False)


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """With its plan."""
    return build_planned(tmp_path, users=10, per_user=3, large=False)


def command_in(text: str) -> list[str]:
    """The words after `migrate` of the one command that a text shows in backticks with an option."""
    (found,) = re.findall(r"`migrate ([^`]*--[^`]*)`", text)
    return shlex.split(found)


def lines_of(text: str) -> list[dict[str, object]]:
    """Each line as JSON; a line that is none fails."""
    return [json.loads(line) for line in text.splitlines()]


# planning again


def test_a_plan_that_takes_anothers_place_goes_on_a_ledger_of_its_own(unplanned: SmallWorld) -> None:
    """Plan A is run, the spec is corrected, plan B is refused with a command; by that command all is found present, and verified.

    `plan`, `show` and `run --dry-run` foresee the refusal, and name the same command. What was accepted of the plan is in it,
    since the other ledger knows nothing of that.
    """
    world = unplanned
    world.put_source("unknown/key", b"x")
    del world.objects["unknown/key"]
    first = planned(world)
    accepted = [word for word in command_in(world.migrate("run").err) if "--accept" in word or ":" in word]
    assert world.migrate("run", *accepted, "--wave", "all").code == 0
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace("count = 2", "count = 3"))
    second = planned(world)
    assert second != first
    foreseen = []
    for words in (("plan", str(spec)), ("show",), ("run", "--dry-run")):
        told = world.migrate(*words)
        assert told.code == (77 if "--dry-run" in words else 0)
        assert "already in another plan of this ledger" in told.out
        foreseen.append(command_in(told.out[told.out.index("already in another plan") :]))
    refused = world.migrate("run", *accepted)
    assert refused.code == 77
    way = command_in(refused.err)
    assert way == ["--ledger", way[1], "run", second[:12], *accepted]
    assert foreseen == [way] * 3
    world.ledger = way[1]
    assert world.migrate("run", "--dry-run", "--wave", "all", *accepted).code == 0
    done = world.migrate(*way[2:], "--wave", "all", "--json")
    assert done.code == 0, done.err
    outcomes = [wave["outcomes"] for wave in done.json["standing"]]
    assert sum(found["present"] for found in outcomes) == 2 * len(world.objects)
    assert sum(found["copied"] for found in outcomes) == 0
    assert world.migrate("verify").code == 0
    world.assert_all_there()


# a dry run is what a run would be


def test_a_dry_run_counts_what_would_be_tried_again(world: SmallWorld) -> None:
    """With --retry-quarantined a quarantined copy is work; without it there is none."""
    world.put("hamar", "users/u001/photo-0001.jpg", b"else", world.objects["users/u001/photo-0001.jpg"][1], {})
    assert world.migrate("run", "--wave", "all").code == 4
    assert world.migrate("run", "--dry-run", "--wave", "all", "--json").json["copies"] == 0
    again = world.migrate("run", "--dry-run", "--wave", "all", "--retry-quarantined", "--json")
    assert (again.code, again.json["copies"]) == (0, 1)


def test_a_dry_run_from_a_country_that_may_not_is_refused(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the run itself would be; and what is no country's code is said to be none."""
    monkeypatch.setenv("MIGRATE_COUNTRY", "US")
    assert world.migrate("run", "--dry-run").code == 77
    monkeypatch.setenv("MIGRATE_COUNTRY", "Ireland")
    answer = world.migrate("run", "--dry-run")
    assert answer.code == 2
    assert "MIGRATE_COUNTRY" in answer.err
    assert "no country's code" in answer.err


def test_the_command_that_accepts_is_complete_and_unbroken(unplanned: SmallWorld) -> None:
    """A run that is refused remembers nothing: its hint repeats what was accepted already, in one line; that command runs."""
    world = unplanned
    world.put_source("unknown/key", b"x")
    world.put_source("users/nobody/key", b"x")
    del world.objects["unknown/key"], world.objects["users/nobody/key"]
    planned(world)
    refused = world.migrate("run")
    words = command_in(refused.err)
    both = [word for word in words if ":" in word]
    assert len(both) == 2
    one = world.migrate("run", "--accept", both[0])
    assert one.code == 77
    assert command_in(one.err) == words
    dry = world.migrate("run", "--dry-run", "--accept", both[0])
    assert f"  migrate {shlex.join(words)}\n" in dry.out
    assert world.migrate(*words, "--wave", "all").code == 0


# ledgers


@pytest.mark.parametrize(
    "words", [("run",), ("run", "--dry-run"), ("status",), ("verify",), ("doctor", "plans/small.toml")]
)
def test_a_ledger_of_another_version_is_78_everywhere(
    unplanned: SmallWorld, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12: refused, whoever asks, with one code and what to do."""
    world = unplanned
    monkeypatch.chdir(world.root)
    planned(world)
    with sqlite3.connect(world.root / ".migrate/ledger.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    answer = world.migrate(*words)
    assert answer.code == ExitCode.BAD_SPEC
    assert "9999" in answer.out + answer.err


def test_who_only_looks_makes_no_ledger(unplanned: SmallWorld) -> None:
    """`status` where there is no ledger: nothing was run, nobody unknown is known, and no file is made."""
    world = unplanned
    digest = planned(world)
    (world.root / ".migrate/ledger.sqlite").unlink()
    assert "nothing of it was run yet" in world.migrate("status").out
    assert world.migrate("status", "--user", "u001").code == 0
    assert world.migrate("status", "--user", "nope").code == 2
    assert world.migrate("show").code == 0
    assert world.migrate("run", "--dry-run", "--wave", "all").code == 0
    assert world.migrate("ledger", "upgrade").code == 2
    assert world.migrate("ledger", "backup", str(world.root / "copy")).code == 2
    assert not (world.root / ".migrate/ledger.sqlite").exists()
    assert world.migrate("run", digest, "--wave", "all").code == 0


def test_a_ledger_that_was_lost_is_no_plan_that_was_never_run(world: SmallWorld) -> None:
    """Its seals are there: an integrity error, with what to look for."""
    assert world.migrate("run", "--wave", "all").code == 0
    (world.root / ".migrate/ledger.sqlite").rename(world.root / "elsewhere.sqlite")
    answer = world.migrate("status")
    assert answer.code == ExitCode.INTEGRITY
    assert "--ledger" in answer.err
    world.ledger = f"sqlite:///{world.root}/elsewhere.sqlite"
    assert world.migrate("status").code == 0


# JSON, and an answer that cannot be written


def test_with_json_every_line_on_stderr_is_json(tmp_path: Path) -> None:
    """Problems of workers and the logs of their processes too: a target that is gone ends a run of two workers with 69."""
    world = build_planned(tmp_path, users=10, per_user=3, large=False)
    (world.root / "stores/hamar").rename(world.root / "gone")
    done = world.start("run", "--wave", "all", "--workers", "2", "--json")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 69, err
    assert json.loads(out)["exit_code"] == 69
    assert any("error" in line for line in lines_of(err.decode()))


def test_workers_log_as_their_parent_does(tmp_path: Path) -> None:
    """A worker process is told: JSON where the parent's logs are JSON, key=value where they are; and how much."""
    code = (
        "import logging, sys, structlog\n"
        "from types import SimpleNamespace\n"
        "from migrate.cli.logs import start_logs\n"
        "from migrate.cli.output import Output\n"
        "from migrate.engines import child, local\n"
        "as_json = 'json' in sys.argv\n"
        "start_logs(SimpleNamespace(debug='debug' in sys.argv, as_json=as_json, output=Output(as_json=as_json)))\n"
        "sys.argv = ['-c', *local._log_words()]\n"
        "child._start_logs(as_json=local.JSON_LOGS in sys.argv, debug=local.DEBUG_LOGS in sys.argv)\n"
        "structlog.get_logger().info('said', count=1)\n"
        "structlog.get_logger().debug('more', count=1)\n"
    )
    for words, opening, lines in (((), "timestamp=", 1), (("json",), "{", 1), (("json", "debug"), "{", 2)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stderr.startswith(opening)
        assert len(done.stderr.splitlines()) == lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [["plans", "--json"], ["run", "--help", "--json"]])
def test_an_answer_that_cannot_be_written_is_said_to_be_lost(world: SmallWorld, words: list[str]) -> None:
    """A full disk is no bug of ours: 69, in words, and no crash report."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "migrate", *world.arguments(words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.UNREACHABLE
    (line,) = lines_of(done.stderr)
    assert "standard output cannot be written" in str(line["error"])
    assert not list((world.root / ".migrate").glob("crash-*"))


# signals


@pytest.mark.parametrize(
    ("number", "loaded"),
    [
        (signal.SIGINT, "typer"),
        (signal.SIGTERM, "migrate.cli.context"),
        (signal.SIGINT, "pydantic_core"),
        (signal.SIGTERM, "sqlalchemy.util"),
        (signal.SIGINT, "duckdb"),
    ],
)
def test_a_signal_while_modules_are_loaded_ends_with_130(
    world: SmallWorld, number: signal.Signals, loaded: str
) -> None:
    """However early it comes: python tells each import, and the signal is sent when it tells of `loaded`."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "migrate",
            *world.arguments(["plan", f"{world.root}/plans/small.toml"]),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        if line.startswith("import time:"):
            if line.rpartition("|")[2].strip() == loaded:
                os.kill(process.pid, number)
        else:
            said.append(line)
    assert process.wait(timeout=60) == ExitCode.INTERRUPTED, said
    assert [line.split(":")[0] for line in said] == ["error", "next"]


def test_the_early_code_is_the_tables() -> None:
    """What serves before anything is loaded says 130 by itself."""
    from migrate.cli import interrupts

    assert interrupts.INTERRUPTED == ExitCode.INTERRUPTED


def test_the_second_signal_says_that_it_is_over(tmp_path: Path) -> None:
    """Two signals: the process ends at once with 130, and says what comes next."""
    world = build(tmp_path, users=10, per_user=3, large=False)
    world.put_source("users/u002/film", body_of("film", 20_000_000))
    planned(world)
    process = world.start("run", "--wave", "all", "--limit-bytes", "1MB/s")
    assert process.stderr is not None
    while not any((world.root / "stores/hamar").rglob("*photo*")):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    while b"stopping:" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    err = process.stderr.read().decode()
    assert process.wait(timeout=60) == 130
    assert "run it again" in err
    assert "Traceback" not in err
