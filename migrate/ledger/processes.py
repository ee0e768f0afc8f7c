"""Who a worker is, and whether it still lives: host, boot, process, and the beat that others watch (design, invariant 5)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # include/linux/proc_ns.h, PROC_PID_INIT_INO


LEASE_SECONDS = 180.0
"""The longest silence of a live worker is shorter (design, invariant 5)."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, so that no other one can be taken for it: a pid is used again, a pid with its start time in one boot is not.

    `host` names the PID namespace too where it is not the machine's own: pids of two containers say nothing about each other.
    `boot_id` is empty where the system does not tell; such a process is judged by its beat alone.
    """

    host: str
    boot_id: str
    pid: int
    started: int  # clock ticks since boot

    @staticmethod
    def current() -> ProcessIdentity:
        """The process that asks."""
        host = socket.gethostname()
        try:
            boot_id = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            namespace = os.readlink(_PROC / "self/ns/pid")
        except OSError:
            return ProcessIdentity(host, "", os.getpid(), 0)
        if namespace != _FIRST_PID_NAMESPACE:
            host = f"{host}/{namespace}"
        return ProcessIdentity(host, boot_id, os.getpid(), process_started(os.getpid()) or 0)


def process_started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None if it is gone or a zombie.

    Source: proc(5), /proc/PID/stat, fields 3 and 22. The name in field 2 may hold spaces and brackets.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


@dataclass(frozen=True, slots=True)
class Observed:
    """A worker that holds leases, as the ledger shows it now."""

    worker_id: int
    identity: ProcessIdentity
    beat: int


class LeaseWatch:
    """What one observer has seen of the other workers' beats, by its own monotonic clock. For one thread."""

    def __init__(
        self,
        here: ProcessIdentity,
        lease_seconds: float,
        *,
        clock: Callable[[], float],
        started: Callable[[int], int | None] = process_started,
    ) -> None:
        self._here = here
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._started = started
        self._seen: dict[int, tuple[int, float]] = {}

    def dead(self, workers: list[Observed]) -> list[Observed]:
        """Those whose process is known to be gone, or whose beat has not moved for the lease time since it was first seen."""
        at = self._clock()
        seen = {}
        for worker in workers:
            before = self._seen.get(worker.worker_id)
            seen[worker.worker_id] = before if before is not None and before[0] == worker.beat else (worker.beat, at)
        self._seen = seen
        return [
            worker
            for worker in workers
            if self._is_gone(worker.identity) or at - seen[worker.worker_id][1] >= self._lease_seconds
        ]

    def _is_gone(self, identity: ProcessIdentity) -> bool:
        if identity.host != self._here.host or not identity.boot_id or not self._here.boot_id:
            return False
        if identity.boot_id != self._here.boot_id:
            return True  # the host has been started again since
        return self._started(identity.pid) != identity.started
