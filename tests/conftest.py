"""Servers that tests share: one a test process, or, where starting it costs seconds, one for all processes of the session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from hypothesis import settings
from pg import PostgresServer, postgres
from servers import S3Server

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session see, and no other session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


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
