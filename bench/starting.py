"""What waits for an operator: help, status, a run with nothing to do, and a run that goes on after kill -9.

Plans of millions of copies are over synthetic objects, and what is done of them stands in the ledger as a worker writes it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bench import peers
from bench.figures import Figure, Measured, Subject, Target
from bench.filled import Filled, planned_world
from bench.pairs import CannotMeasureError, Command, alternate
from bench.stage import Stage
from bench.synthetic import SyntheticServer, serving
from bench.worlds import World

_EACH = 1_000
_PEER_SECONDS = 120  # of a peer's run that is not waited for to its end
_COPIED_BEFORE = 300
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
    """From the start to the first byte that arrives, after a run was killed amid its copies, half of all being done.

    rclone has a target of its own with the same half in it, since what one copies the other would find there.
    """
    filled = planned_world(stage, "killed", stage.sizes.killed_copies, _EACH, done=0.5)
    folder = stage.folder("killed-rclone")
    peers_target = stage.run_on(serving(filled.formula, filled.formula.total // 2))
    environment = peers.rclone_environment(source=filled.source.s3, target=peers_target.s3)
    rclone = peers.rclone_command("copy", "source:synthetic", "target:synthetic-home")
    ours: Command = [
        sys.executable,
        "-m",
        "migrate",
        "--workspace",
        filled.world.root,
        "run",
        "--wave",
        "all",
        "--json",
    ]
    contenders = {
        "ours": lambda: _copy_and_kill(filled.target, ours, filled.world.environment, filled.world.root),
        "rclone": lambda: _copy_and_kill(peers_target, rclone, environment, folder),
    }
    contenders["ours"]()  # the first run finds no dead worker's leases
    found = alternate(contenders, stage.sizes.rounds)
    yield Measured("killed: first new byte", found["ours"])
    yield Measured("killed: rclone copy", found["ours"], found["rclone"], _PEER)


def _copy_and_kill(target: SyntheticServer, command: Command, environment: Mapping[str, str], folder: Path) -> float:
    """Seconds until the first object arrives, or all that it was given; then some more objects are waited for, and the process
    is killed in the middle."""
    target.mark()
    begun = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while (seen := target.look())[0] < _COPIED_BEFORE and time.monotonic() - begun < _PEER_SECONDS:
            if process.poll() is not None:
                raise CannotMeasureError(f"{seen[0]} objects arrived, exit code {process.returncode}")
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return time.monotonic() - begun if seen[1] is None else seen[1] - begun


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
    Subject(
        "killed",
        (
            Figure("killed: first new byte", "s", target=Target(most=2, of_ratio=False)),
            Figure("killed: rclone copy", "s", "rclone copy", times_less=True),
        ),
        killed,
    ),
)
