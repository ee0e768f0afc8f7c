"""A hostile directory through the real command line: refused by file and row, or a user in review. Never a plan of it.

Tried: the same user twice, with one country and with two; ids that leave their segment of a key; BOM, CRLF, Latin-1, UTF-16,
gzip, quotes; fields that are empty or of 10 MB; wrong types; Parquet cut and garbled; ids that look like paths.

Every refusal names the file and the row or column, has a remedy, leaves no plan and no crash report, repeats no id (design,
invariant 10), and is harmless on a terminal.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SPEC, Run, build_workspace, is_harmless, runner
from hostile import SECRET, Case, Change, accepting, assert_refused, both, named, parquet, spec_of

from migrate.errors import ExitCode
from migrate.planner.folder import Plan

HEAD = "user_id,country\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return runner(capsys, tmp_path)


def users(content: bytes | str) -> Change:
    def change(root: Path) -> None:
        (root / "users.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def columns(text: str) -> Change:
    """The spec's names for the directory's columns."""

    def change(root: Path) -> None:
        spec_of(root).write_text(SPEC.replace('max_age = "36500d"', f'max_age = "36500d"\ncolumns = {{ {text} }}'))

    return change


def remade(make: Callable[[Path], None]) -> Change:
    """Something else in the place of the directory's file."""

    def change(root: Path) -> None:
        (root / "users.csv").unlink()
        make(root / "users.csv")

    return change


TWO = f"SELECT * FROM (VALUES ('{SECRET}', 'IE'), ('b', 'NO')) AS t(user_id, country)"
BIG = "x" * 10_000_000

DIRECTORY = [
    Case(
        "the same user twice",
        users(f"{HEAD}{SECRET},IE\nb,IE\n{SECRET},IE\n"),
        ("users.csv: rows 1, 3: column 'user_id': the same user",),
    ),
    Case(
        "a user with two countries",
        users(f"{HEAD}{SECRET},IE\n{SECRET},NO\n"),
        ("rows 1, 2: column 'user_id': the same user", "one country"),
    ),
    Case("two countries in Parquet", parquet(f"{TWO} UNION ALL SELECT '{SECRET}', 'NO'"), ("the same user id",)),
    Case(
        "an id that leaves its segment",
        users(f"{HEAD}b,IE\n../{SECRET},NO\n"),
        ("users.csv: row 2: column 'user_id': the user id holds a `/`",),
    ),
    Case(
        "an empty id", users(f"{HEAD}{SECRET},IE\n,NO\n"), ("users.csv: row 2: column 'user_id': the user id is empty",)
    ),
    Case(
        "an id of 1,025 bytes",
        users(f"{HEAD}{SECRET}{'x' * 1014},NO\n"),
        ("row 1: column 'user_id': the user id has more than 1024 bytes",),
    ),
    Case("an id of 10 MB", users(f"{HEAD}b,IE\n{BIG},IE\n"), ("users.csv: line 3: a line of more than 2 MB",)),
    Case("a country of 10 MB", users(f"{HEAD}{SECRET},{BIG}\n"), ("users.csv: line 2: a line of more than 2 MB",)),
    Case(
        "a quoted field of 10 MB", users(f'user_id,country,note\nb,IE,"{BIG}"\n'), ("line 2: a line of more than 2 MB",)
    ),
    Case("a header of 10 MB", users(f"user_id,{BIG}\nb,IE\n"), ("users.csv: line 1: no header",)),
    Case(
        "an id of 10 MB in Parquet",
        parquet(f"SELECT '{BIG}' AS user_id, 'IE' AS country"),
        ("row 1: column 'user_id': the user id has more",),
    ),
    Case(
        "Latin-1",
        users(f"{HEAD}{SECRET},IE\nbj\xf6rn,NO\n".encode("latin-1")),
        ("users.csv: line 3: not UTF-8", "as UTF-8"),
    ),
    Case("UTF-16", users(f"{HEAD}{SECRET},IE\n".encode("utf-16")), ("users.csv: line 1: a NUL", "as UTF-8")),
    Case("gzip", users(gzip.compress(f"{HEAD}{SECRET},IE\n".encode())), ("users.csv: line 1: a NUL", "compressed")),
    Case("a NUL", users(f"{HEAD}{SECRET},IE\nb\0,NO\n"), ("users.csv: line 3: a NUL character",)),
    Case(
        "a quote without an end",
        users(f'{HEAD}"{SECRET},IE\nb,NO\n'),
        ("users.csv: line 2: a quote that does not end",),
    ),
    Case("a field too many", users(f"{HEAD}b,IE\n{SECRET},IE,more\n"), ("users.csv: line 3: 3 columns instead of 2",)),
    Case("a field too few", users(f"{HEAD}b,IE\n{SECRET}\n"), ("users.csv: line 3: 1 columns instead of 2",)),
    Case(
        "line ends that are mixed",
        users(f"user_id,country\r\n{SECRET},IE\nb,NO\r\n"),
        ("line ends or quotes that are mixed",),
    ),
    Case("a cut last line", users(f"{HEAD}b,IE\n{SECRET},I"), ("users.csv: line 3: the last line has no line end",)),
    Case(
        "semicolons",
        users(f"user_id;country\n{SECRET};IE\n"),
        ("users.csv: no column 'user_id'", "separated by commas"),
    ),
    Case(
        "a column twice", users(f"user_id,country,country\n{SECRET},IE,NO\n"), ("line 1: a column name stands twice",)
    ),
    Case("nothing at all", users(""), ("users.csv: empty",)),
    Case("nobody", users(HEAD), ("users.csv: holds no users",)),
    Case(
        "ids that are floats",
        parquet("SELECT 1.5 AS user_id, 'IE' AS country"),
        ("column 'user_id' is DECIMAL(2,1) and not text",),
    ),
    Case(
        "ids that are bytes",
        parquet("SELECT 'a'::BLOB AS user_id, 'IE' AS country"),
        ("column 'user_id' is BLOB and not text",),
    ),
    Case(
        "countries that are lists",
        parquet("SELECT 'a' AS user_id, ['IE'] AS country"),
        ("column 'country' is VARCHAR[]",),
    ),
    Case(
        "a type with a hostile name",
        parquet("SELECT 'a' AS user_id, {'\x1b[2J[red]': 1} AS country"),
        ("users.csv: column 'country' is STRUCT", "\\x1b[2J[red]"),
    ),
    Case(
        "a hold that says neither",
        both(columns('hold = "held"'), users(f"user_id,country,held\nb,IE,no\n{SECRET},IE,\n")),
        ("users.csv: row 2: column 'held': neither true nor false",),
    ),
    Case("a column of a hostile name", columns('user = "\\u001b[2J[red]"'), ("users.csv: no column", "x1b[2J[red]")),
    Case("a truncated Parquet file", parquet(TWO, lambda whole: whole[: len(whole) // 2]), ("users.csv: ",)),
    Case("Parquet without its footer", parquet(TWO, lambda whole: whole[:-8]), ("users.csv: ",)),
    Case("Parquet that is its mark alone", users(b"PAR1"), ("users.csv: ",)),
    Case(
        "Parquet with a footer of zeros",
        parquet(TWO, lambda whole: whole[:-200] + bytes(192) + whole[-8:]),
        ("users.csv: ",),
    ),
    Case("a folder for a file", remade(Path.mkdir), ("users.csv: ", "folder")),
    Case("a pipe for a file", remade(os.mkfifo), ("users.csv: no such file",)),
    Case("a device for a file", remade(lambda path: path.symlink_to("/dev/zero")), ("users.csv: no such file",)),
    Case("no file", remade(lambda path: None), ("users.csv: no such file",)),
]


@named(DIRECTORY)
def test_a_hostile_directory_is_refused(run: Run, tmp_path: Path, case: Case) -> None:
    """Invariant 4: file, row and remedy are told, and there is no plan."""
    spec = build_workspace(tmp_path)
    case.change(tmp_path)
    assert_refused(tmp_path, run("plan", str(spec)), case.code, *case.says)


@pytest.mark.parametrize(
    ("content", "states"),
    [
        (b'\xef\xbb\xbfuser_id,country\r\nanna,IE\r\n"bert","NO"\r\n', {"anna": "planned", "bert": "planned"}),
        (b'user_id,country\nanna,IE\n"be""r\nt",NO\n', {"anna": "planned", 'be"r\nt': "planned"}),
        (b'user_id,country\nanna,\nbert,""\n', {"anna": "review", "bert": "review"}),
        (
            "user_id,country\nanna,I\u202eE\nbert,\x1b[2J\ncarl,[red]\n".encode(),
            dict.fromkeys(("anna", "bert", "carl"), "review"),
        ),
        (b"user_id,country\nanna,IE\n" + b"bert," + b"x" * 1_000_000 + b"\n", {"anna": "planned", "bert": "review"}),
    ],
    ids=["BOM, CRLF and quotes", "quotes and line ends inside", "no country", "hostile countries", "a country of 1 MB"],
)
def test_odd_but_whole_directories_are_read_as_they_are(
    run: Run, tmp_path: Path, content: bytes, states: dict[str, str]
) -> None:
    """What is allowed is planned, and what is no country goes to review: nobody's country is guessed."""
    spec = build_workspace(tmp_path)
    (tmp_path / "users.csv").write_bytes(content)
    done = run("plan", str(spec), "--json")
    assert done.code == 0, done.err
    plan = Plan.open(Path(done.answer["folder"]))
    assert {user.user_id: user.state for user in plan.users()} == states
    shown = run("show")
    assert shown.code == 0
    assert is_harmless(shown.out + shown.err)


IDS = (
    "..",
    ".",
    "%2e%2e",
    "%2F",
    "-",
    "--json",
    "a b",
    "[red]",
    "\x1b[2J",
    "\u202e",
    "NUL",
    "\\",
    "'; DROP",
    "é" * 500,
)


def test_ids_that_look_like_paths_own_what_is_theirs(run: Run, tmp_path: Path) -> None:
    """No id leads out of a folder or is decoded: each user has just its own three keys, at the targets as at the source."""
    spec = build_workspace(tmp_path, users=dict.fromkeys(IDS, "IE"))
    outside = set(tmp_path.iterdir())
    done = run("plan", str(spec), "--json")
    assert done.code == 0, done.err
    plan = Plan.open(Path(done.answer["folder"]))
    assert {user.user_id: (user.state, user.objects) for user in plan.users()} == dict.fromkeys(IDS, ("planned", 3))
    while (ran := run("run", "--wave", "all", *accepting(done))).code == ExitCode.LATER:
        pass
    assert ran.code == 0, ran.err
    verified = run("verify", "--json")
    assert (verified.code, verified.answer["pass"]["verdicts"]["match"]) == (0, 2 * 3 * len(IDS))
    assert set(tmp_path.iterdir()) - outside <= {tmp_path / ".migrate"}
    for user in IDS:
        told = run("status", "--json", f"--user={user}") if user != "-" else None
        assert told is None or (told.code, told.answer["matched"]) == (0, 6)
