"""A PostgreSQL for the tests of whole commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pg import PostgresServer, postgres


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
