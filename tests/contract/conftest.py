"""The parametrised fixture of the store contract: every test that takes `place` runs on every store in `places.PLACES`."""

from __future__ import annotations

import pytest
from places import PLACES, Place

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
