"""The parametrised fixture of the store contract: every test that takes `place` runs on every store in `places.PLACES`."""

from __future__ import annotations

import pytest
from places import PLACES, Place
from servers import S3Server

from migrate.stores.base import Store


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.realstore, pytest.mark.xdist_group("rgw")] if "rgw" in name else [])
        for name in PLACES
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """An empty store of each implementation."""
    return PLACES[request.param](request)


@pytest.fixture
def store(place: Place) -> Store:
    """The same, to be written."""
    return place.store


@pytest.fixture(
    params=["moto_server", pytest.param("rgw_server", marks=[pytest.mark.realstore, pytest.mark.xdist_group("rgw")])]
)
def real(request: pytest.FixtureRequest) -> S3Server:
    """A server that does what S3 does: moto, and Ceph's gateway."""
    server: S3Server = request.getfixturevalue(request.param)
    return server
