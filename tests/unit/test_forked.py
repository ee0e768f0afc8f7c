"""A forked command is a process like others: what the tests of crashes and signals rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import forked
import pytest

TELLS = """
import json, os, sys, threading
said = [os.getppid(), os.getsid(0), threading.active_count(), os.getcwd(), os.environ["WORD"], sys.argv, __name__]
print(json.dumps([os.getpid(), *said, "migrate" in sys.modules, sorted(os.listdir("/proc/self/fd"))]))
print("below", file=sys.stderr)
sys.exit(3)
"""


def started(code: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return forked.start(code, arguments, environment=environment, **streams)


def test_it_is_our_child_in_a_session_and_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own streams, words and exit code, none of our files, and no module of ours."""
    monkeypatch.chdir(tmp_path)
    process = started(TELLS, "word", "\udcff", WORD="said")
    out, err = process.communicate()
    pid, parent, session, threads, place, word, words, name, is_loaded, files = json.loads(out)
    assert (pid, parent, session) == (process.pid, os.getpid(), process.pid)
    assert (threads, place, word, words, name) == (1, str(tmp_path), "said", ["-c", "word", "\udcff"], "__main__")
    assert (is_loaded, files) == (False, ["0", "1", "2", "3"])  # the last is the look itself
    assert (process.returncode, err) == (3, b"below\n")
    assert started("import signal; print(x)").communicate()[1].endswith(b"NameError: name 'x' is not defined\n")


def test_it_stops_and_is_killed_as_a_whole() -> None:
    """Stopped by itself it is seen to be so, and its group dies of one signal, however soon that comes."""
    process = started("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for _ in range(20):
        process = started("import time; time.sleep(60)")
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()


def test_what_python_reads_when_it_starts_makes_a_new_one(tmp_path: Path) -> None:
    """The twin: a module in PYTHONPATH that is loaded at the start is loaded."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.stdout.write('customized ')")
    process = started("print('done')", PYTHONPATH=str(tmp_path))
    assert process.communicate()[0] == b"customized done\n"
    assert started("print('done')").communicate()[0] == b"done\n"
