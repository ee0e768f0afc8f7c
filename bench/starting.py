"""What waits for an operator: help, status, a run with nothing to do, and a run that goes on after kill -9.

Plans of millions of copies are over synthetic objects, and what is done of them stands in the ledger as a worker writes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from bench import peers
from bench.figures import Figure, Measured, Subject, Target
from bench.filled import Filled, planned_world
from bench.pairs import CannotMeasureError, alternate
from bench.stage import Stage
from bench.worlds import World

_EACH = 1_000
_PEER_SECONDS = 120  # of a peer's run that is not waited for to its end
_COPIED_BEFORE = 300
_BYTE_SECONDS = 120
_PEER = f"a peer that has not ended after {_PEER_SECONDS} s is stopped: it takes that long at least"


def start(stage: Stage) -> Iterator[Measured]:
    """Commands that load nothing heavy."""
    world = World(stage.folder("start-up"), {})
    contenders = {word: lambda word=word: world.migrate(word).usage.seconds for word in ("--help", "--version")}
    found = alternate(contenders, stage.sizes.starts)
    for word, seconds in found.items():
        yield Measured(f"start: migrate {word}", seconds)


def status(stage: Stage) -> Iterator[Measured]:
    """`status` on 10 million copies, a tenth of them done."""
    world = planned_world(stage, "status", stage.sizes.status_copies, _EACH, done=0.1).world
    ended = [world.migrate("status", "--json") for _ in range(stage.sizes.rounds)]
    yield Measured("status: 10 million copies", [one.usage.seconds for one in ended])


def resume(stage: Stage) -> Iterator[Measured]:
    """A run of a finished plan: it says that nothing is left."""
    filled = planned_world(stage, "resume", stage.sizes.finished_copies, _EACH, done=1)
    contenders = {
        "ours": lambda: filled.world.run().usage.seconds,
        "rclone": lambda: _rclone(filled, stage),
        "rclone --checksum": lambda: _rclone(filled, stage, "--checksum"),
    }
    found = alternate(contenders, stage.sizes.rounds)
    yield Measured("resume: nothing to do", found["ours"])
    yield Measured("resume: rclone copy", found["ours"], found["rclone"], _PEER)
    yield Measured("resume: rclone copy --checksum", found["ours"], found["rclone --checksum"], _PEER)


def _rclone(filled: Filled, stage: Stage, *words: str) -> float:
    environment = peers.rclone_environment(source=filled.source.s3, target=filled.target.s3)
    ends = ("source:synthetic", "target:synthetic-home")
    folder = stage.folder("resume-rclone")
    return peers.rclone(
        "copy", *ends, *words, folder=folder, environment=environment, limit_seconds=_PEER_SECONDS
    ).seconds


def killed(stage: Stage) -> Iterator[Measured]:
    """From the start of a run to the first byte that arrives, after one was killed amid its copies, half of all being done."""
    filled = planned_world(stage, "killed", stage.sizes.killed_copies, _EACH, done=0.5)
    _copy_and_kill(filled, _ours(filled.world))  # the first run finds no dead worker's leases
    seconds = [_copy_and_kill(filled, _ours(filled.world)) for _ in range(stage.sizes.rounds)]
    yield Measured("killed: first new byte", seconds)


def _ours(world: World) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "migrate", "--workspace", str(world.root), "run", "--wave", "all", "--json"]
    return subprocess.Popen(
        command,
        env={**os.environ, **world.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _copy_and_kill(filled: Filled, process: subprocess.Popen[bytes]) -> float:
    """Seconds until the first object arrives; then some more are waited for, and the process is killed in the middle."""
    begun = time.monotonic()
    filled.target.mark()
    try:
        while (seen := filled.target.look())[0] < _COPIED_BEFORE:
            if process.poll() is not None or time.monotonic() - begun > _BYTE_SECONDS:
                raise CannotMeasureError(f"{seen[0]} objects arrived, exit code {process.returncode}")
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert seen[1] is not None
    return seen[1] - begun


SUBJECTS = (
    Subject(
        "start-up",
        tuple(
            Figure(f"start: migrate {word}", "s", target=Target(most=0.2, of_ratio=False))
            for word in ("--help", "--version")
        ),
        start,
    ),
    Subject("status", (Figure("status: 10 million copies", "s", target=Target(most=0.5, of_ratio=False)),), status),
    Subject(
        "resume",
        (
            Figure("resume: nothing to do", "s", target=Target(most=1, of_ratio=False)),
            Figure("resume: rclone copy", "s", "rclone copy", Target(least=100), times_less=True),
            Figure("resume: rclone copy --checksum", "s", "rclone copy --checksum", times_less=True),
        ),
        resume,
    ),
    Subject("killed", (Figure("killed: first new byte", "s", target=Target(most=2, of_ratio=False)),), killed),
)
