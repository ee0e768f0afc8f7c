"""The one error boundary: every way that a command can end becomes words on stderr and an exit code (design, section 7).

With `--json` an error is one JSON document on stderr, and stdout stays empty. An error that nobody raised on purpose is a bug:
its traceback goes to a private file, without the texts of other libraries, which may hold a key or a user id (design,
invariant 10), and the code is 5, since nothing is to be trusted before a person has looked.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from migrate import __version__
from migrate.cli.app import app, loading
from migrate.cli.context import Context, is_utf8
from migrate.cli.interrupts import NEXT, end_at_once
from migrate.cli.output import Output
from migrate.errors import ExitCode, MigrateError, SpecError, UsageError
from migrate.privacy import WorkerBugError, bare_traceback
from migrate.stderr import lenient_stderr
from migrate.workspace import private_umask

_ISSUE = "This is a bug in migrate. Report it with that file: it names no person, no key and no secret."


def run(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code. Nothing is raised, and the process is not ended here."""
    with lenient_stderr():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    private_umask()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = list(arguments[: arguments.index("--")]) if "--" in arguments else list(arguments)
    ending = _Ending(Output(as_json="--json" in words), debug="--debug" in words)
    command = typer.main.get_command(app)
    try:
        with _termination(as_json="--json" in words):
            _check_words(arguments)
            context = command.make_context("migrate", list(arguments))
            with context:
                ending.context = context
                command.invoke(context)
        return ExitCode.DONE
    except BaseException as error:  # noqa: BLE001 - the boundary: nothing passes it
        return ending.of(error)
    finally:
        _flush()


def _check_words(arguments: Sequence[str]) -> None:
    """UsageError for a word, or a variable of ours, that is not UTF-8: no database takes it, and no user has such an id."""
    for number, word in enumerate(arguments, 1):
        if not is_utf8(word):
            raise UsageError(f"word {number} of the command line is not UTF-8", remedy="Write it in UTF-8.")
    for name, value in os.environ.items():
        if name.startswith("MIGRATE_") and not is_utf8(value):
            raise UsageError(f"{name} in the environment is not UTF-8", remedy="Write it in UTF-8, or unset it.")


class _Ending:
    """Turns what ended a command into words and its exit code."""

    def __init__(self, output: Output, *, debug: bool) -> None:
        self._output = output
        self._debug = debug
        self.context: Any = None  # typer's, once the command line is parsed; its type is not public

    def of(self, error: BaseException) -> int:
        if isinstance(error, typer.Exit):
            return error.exit_code
        if isinstance(error, KeyboardInterrupt | typer.Abort):
            self._say("interrupted", remedy=NEXT, code=ExitCode.INTERRUPTED)
            return ExitCode.INTERRUPTED
        if isinstance(error, typer.TyperException):
            return self._usage(error)
        if isinstance(error, OSError) and _is_of_typer(
            error
        ):  # it writes help by itself, and does nothing else with files
            return self._help_lost(error)
        if self._debug:
            self._traceback(error)
        if isinstance(error, MigrateError):
            problems = error.problems if isinstance(error, SpecError) else ()
            self._say(error.what, remedy=error.remedy, problems=problems, code=error.exit_code)
            return error.exit_code
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else ExitCode.INTEGRITY
        return self._bug(error)

    def _usage(self, error: typer.TyperException) -> int:
        context = getattr(error, "ctx", None)
        help_command = f"{context.command_path} --help" if context is not None else "migrate --help"
        self._say(error.format_message(), remedy=f"`{help_command}`", code=ExitCode.USAGE)
        return ExitCode.USAGE

    def _help_lost(self, error: OSError) -> int:
        if isinstance(error, BrokenPipeError):  # `migrate --help | true`
            return ExitCode.DONE
        what = f"standard output cannot be written: {error.strerror}"
        self._say(what, remedy="Send it elsewhere; nothing was done.", code=ExitCode.UNREACHABLE)
        return ExitCode.UNREACHABLE

    def _bug(self, error: BaseException) -> int:
        path = crash_report(error, self._crash_folder())
        where = f"the traceback is in {path}" if path else "--debug shows the traceback"
        what = str(error) if isinstance(error, WorkerBugError) else type(error).__name__
        self._say(f"unexpected {what}: {where}", remedy=_ISSUE, code=ExitCode.INTEGRITY)
        return ExitCode.INTEGRITY

    def _crash_folder(self) -> Path:
        context: Context | None = self.context.find_object(Context) if self.context is not None else None
        if context is not None and context.workspace.private.is_dir():
            return context.workspace.private
        return Path(tempfile.gettempdir())

    def _traceback(self, error: BaseException) -> None:
        lines = bare_traceback(error)
        if self._output.as_json:
            self._output.problem({"traceback": lines})
        else:
            for line in lines:
                self._output.note(line)

    def _say(self, what: str, *, remedy: str = "", problems: Sequence[str] = (), code: int) -> None:
        self._output.error(what, problems=problems, remedy=remedy, code=code)


def _is_of_typer(error: BaseException) -> bool:
    """Whether it was raised in typer's own code."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and str(step.tb_frame.f_globals.get("__name__")).split(".")[0] == "typer"


def crash_report(error: BaseException, folder: Path) -> Path | None:
    """Write the bare traceback to a file that its owner alone can read. None where it cannot be."""
    at = datetime.now(UTC)
    path = folder / f"crash-{at:%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    text = f"migrate {__version__}, Python {sys.version.split()[0]}, {at:%Y-%m-%dT%H:%M:%SZ}\n\n"
    text += "\n".join(bare_traceback(error)) + "\n"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path


@contextmanager
def _termination(*, as_json: bool) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP interrupt a command that has no handler of its own. While its module loads they end the process.

    What is ignored stays ignored: SIGHUP under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if loading.is_set():
            end_at_once(as_json=as_json)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
