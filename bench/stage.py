"""What a benchmark stands on: its sizes, a folder for its data, and the servers, which start when the first figure needs them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import servers

from bench.pairs import CannotMeasureError

T = TypeVar("T")
PEERS = Path(sys.executable).parent.parent / "peers" / "bin"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much data each figure is measured on."""

    rounds: int = 5
    small_objects: int = 20_000
    small_users: int = 1_000
    large_objects: int = 12
    large_bytes: int = 64 * 2**20
    huge_bytes: int = 2 * 2**30
    plan_rows: int = 10_000_000
    plan_users: int = 1_000_000
    plan_line: tuple[int, ...] = (1_000_000, 5_000_000, 10_000_000, 20_000_000)
    finished_copies: int = 1_000_000
    killed_copies: int = 1_000_000
    status_copies: int = 10_000_000
    verified_objects: int = 100_000
    content_objects: int = 20_000
    worker_copies: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)
    worker_seconds: int = 60
    receipts: int = 1_000_000
    sealed_batches: int = 2_000
    adaptive_objects: int = 4_000
    adaptive_levels: tuple[int, ...] = (8, 16, 32, 64, 128)
    workers_objects: int = 24_000
    listed_keys: int = 100_000
    starts: int = 20

    def with_rounds(self, rounds: int) -> Sizes:
        return replace(self, rounds=rounds)


QUICK = Sizes(
    rounds=1,
    small_objects=400,
    small_users=20,
    large_objects=2,
    large_bytes=33 * 2**20,
    huge_bytes=80 * 2**20,
    plan_rows=100_000,
    plan_users=10_000,
    plan_line=(20_000, 50_000, 100_000, 200_000),
    finished_copies=4_000,
    killed_copies=20_000,
    status_copies=100_000,
    verified_objects=800,
    content_objects=400,
    worker_copies=(2_000, 20_000, 100_000),
    worker_seconds=4,
    receipts=40_000,
    sealed_batches=300,
    adaptive_objects=160,
    adaptive_levels=(8, 32, 128),
    workers_objects=800,
    listed_keys=4_000,
    starts=3,
)


@dataclass
class Stage:
    """One run of the benchmark."""

    root: Path
    sizes: Sizes
    say: Callable[[str], None]
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def close(self) -> None:
        self._held.close()

    def folder(self, name: str) -> Path:
        """A folder of its own for a subject."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run_on(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context that ends with the stage."""
        return self._held.enter_context(context)

    @cached_property
    def source(self) -> RealServer:
        return self._real("rgw-source")

    @cached_property
    def target(self) -> RealServer:
        return self._real("rgw-target")

    def _real(self, name: str) -> RealServer:
        missing = servers.rgw_missing()
        if missing is not None:
            raise CannotMeasureError(missing)
        self.say(f"starting {name}")
        server = self._held.enter_context(servers.rgw(self.root, name))
        folder = (self.root / name / "server").read_text().split()[0]
        return RealServer(server, Path(folder) / "ceph.conf")


@dataclass(frozen=True, slots=True)
class RealServer:
    """Ceph's gateway, and the way to its administration: a bucket is emptied there at once, with what lies behind."""

    s3: servers.S3Server
    configuration: Path

    def make(self, bucket: str) -> None:
        client: Any = self.s3.boto3()
        client.create_bucket(Bucket=bucket)

    def empty(self, bucket: str) -> None:
        """The bucket anew, with nothing in it, and the memory of what was there free again."""
        command = ["radosgw-admin", "-c", str(self.configuration), "bucket", "rm", f"--bucket={bucket}"]
        subprocess.run(
            [*command, "--purge-objects", "--bypass-gc"],
            check=True,
            capture_output=True,
            env={**os.environ, "CEPH_ARGS": "--no-mon-config"},
        )
        self.make(bucket)

    def holds(self, bucket: str) -> tuple[int, int]:
        """Objects and bytes in a bucket, as boto3 lists them."""
        client: Any = self.s3.boto3()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        sizes = [item["Size"] for page in pages for item in page.get("Contents", ())]
        return len(sizes), sum(sizes)
