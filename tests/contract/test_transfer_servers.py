"""Copies to real servers, of which some rename what they are sent: what is not kept is no copy, and does not stay there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from places import EVERYTHING, new_bucket, s3_store
from servers import S3Server

from migrate.model import Attributes, Category, CopyResult, Outcome, PlannedCopy, PlannedObject, TargetRole
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.stores.s3 import S3Store
from migrate.transfer.caller import Caller
from migrate.transfer.parted import PartedCopy
from migrate.transfer.parts import Begun, Finished, PartDone
from migrate.transfer.whole import copy_whole

MIB = 2**20
NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
TAGS = {"kind": "film"}


@pytest.fixture(params=["moto_server", "rgw_server"])
def target(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    server: S3Server = request.getfixturevalue(request.param)
    store = s3_store(server, new_bucket(server), "", EVERYTHING)
    yield store
    store.close()


def copy(target: S3Store, attributes: Attributes, *, in_parts: bool) -> CopyResult:
    """Copy one object of 6 MiB with these attributes from memory to `target`."""
    place = MemoryPlace()
    info = place.seed("k", bytes(6 * MIB), attributes=attributes, tags=TAGS)
    stores: dict[str, Any] = {"us": MemoryStore("us", place), "place": target}
    planned = PlannedObject(
        user_id="u1",
        store="us",
        key="k",
        version_id=None,
        etag=info.etag,
        size=info.size,
        last_modified=info.last_modified,
        category=Category.RESTRICTED,
        rule="films",
        target_key="k",
        flag=None,
        copies=(PlannedCopy(0, TargetRole.HOME, "place"),),
    )
    caller = Caller(stores.__getitem__, concurrency=lambda name: 4)
    if not in_parts:
        return copy_whole(planned, planned.copies, {}, caller, lambda: NOW)[0]
    parted = PartedCopy(planned, planned.copies, {}, {}, caller=caller, configured_part_bytes=5 * MIB, now=lambda: NOW)
    begun = parted.begin().run()
    assert isinstance(begun, Begun)
    for job in parted.on_begun(begun):
        done = job.run()
        assert isinstance(done, PartDone)
        parted.on_part(done)
    finished = parted.finish().run()
    assert isinstance(finished, Finished)
    return finished.settled[0]


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_metadata_name_that_a_server_bends_is_kept_or_cannot_be(target: S3Store, in_parts: bool) -> None:
    """Ceph turns `made_by` into `made-by`: no receipt, and nothing is left. moto keeps it: copied (Invariant 1)."""
    attributes = Attributes(content_type="video/mp4", metadata=(("made_by", "a person"),))
    result = copy(target, attributes, in_parts=in_parts)
    if result.outcome is Outcome.COPIED:
        assert target.head("k").attributes == attributes
        assert target.get_tags("k") == TAGS
    else:
        assert (result.reason, result.receipt) == ("cannot_keep", None)
        assert [info.key for page in target.list() for info in page] == []
    assert target.list_uploads() == []


@pytest.mark.parametrize("in_parts", [False, True])
def test_metadata_that_every_server_keeps_is_copied(target: S3Store, in_parts: bool) -> None:
    """The twin: `made-by`, text beyond ASCII, content headers and tags arrive as they are."""
    attributes = Attributes(
        content_type="video/mp4", cache_control="no-cache", metadata=(("city", "Ålesund"), ("made-by", "a person"))
    )
    assert copy(target, attributes, in_parts=in_parts).outcome is Outcome.COPIED
    assert target.head("k").attributes == attributes
    assert target.get_tags("k") == TAGS
