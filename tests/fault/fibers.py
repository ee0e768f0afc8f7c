"""Threads that take turns, so that a test decides which request of which process comes next.

A `Fiber` is a thread that runs only while the one who calls `step` waits for it: from one request to a store to the next. A
`Process` is a group of fibers that is killed as a whole: whatever it had not sent is lost, and each request that it had sent is
in flight. Nothing here is random and nothing waits for time, so the same steps give the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from migrate.errors import TransientStoreError
from migrate.worker.loop import Stop

WRITES = ("put", "create_upload", "put_part", "complete_upload", "abort_upload", "put_tags", "delete")

_here = threading.local()


class Killed(BaseException):
    """The process has died. No `except Exception` sees it."""


class Fate(StrEnum):
    """What becomes of the request at which a fiber waits."""

    ANSWERED = "answered"
    FAILED = "failed"  # it never arrived
    STALLED = "stalled"  # the client gives up; it may land later
    UNHEARD = "unheard"  # done, and the answer was lost


@dataclass(frozen=True, slots=True)
class Request:
    """What a fiber is about to ask of a store."""

    place: str
    operation: str
    key: str


@dataclass(frozen=True, slots=True)
class Late:
    """A writing request that no client waits for any more, with what it does when it lands."""

    request: Request
    effect: Callable[[], Any]


def _always() -> bool:
    return True


class Process:
    """One process of the tool: its number, its signal, and the fibers that die with it."""

    def __init__(self, scheduler: Scheduler, number: int, what: str) -> None:
        self.scheduler = scheduler
        self.number = number
        self.what = what
        self.stop = Stop()
        self.is_dead = False
        self.points_left: int | None = None  # dies at this many pause points from now
        self.fibers: list[Fiber] = []
        self.children: list[Process] = []

    @property
    def main(self) -> Fiber:
        return self.fibers[0]

    def spawn(self, name: str, run: Callable[[], object]) -> Fiber:
        fiber = Fiber(self, name, run)
        self.fibers.append(fiber)
        return fiber

    def at_point(self) -> None:
        """A pause point of the product: a place where this process may die in the middle of a transaction."""
        if self.points_left is not None:
            self.points_left -= 1
            if self.points_left < 0:
                self.is_dead = True
        if self.is_dead:
            raise Killed

    def kill(self, *, in_flight: bool) -> None:
        """As by SIGKILL; with `in_flight` the requests under way have left the machine."""
        self.is_dead = True
        for child in self.children:
            child.stop.set()  # its parent is gone: the end of its standard input says so
        for fiber in reversed(self.fibers):  # the main one last, which the others belong to
            if not fiber.has_ended:
                fiber.fate = Fate.STALLED if in_flight else Fate.FAILED
                fiber.resume()


class Fiber:
    """One thread of a process, from request to request."""

    def __init__(self, process: Process, name: str, run: Callable[[], object]) -> None:
        self.process = process
        self.name = name
        self.at: object = "start"
        self.is_ready: Callable[[], bool] = _always
        self.fate = Fate.ANSWERED
        self.has_ended = False
        self.result: object = None
        self.error: BaseException | None = None
        self._run = run
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._main, daemon=True).start()

    def resume(self) -> None:
        """Let it run to its next pause, or to its end."""
        self._go.release()
        self._back.acquire()

    def pause(self, at: object, is_ready: Callable[[], bool] = _always) -> None:
        """In the fiber itself: give the turn away. Killed where the process has died meanwhile."""
        if self.process.is_dead:
            raise Killed
        self.at, self.is_ready, self.fate = at, is_ready, Fate.ANSWERED
        self._back.release()
        self._go.acquire()
        self.at = None
        if self.process.is_dead and not (isinstance(at, Request) and self.fate is Fate.STALLED):
            raise Killed

    def _main(self) -> None:
        _here.fiber = self
        self._go.acquire()
        try:
            if not self.process.is_dead:
                self.result = self._run()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        finally:
            self.has_ended = True
            self._back.release()


def here() -> Fiber | None:
    """The fiber that asks; None outside of all."""
    return getattr(_here, "fiber", None)


@dataclass
class Scheduler:
    """All processes, the clock that they share, and the requests that are in flight without a client."""

    processes: list[Process] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    down: set[str] = field(default_factory=set)  # places that answer nobody
    now: float = 1000.0  # the monotonic clock, in seconds
    started: int = 0
    requests: int = 0
    stalled: int = 0

    def start(self, what: str, run: Callable[[Process], object]) -> Process:
        self.started += 1
        process = Process(self, 1000 + self.started, what)
        process.spawn("main", lambda: run(process))
        self.processes.append(process)
        return process

    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_dead]

    def ready(self) -> list[Fiber]:
        return [
            fiber for process in self.alive() for fiber in process.fibers if not fiber.has_ended and fiber.is_ready()
        ]

    def step(self, fiber: Fiber, fate: Fate = Fate.ANSWERED) -> None:
        """Let a fiber go on to its next request, which meets this fate; bury the process that ends by it."""
        fiber.fate = fate
        fiber.resume()
        process = fiber.process
        if process.is_dead or process.main.has_ended:
            # a process that ends does not wait for its threads: what they sent is in flight
            self.kill(process, in_flight=True)

    def kill(self, process: Process, *, in_flight: bool) -> None:
        process.kill(in_flight=in_flight)
        self.processes.remove(process)

    # what a place in memory calls, in the fiber

    def on_request(self, place: str, operation: str, key: str) -> None:
        fiber = here()
        if fiber is None or fiber.process.scheduler is not self:
            return
        fiber.pause(Request(place, operation, key))
        self.requests += 1
        if fiber.process.is_dead and operation not in WRITES:
            raise Killed
        if fiber.fate is Fate.FAILED or place in self.down:
            raise TransientStoreError(place, operation, "nobody answers", key=key)

    def on_delivery(self, place: str, operation: str, key: str, effect: Callable[[], Any]) -> Any:
        fiber = here()
        if fiber is None or fiber.process.scheduler is not self or fiber.fate is not Fate.STALLED:
            return effect()
        self.late.append(Late(Request(place, operation, key), effect))
        self.stalled += 1
        if fiber.process.is_dead:
            raise Killed
        raise TransientStoreError(place, operation, "no answer in time", key=key)

    def on_answer(self, place: str, operation: str, key: str) -> None:
        fiber = here()
        if fiber is None or fiber.process.scheduler is not self:
            return
        if fiber.process.is_dead:
            raise Killed
        if fiber.fate in (Fate.UNHEARD, Fate.STALLED):
            raise TransientStoreError(place, operation, "the answer was lost", key=key)


class TurnCondition:
    """threading.Condition among fibers: only one runs at a time, so that the lock is free whenever one asks."""

    def __init__(self) -> None:
        self._calls = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self) -> None:
        fiber, calls = here(), self._calls
        assert fiber is not None, "only fibers wait"
        fiber.pause("turn", lambda: self._calls != calls)

    def notify(self) -> None:
        self._calls += 1

    notify_all = notify
