"""Asking a command: the question on stdin, the answer on stdout, no shell, and an end to its time.

It ends with 0 and an answer, or with 75 where it refuses (EX_TEMPFAIL of sysexits.h); anything else is a failure, and nobody
knows what it has done. It runs in the workspace, in a session of its own, so that no signal of a terminal reaches it, and it is
killed with all that it has started. Its stderr is thrown away: a user id may stand there.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from migrate.errors import ExitCode, SpecError, UnreachableError
from migrate.routing.asking import ANSWER_BYTES
from migrate.spec import CommandRouting

_HELP = "Run it by hand with a question on stdin: docs/operations.md, Routing, has one."


class Command:
    """A Transport to a program, which runs in the folder `root`."""

    def __init__(self, asked: CommandRouting, root: Path) -> None:
        self._asked = asked
        self._root = root
        self.name = f"the command {asked.argv[0]}"

    def ask(self, question: bytes, *, changes: bool, seconds: float) -> bytes | None:
        until = time.monotonic() + self._asked.timeout_seconds + seconds
        with tempfile.TemporaryFile() as stdin:
            stdin.write(question)
            stdin.seek(0)
            try:
                process = subprocess.Popen(
                    self._asked.argv,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=self._root,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:  # the latter for a NUL
                raise SpecError(
                    f"{self.name} cannot be started: {error}", remedy="Mend routing.command.argv."
                ) from error
        try:
            answer = self._read(process, until)
            code = process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{self.name} took too long, and was killed", remedy=_HELP) from None
        finally:
            if process.returncode is None:  # nobody has waited for it, so the number is its own
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if code == ExitCode.LATER:
            return None
        if code != 0:
            how = f"ended with {code}" if code > 0 else f"was ended by signal {-code}"
            raise UnreachableError(f"{self.name} {how}", remedy=_HELP)
        return answer

    def _read(self, process: subprocess.Popen[bytes], until: float) -> bytes:
        """All that it says, until it closes stdout. Whoever says too much is not read to the end, and killed."""
        assert process.stdout is not None
        pipe, found = process.stdout.fileno(), b""
        while len(found) <= ANSWER_BYTES:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(self._asked.argv, self._asked.timeout_seconds)
            chunk = os.read(pipe, ANSWER_BYTES)
            if not chunk:
                return found
            found += chunk
        raise UnreachableError(f"{self.name} says more than an answer is", remedy=_HELP)
