"""What a purge takes the objects at the targets for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from migrate.jobs.purge_look import AtTargets, Copied, CopiedObject, compare
from migrate.model import ObjectInfo, TargetRole
from migrate.transfer.caller import Caller

FROZEN_AT = datetime(2026, 11, 29, 12, 0, 5, 900_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(5, AtTargets(newer=1)), (6, AtTargets(newer=1)), (4, AtTargets(wrong_at_home=1))],
)
def test_what_was_written_in_the_second_of_the_freeze_is_the_platforms(seconds: int, expected: AtTargets) -> None:
    """Stores tell whole seconds, and a freeze may be over within one. What is older was there before, and is no copy of ours."""
    written = FROZEN_AT.replace(second=0, microsecond=0) + timedelta(seconds=seconds)
    info = ObjectInfo("k", 1, "another", written)
    copied = [CopiedObject("k", (Copied(TargetRole.HOME, "hamar", "ours", False),))]
    way = compare(copied, {"hamar": {"k": info}}, FROZEN_AT, cast("Caller", None))
    assert len(next(way)) == 1  # the HEAD, whose answer follows
    with pytest.raises(StopIteration) as end:
        way.send([info])
    assert end.value.value == expected
