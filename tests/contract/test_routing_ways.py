"""What can go wrong on the way to whoever keeps the routes: a hook that fails, lies or is silent, and a command that dies."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import routes
import routeworlds
from routes import Hook
from routeworlds import KEY, TTL_SECONDS

from migrate.errors import ExitCode, IntegrityError, MigrateError, RefusedError, SpecError, UnreachableError
from migrate.routing import FreezeLimits, Route
from migrate.routing.asking import ANSWER_BYTES, AskingRouter
from migrate.routing.command import Command
from migrate.routing.http import HttpHook, sign
from migrate.spec import CommandRouting, HttpRouting

USER = "anna-who-must-not-be-named"
LIMITS = FreezeLimits(5, 60)


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A hook that is up."""
    with Hook(KEY.encode()).served() as served:
        yield served


def router_to(hook: Hook, *, key: str = KEY, timeout_seconds: int = 30, attempts: int = 3, **more: Any) -> AskingRouter:
    asked = HttpRouting(url=hook.url, key="env:KEY", timeout_seconds=timeout_seconds, attempts=attempts)
    return AskingRouter(HttpHook(asked, key.encode(), wait_seconds=0, **more), limits=LIMITS)


def demand_no_person(error: MigrateError) -> None:
    """Invariant 10: what is told names no user, and says what to do."""
    assert USER not in error.what + error.remedy
    assert error.remedy


# ---- the hook


@pytest.mark.parametrize("fault", ["lost", "500", "503", "429", "half", "twice"])
def test_a_question_that_is_sent_again_has_its_effect_once(hook: Hook, fault: str) -> None:
    """The answer was lost, or it failed, or the request came twice: one effect, under one idempotency key."""
    router = router_to(hook)
    for verb, words in (("freeze", ("t1", TTL_SECONDS)), ("flip", ("t1", "hamar")), ("unfreeze", ("t1",))):
        hook.faults, hook.requests = [fault], []
        getattr(router, verb)(USER, *words)
        assert [question["verb"] for _, question in hook.requests] == [verb] * (1 if fault == "twice" else 2)
        assert len({key for key, _ in hook.requests}) == 1
        assert hook.requests[0][0] is not None
    assert router.read(USER) == Route("hamar")
    assert hook.requests[-1][0] is None  # an answer from memory would be an old one
    assert len(hook.platform.seen) == 3


def test_a_hook_that_stays_down_is_asked_so_often(hook: Hook) -> None:
    """`attempts` bounds it, and the answer is that nobody knows."""
    hook.faults = ["500"] * 10
    with pytest.raises(UnreachableError) as failed:
        router_to(hook, attempts=3).freeze(USER, "t1", TTL_SECONDS)
    assert hook.arrived == 3
    assert failed.value.exit_code is ExitCode.UNREACHABLE
    demand_no_person(failed.value)


@pytest.mark.parametrize("fault", ["silent", "drips"])
def test_a_hook_is_waited_for_so_long(hook: Hook, fault: str) -> None:
    """Also one that sends a byte now and then."""
    hook.faults = [fault]
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer: time is up"):
        router_to(hook, timeout_seconds=1, attempts=1).read(USER)
    assert time.monotonic() - began < 10
    hook.is_over.set()


def test_a_handshake_is_waited_for_so_long() -> None:
    """TLS that begins, and goes on a byte at a time."""
    is_over = threading.Event()

    def drip(server: socket.socket) -> None:
        with server, server.accept()[0] as connection:
            connection.sendall(b"\x16\x03\x03\x3f\x00")  # a record of 16,128 bytes is to come
            while not is_over.wait(0.02):
                try:
                    connection.sendall(b"\x02")
                except OSError:
                    return

    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=drip, args=(server,))
    thread.start()
    asked = HttpRouting(
        url=f"https://127.0.0.1:{server.getsockname()[1]}/", key="env:KEY", timeout_seconds=1, attempts=1
    )
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer"):
        AskingRouter(HttpHook(asked, KEY.encode()), limits=LIMITS).read(USER)
    assert time.monotonic() - began < 10
    is_over.set()
    thread.join()


@pytest.mark.parametrize("is_known", [True, False])
def test_a_hook_s_certificate_is_asked_for(certificate: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE names whom else to trust. The corrupted twin: nobody vouches for it, and it is told no question."""
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Hook(KEY.encode()).served(certificate) as hook:
        router = router_to(hook)
        if is_known:
            assert router.read(USER) == Route("us")
        else:
            with pytest.raises(UnreachableError, match="SSLCertVerificationError"):
                router.read(USER)
            assert hook.arrived == 0


@pytest.mark.parametrize("more", [{"key": "another key altogether"}, {"now": lambda: 1_000_000_000.0}])
def test_a_wrong_signature_is_refused_by_the_hook(hook: Hook, more: dict[str, Any]) -> None:
    """Another key, or a request of long ago: refused at once (77), and nothing was changed."""
    with pytest.raises(RefusedError) as refused:
        router_to(hook, **more).freeze(USER, "t1", TTL_SECONDS)
    assert hook.arrived == 1
    assert not hook.platform.routes
    demand_no_person(refused.value)


def test_a_signature_covers_path_time_and_body() -> None:
    """The corrupted twins: with any of them changed it is another one, and no two can be shifted into each other."""
    told = [
        ("/a", "1", b"x"),
        ("/b", "1", b"x"),
        ("/a", "2", b"x"),
        ("/a", "1", b"y"),
        ("/a", "1\nx", b""),
        ("/a\n1", "", b"x"),
    ]
    assert len({sign(b"key", *parts) for parts in told}) == len(told)


@pytest.mark.parametrize("broken", ["flips nothing", "stays frozen"])
def test_a_hook_that_lies_is_found(hook: Hook, broken: str) -> None:
    """It says 200, and its route says otherwise: nobody goes over by it (5)."""
    router = router_to(hook)
    router.freeze(USER, "t1", TTL_SECONDS)
    hook.platform.broken = broken
    with pytest.raises(IntegrityError) as found:
        router.flip(USER, "t1", "hamar") if broken == "flips nothing" else router.unfreeze(USER, "t1")
    demand_no_person(found.value)


@pytest.mark.parametrize(
    ("fault", "kind"), [("elsewhere", RefusedError), ("no json", UnreachableError), ("404", UnreachableError)]
)
def test_what_is_no_answer_is_not_believed(hook: Hook, fault: str, kind: type[MigrateError]) -> None:
    """A redirect is not followed (invariant 7), and the texts of others are not repeated; none is asked again."""
    hook.faults = [fault]
    with pytest.raises(kind) as failed:
        router_to(hook).read(USER)
    assert hook.arrived == 1
    demand_no_person(failed.value)


def test_the_environment_names_no_proxy(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 7."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert router_to(hook).read(USER) == Route("us")


# ---- the command

PROGRAMS = {
    "dies": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
    "fails": ("import sys; sys.exit(sys.stdin.read())", "ended with 1"),
    "says nothing": ("pass", "does not answer"),
    "says too much": (f"print('x' * {ANSWER_BYTES + 1}); import time; time.sleep(60)", "more than an answer"),
    "says what it was asked": ("import sys; print(sys.stdin.read())", "does not answer"),
    "takes too long": ("import time; time.sleep(60)", "took too long"),
    "leaves a child": (
        "import os, sys, time\nif os.fork() == 0:\n    open('child', 'w').write(str(os.getpid()))\ntime.sleep(60)",
        "took too long",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_command_that_fails_leaves_it_open_what_it_did(tmp_path: Path, name: str) -> None:
    """69, without a word of what it said; and it is gone with all that it has started."""
    program, complaint = PROGRAMS[name]
    asked = CommandRouting(
        argv=(sys.executable, "-S", "-E", "-c", program), timeout_seconds=1 if "time" in program else 30
    )
    with pytest.raises(UnreachableError, match=complaint) as failed:
        AskingRouter(Command(asked, tmp_path), limits=LIMITS).flip(USER, "t1", "hamar")
    demand_no_person(failed.value)
    if name == "leaves a child":
        child = int((tmp_path / "child").read_text())
        until = time.monotonic() + 30
        while is_alive(child):
            assert time.monotonic() < until


def is_alive(number: int) -> bool:
    """Whether there is such a process, and it is more than a name that nobody has asked after."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_user_is_among_no_command_s_arguments(tmp_path: Path) -> None:
    """Invariant 10: whoever lists processes sees the program as the spec has it, and the question comes on stdin."""
    program = (
        "import json, sys; asked = json.load(sys.stdin); print(json.dumps({'home': asked['user']}));"
        "open('seen', 'w').write(open('/proc/self/cmdline').read() + open('/proc/self/environ').read())"
    )
    asked = CommandRouting(argv=(sys.executable, "-S", "-E", "-c", program, "--flag; echo $HOME"))
    assert AskingRouter(Command(asked, tmp_path), limits=LIMITS).read(USER) == Route(USER)
    seen = (tmp_path / "seen").read_text()
    assert USER not in seen
    assert "--flag; echo $HOME\0" in seen


def test_a_command_that_is_not_there_is_the_spec_s_fault(tmp_path: Path) -> None:
    """78: nothing was asked."""
    with pytest.raises(SpecError, match="cannot be started") as failed:
        AskingRouter(Command(CommandRouting(argv=("./nowhere",)), tmp_path), limits=LIMITS).read(USER)
    demand_no_person(failed.value)


def test_a_command_that_is_asked_again_has_its_effect_once(tmp_path: Path) -> None:
    """It was killed after it had flipped: the same question ends the same."""
    argv = routeworlds.command_of(tmp_path / "state.json")
    router = AskingRouter(Command(CommandRouting(argv=tuple(argv), timeout_seconds=60), tmp_path), limits=LIMITS)
    router.freeze(USER, "t1", TTL_SECONDS)
    dies = "import subprocess, sys, os; subprocess.run(sys.argv[1:], stdin=0, stdout=2); os.kill(os.getpid(), 9)"
    dying = CommandRouting(argv=(sys.executable, "-c", dies, *argv), timeout_seconds=60)
    with pytest.raises(UnreachableError):
        AskingRouter(Command(dying, tmp_path), limits=LIMITS).flip(USER, "t1", "hamar")
    with routes.kept(tmp_path / "state.json") as platform:
        assert platform.routes[USER]["home"] == "hamar"
    router.flip(USER, "t1", "hamar")
    assert json.loads((tmp_path / "state.json").read_text())["routes"][USER]["home"] == "hamar"


@dataclass
class Slow:
    """A Transport that keeps how much time it was given."""

    name: str = "slow"
    given: list[float] = field(default_factory=list)

    def ask(self, question: bytes, *, changes: bool, seconds: float) -> bytes | None:
        self.given.append(seconds)
        return b'{"home": "us", "frozen_by": "t1"}'


def test_a_freeze_has_time_to_wait_for_writers() -> None:
    """`drain_seconds` on top of what an answer has otherwise."""
    transport = Slow()
    router = AskingRouter(transport, limits=LIMITS)
    router.freeze(USER, "t1", TTL_SECONDS)
    router.read(USER)
    assert transport.given == [LIMITS.drain_seconds, 0]
