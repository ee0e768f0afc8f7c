"""Commands as processes that need not load Python and the libraries first: they are forked off one that has loaded them.

Such a process is one like others: a child of the test process, which waits for it and may stop and kill it; in a session of its
own, with streams, environment and folder of its own, and with one thread. Nothing of the product is loaded before: its modules
are loaded in each process anew, after what a test has put in their place.

As a program, `python forked.py SOCKET` is the process that they are forked off. It ends with the test process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

LOADED = (
    *("duckdb", "psycopg", "pydantic", "rich.console", "rich.table", "rich.text", "sqlalchemy", "stamina", "structlog", "typer"),
    *("sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite"),
    *("concurrent.futures.thread", "csv", "hmac", "tomllib", "urllib.parse", "zoneinfo"),
)  # fmt: skip
_CLONE_PARENT = 0x8000  # clone(2): the new process is a child of its maker's parent
_CALLS = {"x86_64": 56, "aarch64": 220}  # the number of clone(2)
_AT_START = ("LANG", "LC_", "PYTHON", "TZ")  # what Python reads when it starts
_MESSAGE_BYTES = 2**20

_environment = dict(os.environ)  # of the maker
_makers: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []


def start(
    code: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    **streams: Any,
) -> subprocess.Popen[bytes]:
    """`python -c CODE ARGUMENTS` with these variables beside our own, in this folder, as the leader of a session."""
    words = [sys.executable, "-c", code, *arguments]
    whole = {**os.environ, **(environment or {})}
    kind = _Forked if _can_fork(whole) else subprocess.Popen[bytes]
    return kind(words, env=whole, cwd=folder, start_new_session=True, **streams)


def _can_fork(environment: Mapping[str, str]) -> bool:
    """Not for a Python that would start otherwise."""
    as_loaded = _read_at_start(environment) == _read_at_start(_environment)
    return as_loaded and sys.platform == "linux" and platform.machine() in _CALLS


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}


class _Forked(subprocess.Popen[bytes]):
    """Started by the maker: the rest is Popen's."""

    def _execute_child(self, args: Sequence[str], *given: Any) -> None:
        _executable, _preexec, _close_fds, _pass_fds, cwd, env, _startup, _flags, _shell, *pipes = given
        read_in, write_in, read_out, write_out, read_err, write_err, *_ = pipes
        streams = [own if fd == -1 else fd for own, fd in enumerate((read_in, write_out, write_err))]
        question = {"code": args[2], "arguments": args[3:], "environment": dict(env), "folder": str(cwd or Path.cwd())}
        maker = _made()
        socket.send_fds(maker, [json.dumps(question).encode()], streams)
        answer = maker.recv(_MESSAGE_BYTES)
        if not answer:
            raise OSError("the process that commands are forked off has ended")
        self.pid = int(answer)
        self._child_created = True
        for theirs, ours in ((read_in, write_in), (write_out, read_out), (write_err, read_err)):
            if theirs != -1 and ours != -1:
                os.close(theirs)
        devnull = getattr(self, "_devnull", None)
        if devnull is not None:
            os.close(devnull)
        self._closed_child_pipe_fds = True


def _made() -> socket.socket:
    """The way to the maker, which is started with the first command."""
    if not _makers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment,
                start_new_session=True,  # a terminal's signals are for whoever runs the tests
            )
        _makers.append((ours, process))
    return _makers[0][0]


def make(questions: socket.socket) -> None:
    """Load the libraries; then fork a process for each question until nobody can ask any more."""
    sys.path[0] = ""
    for name in LOADED:
        import_module(name)
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread, which a child would not have"
    while True:
        message, streams, _, _ = socket.recv_fds(questions, _MESSAGE_BYTES, 3)
        if not message:
            return
        if _fork() == 0:
            os.setsid()
            # not sooner: who knows the pid may signal the session
            questions.send(str(os.getpid()).encode())
            questions.close()
            _run(json.loads(message), streams)
        for fd in streams:
            os.close(fd)


def _fork() -> int:
    """fork(2), but for whose child it is."""
    python, system = ctypes.pythonapi, ctypes.PyDLL(None, use_errno=True)
    python.PyOS_BeforeFork()
    pid: int = system.syscall(_CALLS[platform.machine()], _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def _run(question: dict[str, Any], streams: list[int]) -> None:
    """Be `python -c`. Does not return."""
    spare = [os.dup(fd) for fd in streams]  # above 2: none is overwritten before it is in its place
    for number, fd in enumerate(spare):
        os.dup2(fd, number)
    os.closerange(3, max(*spare, *streams) + 1)
    for number, (name, mode, buffering) in enumerate((("stdin", "r", -1), ("stdout", "w", -1), ("stderr", "w", 1))):
        loaded = getattr(
            sys, name
        )  # of another file: what it knows of that, such as its place in it, is not true of ours
        ours = open(number, mode, buffering, encoding=loaded.encoding, errors=loaded.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, ours)
        setattr(sys, f"__{name}__", ours)
    os.chdir(question["folder"])
    os.environ.clear()
    os.environ.update(question["environment"])
    sys.argv = ["-c", *question["arguments"]]
    code = 0
    try:
        exec(compile(question["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python ends itself
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    make(socket.socket(fileno=int(sys.argv[1])))
