"""The command line's frame: what starting costs, how each way to end is told, and what is never shown."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import duckdb
import pytest
import structlog
import typer
from commands import Run, build_workspace, is_harmless, runner

from migrate import __version__
from migrate.cli import app
from migrate.engines.local import stop_on_signal
from migrate.errors import ExitCode, MigrateError, RefusedError, SpecError

HEAVY = ("pydantic", "boto3", "duckdb", "sqlalchemy", "obstore", "alembic", "structlog", "rich", "urllib3", "stamina")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """The frame sets the process's umask and logging."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
    structlog.reset_defaults()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return runner(capsys, tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Adds a command `try` that is the given function."""

    def add(function: Callable[..., None]) -> None:
        module = ModuleType("command_under_test")

        def body(as_json: bool = typer.Option(False, "--json")) -> None:
            function()

        module.body = body  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "command_under_test", module)
        monkeypatch.setitem(app.COMMANDS, "try", app.Entry("command_under_test", "A command under test.", "body"))

    return add


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migrate", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_starting_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """Help and version load no library that costs time, neither a third party's nor one of ours behind it."""
    code = (
        "import sys; from migrate.cli.boundary import run; run(sys.argv[1:]); "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=open('loaded', 'w'))"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    loaded = (tmp_path / "loaded").read_text().split()
    assert loaded == []


def test_the_console_command_and_the_module_are_one(tmp_path: Path) -> None:
    """`migrate` and `python -m migrate` answer alike."""
    script = Path(sys.executable).with_name("migrate")
    shown = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert shown == process("--version", cwd=tmp_path).stdout == f"migrate {__version__}\n"


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_explains_itself(run: Run, name: str) -> None:
    """Each command in the list can be loaded and has a help text; what reads data offers `--json`."""
    done = run(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: migrate {name} ")
    if name not in ("ledger", "demo"):
        assert "--json" in done.out


def test_the_list_of_commands_is_complete(run: Run) -> None:
    """`--help` names every command with its line."""
    out = " ".join(run("--help").out.split())
    for name, entry in app.COMMANDS.items():
        assert f"{name} {entry.help}" in out


def test_nothing_asked_is_a_usage_error(run: Run) -> None:
    """A cron line that lost its command does not pass for done."""
    done = run()
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    "arguments", [("nope",), ("plan",), ("plan", "--nope", "x"), ("ledger", "nope"), ("--nope",), ("show", "a", "b")]
)
def test_a_wrong_command_line_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    """Exit 2, nothing on stdout, and a help command that exists."""
    done = run(*arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert done.err.startswith("error: ")
    assert "--help`" in done.err


def test_an_error_is_told_in_words(run: Run, command: Callable[..., None]) -> None:
    """What happened, each problem on a line, what to do next, and the family's exit code."""
    command(raising(SpecError("x.toml: 2 problems", ["a: wrong", "b: unknown key"], remedy="Mend both.")))
    done = run("try")
    assert (done.code, done.out) == (ExitCode.BAD_SPEC, "")
    assert done.err == "error: x.toml: 2 problems\n  a: wrong\n  b: unknown key\nnext: Mend both.\n"


def test_an_error_is_told_as_json(run: Run, command: Callable[..., None]) -> None:
    """With --json: one document on stderr, nothing on stdout."""
    command(raising(RefusedError("not here", remedy="Elsewhere.")))
    done = run("try", "--json")
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert json.loads(done.err) == {
        "error": {"what": "not here", "remedy": "Elsewhere.", "exit_code": 77, "problems": []}
    }


def test_a_usage_error_is_told_as_json(run: Run) -> None:
    """Also one that the parser finds."""
    done = run("plan", "--json")
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert done.error["exit_code"] == 2


def test_hostile_text_in_an_error_does_not_reach_the_terminal(run: Run, command: Callable[..., None]) -> None:
    """Control sequences and markup are shown, not obeyed."""
    hostile = "bucket [red]\x1b[2J\x07\u202e\r\nerror: forged"
    command(raising(SpecError(hostile, [hostile], remedy=hostile)))
    done = run("try")
    assert is_harmless(done.err)
    assert "[red]\\x1b[2J\\x07\\u202e\\r\\nerror: forged" in done.err
    assert len(done.err.splitlines()) == 3


def test_a_hostile_argument_does_not_reach_the_terminal(run: Run) -> None:
    """What was typed or expanded by a shell is data too."""
    done = run("show", "\x1b[31m[bold]")
    assert done.code == ExitCode.USAGE
    assert is_harmless(done.err)


class LeakError(Exception):
    """A bug's error whose text names a person."""


def test_a_bug_leaves_a_private_report_and_shows_nothing_of_it(
    run: Run, command: Callable[..., None], tmp_path: Path
) -> None:
    """Invariant 10: terminal and cron's mail see the type alone; a 0600 file has the traceback, without texts."""
    (tmp_path / ".migrate").mkdir()

    def body() -> None:
        local = "-".join(("user", "anna"))
        raise LeakError(local) from ValueError(len(local))

    command(body)
    done = run("try")
    assert (done.code, done.out) == (ExitCode.INTEGRITY, "")
    assert "unexpected LeakError" in done.err
    assert "anna" not in done.err
    (report,) = (tmp_path / ".migrate").glob("crash-*.txt")
    assert str(report) in done.err
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    text = report.read_text()
    assert text.splitlines()[-1].endswith(".LeakError")
    assert "ValueError\n" in text
    assert "line " in text
    assert "user-anna" not in text


def test_debug_shows_the_traceback(run: Run, command: Callable[..., None]) -> None:
    """The chain of causes, escaped like everything else."""
    command(raising(MigrateError("of the tool\x1b[2J")))
    done = run("--debug", "try")
    assert "Traceback (most recent call last)" in done.err
    assert is_harmless(done.err)
    assert "Traceback" not in run("try").err


def break_duckdb(person: str) -> None:
    duckdb.execute(f"SELECT CAST('{person}' AS INTEGER)")


def break_open(person: str) -> None:
    Path("/nowhere", person).read_bytes()


def break_with_note(person: str) -> None:
    error = KeyError(person)
    error.add_note(person)
    raise error


@pytest.mark.parametrize(
    ("broken", "kind", "named"),
    [
        (break_duckdb, duckdb.ConversionException, "duckdb.ConversionException"),
        (break_open, FileNotFoundError, "FileNotFoundError [ENOENT]"),
        (break_with_note, KeyError, "KeyError"),
    ],
)
def test_a_traceback_names_no_person(
    run: Run,
    command: Callable[..., None],
    tmp_path: Path,
    broken: Callable[[str], None],
    kind: type[Exception],
    named: str,
) -> None:
    """Invariant 10: what other libraries say of a value or a path is in no traceback: by itself, as a cause, in passing."""
    (tmp_path / ".migrate").mkdir()
    person = "-".join(("canary", "user"))
    with pytest.raises(kind) as caught:
        broken(person)
    assert person in "".join(traceback.format_exception(caught.value))  # the twin: Python's own traceback names it

    def as_cause() -> None:
        raise MigrateError("of the tool") from caught.value

    def in_passing() -> None:
        try:
            broken(person)
        finally:
            raise MigrateError("of the tool")

    def hidden() -> None:
        try:
            broken(person)
        except kind:
            raise MigrateError("of the tool") from None

    for failing, shown in ((as_cause, True), (in_passing, True), (hidden, False), (lambda: broken(person), True)):
        command(failing)
        for options in ((), ("--json",)):
            err = run("--debug", "try", *options).err
            assert "Traceback (most recent call last)" in err
            assert (named in err) == shown
            assert person not in err


def test_sigint_ends_with_130(run: Run, command: Callable[..., None]) -> None:
    """A command without a handler of its own is interrupted."""
    command(raising(KeyboardInterrupt()))
    done = run("try")
    assert done.code == ExitCode.INTERRUPTED
    assert "interrupted" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_with_130(run: Run, command: Callable[..., None], number: signal.Signals) -> None:
    """systemd's stop and a terminal that closes are like a Ctrl-C, and the handler is gone afterwards."""

    def body() -> None:
        os.kill(os.getpid(), number)
        signal.pause()

    command(body)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        assert run("try").code == ExitCode.INTERRUPTED
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_a_command_goes_on(run: Run, command: Callable[..., None]) -> None:
    """The twin: a SIGHUP that the shell has made to be ignored stays ignored, with a handler of a command's own as well."""

    def body() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        with stop_on_signal(lambda _count: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()

    command(body)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("try").code == ExitCode.DONE
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("code", [0, 3, 75])
def test_a_command_ends_with_the_code_that_it_names(run: Run, command: Callable[..., None], code: int) -> None:
    """`typer.Exit` passes through."""
    command(raising(typer.Exit(code)))
    assert run("try").code == code


def test_new_files_are_private(run: Run, command: Callable[..., None], tmp_path: Path) -> None:
    """The umask is set before anything is written."""
    command(lambda: (tmp_path / "new").write_text(""))  # type: ignore[arg-type, return-value]
    os.umask(0)
    assert run("try").code == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`migrate plans --json | head -0`: quiet, and the command's own exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "migrate", "plans", "--json"],
            cwd=tmp_path,
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def on_terminal(*arguments: str, cwd: Path, **environment: str) -> bytes:
    """What a command shows on a terminal, both streams."""
    own, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "migrate", *arguments],
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(own, 65536):
            shown += chunk
    except OSError as error:  # Linux: the other side of a terminal is gone
        if error.errno != errno.EIO:
            raise
    finally:
        os.close(own)
        child.wait(timeout=60)
    return shown


def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    """Red on a terminal, none with NO_COLOR, none in a pipe."""
    environment = {name: "" for name in ("FORCE_COLOR", "CLICOLOR_FORCE") if name in os.environ}
    assert b"31m" in on_terminal("nope", cwd=tmp_path, **environment)
    assert b"31m" not in on_terminal("nope", cwd=tmp_path, NO_COLOR="1", **environment)
    assert "\x1b" not in process("nope", cwd=tmp_path).stderr


def test_tables_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    """A plan's tables on a terminal: no line is longer than it is wide, but for commands to copy."""
    spec = build_workspace(tmp_path)
    shown = on_terminal("plan", str(spec), "--dry-run", cwd=tmp_path, NO_COLOR="1").decode()
    lines = [line.rstrip() for line in shown.replace("\r", "").split("\n")]
    assert any("out-of-scope" in line for line in lines)
    assert max(map(len, (line for line in lines if "\x1b" not in line))) <= 80
