"""The disk is full: for the ledger, for plans, for what planning puts aside, for sealed files, for the log.

Nothing is lost or half done, the message says what is full, and once there is room again the same command goes on. A disk that
can be full is a small file system in a mount namespace of its own, which is gone with the process that holds it: that works as
root, and for others where they may make user namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from smallworld import SmallWorld, planned
from together import Ended, assert_all_is_well, finish, many_batches

from migrate.model import Attributes
from migrate.pauses import VARIABLE, PausePoint

KIB = 1024
SOAK = pytest.mark.soak
DISK_BYTES = 8 * KIB * KIB
FULL = Path("/dev/full")
_HOLDER = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec cat'


@dataclass(frozen=True, slots=True)
class Disk:
    """A small disk at `folder`, which those see who are started by `do`; this process sees it below `/proc`."""

    folder: Path
    holder: subprocess.Popen[bytes]

    @property
    def seen(self) -> Path:
        return Path(f"/proc/{self.holder.pid}/root") / self.folder.relative_to("/")

    def leave(self, size_bytes: int) -> None:
        """Fill it up but for so many bytes."""
        ballast = self.seen / "ballast"
        ballast.unlink(missing_ok=True)
        room = shutil.disk_usage(self.seen).free
        with ballast.open("wb") as file:
            file.write(bytes(max(0, room - size_bytes)))

    def make_room(self) -> None:
        (self.seen / "ballast").unlink()

    def do(self, world: SmallWorld, *words: str) -> Ended:
        as_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", f"--target={self.holder.pid}", "--mount", *as_user, "--"]
        return finish(
            subprocess.Popen(
                [*enter, sys.executable, "-m", "migrate", *world.arguments(words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        )


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A disk of its own at the folder. Skips where this machine lets nobody mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = [] if os.geteuid() == 0 else ["--map-root-user"]
    try:
        holder = subprocess.Popen(
            ["unshare", *flags, "--mount", "sh", "-c", _HOLDER, "sh", str(DISK_BYTES), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        pytest.skip("a small disk needs `unshare` and `nsenter` of util-linux, which are not here")
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no small disk can be mounted here, not even in a namespace: {holder.stderr.read().decode()}")
        try:
            yield Disk(folder, holder)
        finally:
            holder.stdin.close()


def until_there_is_room(disk: Disk, world: SmallWorld, kib_left: Sequence[int], *words: str) -> list[Ended]:
    """Do it again and again with a little more room each time; how those ended that had not enough."""
    ended = []
    for kib in kib_left:
        disk.leave(kib * KIB)
        code, out, err = disk.do(world, *words)
        assert "Traceback" not in err
        assert not list((world.root / ".migrate").glob("crash-*")), err
        if code == 0:
            break
        ended.append((code, out, err))
    disk.make_room()
    return ended


@pytest.mark.parametrize("kib_left", [(0, 16, 40), pytest.param(range(0, 160, 4), marks=SOAK)], ids=["few", "many"])
def test_a_full_disk_for_the_ledger_costs_no_copy(kib_left: Sequence[int], tmp_path: Path) -> None:
    """Run and verify end with 69 and say what is full, wherever it hits them; status answers; with room they go on
    (Invariants 1, 2, 3 and 5)."""
    with small_disk(tmp_path / "disk") as disk:
        world = many_batches(tmp_path / "world", f"sqlite:///{tmp_path}/disk/ledger.sqlite")
        code, _, err = disk.do(world, "plan", str(world.root / "plans" / "small.toml"))
        assert code == 0, err
        for words in (("run", "--wave", "all"), ("verify", "--wave", "all", "--level", "both-ends")):
            ended = until_there_is_room(disk, world, kib_left, *words)
            assert len(ended) >= 2
            for code, _, err in ended:
                assert code == 69, err
                assert f"the ledger sqlite:///{tmp_path}/disk/ledger.sqlite" in err
                assert "full" in err
                assert "next: Make room" in err
            assert disk.do(world, "status")[0] == 0
            code, _, err = disk.do(world, *words)
            assert code == 0, err
        shutil.copy(disk.seen / "ledger.sqlite", tmp_path / "ledger.sqlite")
    world.ledger = f"sqlite:///{tmp_path}/ledger.sqlite"
    assert_all_is_well(world)


@pytest.mark.parametrize("kib_left", [(0, 4, 16), pytest.param(range(0, 80, 4), marks=SOAK)], ids=["few", "many"])
@pytest.mark.parametrize("place", ["plans", "scratch"])
def test_a_full_disk_for_plans_builds_no_half_plan(place: str, kib_left: Sequence[int], tmp_path: Path) -> None:
    """Planning ends with 69 and names the folder, wherever it hits it; no plan is there then, and with room one is built
    (Invariant 4)."""
    world = many_batches(tmp_path, large=False)
    with small_disk(tmp_path / ".migrate" / place) as disk:
        spec = str(world.root / "plans" / "small.toml")
        ended = until_there_is_room(disk, world, kib_left, "plan", spec)
        assert len(ended) >= 2
        for code, _, err in ended:
            assert code == 69, err
            assert f".migrate/{place}" in err
            assert "next: " in err
        code, _, err = disk.do(world, "plan", spec)
        assert code == 0, err
        for words in (("run", "--wave", "all"), ("verify",)):
            code, _, err = disk.do(world, *words)
            assert code == 0, err
        if place == "plans":
            shutil.copytree(disk.seen, tmp_path / "seen")
    if place == "plans":
        shutil.copytree(tmp_path / "seen", tmp_path / ".migrate" / "plans", dirs_exist_ok=True)
    else:
        (tmp_path / ".migrate" / "scratch").mkdir(exist_ok=True)
    assert_all_is_well(world)


@pytest.mark.parametrize("kib_left", [(0, 4), pytest.param(range(0, 80, 4), marks=SOAK)], ids=["few", "many"])
def test_a_full_disk_for_sealed_files_ends_no_batch(kib_left: Sequence[int], tmp_path: Path) -> None:
    """No batch is done without its seal: 69, and what to make room in; with room the next run seals what was copied."""
    world = many_batches(tmp_path)
    planned(world)
    with small_disk(tmp_path / ".migrate" / "seals") as disk:
        for words in (("run", "--wave", "all"), ("verify",)):
            ended = until_there_is_room(disk, world, kib_left, *words)
            assert ended
            for code, _, err in ended:
                assert code == 69, err
                assert "Make room in .migrate/seals" in err
            code, _, err = disk.do(world, *words)
            assert code == 0, err
        shutil.copytree(disk.seen, tmp_path / "seen")
    shutil.copytree(tmp_path / "seen", tmp_path / ".migrate" / "seals", dirs_exist_ok=True)
    assert_all_is_well(world)


# the log


def with_a_full_log(world: SmallWorld, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    with FULL.open("wb") as full:
        return subprocess.Popen(
            [sys.executable, "-m", "migrate", *world.arguments(words)],
            stdout=subprocess.PIPE,
            stderr=full,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
        )


needs_full = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


@needs_full
@pytest.mark.parametrize("workers", ["2", pytest.param("1", marks=SOAK)])
def test_a_full_disk_for_the_log_stops_no_work(workers: str, tmp_path: Path) -> None:
    """What is told on stderr is lost; plan, run and verify do their work, answer, and end with the code of what they found."""
    world = many_batches(tmp_path)
    key = "users/u001/photo-0001.jpg"
    world.put("hamar", key, b"somebody else's", Attributes(), {})  # its copy is quarantined, which is a line of log
    assert finish(with_a_full_log(world, "plan", str(world.root / "plans" / "small.toml")))[0] == 0
    code, out, _ = finish(with_a_full_log(world, "run", "--wave", "all", "--json", "--workers", workers))
    assert code == 4
    assert json.loads(out)["done"]["failures"] == 1
    assert finish(with_a_full_log(world, "run", "nowhere"))[0] == 2
    world.store("hamar").delete(key)
    code, out, _ = finish(with_a_full_log(world, "run", "--retry-quarantined", "--wave", "all", "--workers", workers))
    assert code == 0
    assert finish(with_a_full_log(world, "verify", "--workers", workers))[0] == 0
    assert not list((world.root / ".migrate").glob("crash-*"))
    assert_all_is_well(world)


@needs_full
@pytest.mark.parametrize("signals", [1, 2])
def test_a_full_disk_for_the_log_hides_no_signal(signals: int, tmp_path: Path) -> None:
    """What is said of the signal is lost; the run ends with 130, at once on the second one, and the next one goes on."""
    world = many_batches(tmp_path, large=False)
    planned(world)
    run = with_a_full_log(world, "run", "--wave", "all", **{VARIABLE: PausePoint.GROUP_COMMITTED})
    _, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
        run.send_signal(number)
    run.send_signal(signal.SIGCONT)
    assert finish(run)[0] == 130
    assert not list((world.root / ".migrate").glob("crash-*"))
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)
