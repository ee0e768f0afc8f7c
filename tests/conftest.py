"""What tests share: where their files lie, worlds that are kept, and servers: one a test process, or, where starting it costs
seconds, one for all processes of the session."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import kept
import pytest
import servers
from hypothesis import settings
from pg import PostgresServer, postgres
from servers import S3Server

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30


def in_memory() -> None:
    """Put the files of tests into memory where there is room for them, unless the environment says where they go.

    The product waits for the disk after each object, receipt and commit; a test run would, for a third of its time. What a
    killed process leaves is the same on both: only a power cut would tell them apart, and none of these tests has one.
    """
    if not os.access(MEMORY, os.W_OK) or os.environ.keys() & {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"}:
        return
    may_run_programs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if may_run_programs and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


in_memory()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each module that keeps much for its tests runs in one process, which makes that once."""
    for item in items:
        if item.path.parent.name in ("fault", "integration") and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish() -> None:
    """All that is loaded by now stays: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end libraries look whether anything of theirs was left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session see, and no other session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def kept_worlds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for the worlds that are made once."""
    kept.keep_in(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto: quick to start, strict in some things, lax in others."""
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3`: a server that can do little."""
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def rgw_server(session_folder: Path) -> Iterator[S3Server]:
    """Ceph's gateway: a real S3 server."""
    need_rgw()
    with servers.rgw(session_folder) as server:
        yield server


@pytest.fixture(scope="session")
def second_rgw_server(session_folder: Path) -> Iterator[S3Server]:
    """Another one beside it, that shares nothing with it."""
    need_rgw()
    with servers.rgw(session_folder, "rgw-second") as server:
        yield server


def need_rgw() -> None:
    """Skip where the real server cannot run. In CI that is a failure: there it is to run."""
    reason = servers.rgw_missing()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL a test process."""
    with postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database that holds nothing yet."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def bucket_name() -> str:
    """A name that no other test uses."""
    return f"b-{uuid.uuid4().hex[:20]}"
