"""Runs the tool's own commands for the demo, as an operator would type them, in processes of their own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.control import Control
from rich.text import Text

from migrate.errors import ExitCode, IntegrityError

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """Where commands run (the workspace), in which environment, and who says so."""

    root: Path
    environment: Mapping[str, str]
    say: Callable[[RenderableType], None]

    def run(self, *arguments: str, expect: ExitCode = ExitCode.DONE) -> None:
        """Show and run `migrate ARGUMENTS`; what it says goes where ours goes. IntegrityError for another exit code.

        What is to be refused has no answer but its refusal, which then stands in the answer's place.
        """
        self._prompt(arguments)
        with self._process(arguments, stderr=subprocess.STDOUT if expect is ExitCode.REFUSED else None) as process:
            code = process.wait()
        if code != expect:
            raise IntegrityError(f"`migrate {arguments[0]}` ended with {code}; the demo expected {expect.value}")

    def run_briefly(self, *arguments: str, lines: int, left_out: str) -> None:
        """Like `run`, of a long answer: only its last `lines` lines are shown, and `left_out` for what came before."""
        self._prompt(arguments)
        answer = self._answer(arguments).splitlines()
        self.say(Text(f"… {left_out}", style="dim"))
        for line in answer[-lines:]:
            self.say(Text(line))

    def run_until(self, reached: Callable[[], bool], *arguments: str, limit_seconds: float = 120) -> None:
        """Like `run`, until it is `reached()`: then `kill -9` for it and its workers. IntegrityError if it ends before."""
        self._prompt(arguments)
        end = time.monotonic() + limit_seconds
        with self._process(arguments) as process:
            while not reached():
                if process.poll() is not None or time.monotonic() > end:
                    raise IntegrityError("the run ended before the demo could kill it in the middle")
                time.sleep(_POLL_SECONDS)
        self.say(Control.show_cursor(True))  # the dead cannot give it back

    def answer(self, *arguments: str, expect: ExitCode = ExitCode.DONE) -> Any:
        """What `migrate ARGUMENTS --json` answers, for the demo's own use."""
        return json.loads(self._answer((*arguments, "--json"), expect))

    def _answer(self, arguments: tuple[str, ...], expect: ExitCode = ExitCode.DONE) -> str:
        command = [sys.executable, "-m", "migrate", *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=dict(self.environment), stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != expect:
            raise IntegrityError(
                f"`migrate {arguments[0]}` ended with {done.returncode}; the demo expected {expect.value}"
            )
        return done.stdout

    @contextmanager
    def _process(self, arguments: tuple[str, ...], *, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """The command in a process group of its own. Whatever is left of it when the block ends is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "migrate", *arguments],
            cwd=self.root,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _prompt(self, arguments: tuple[str, ...]) -> None:
        self.say(
            Text.assemble("\n", ("$ ", "bold green"), (f"migrate {shlex.join(arguments)}", "bold"), overflow="fold")
        )
