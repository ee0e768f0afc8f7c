"""What is said of where a user stands, beside what the stores answer."""

from __future__ import annotations

from typing import cast

import pytest

from migrate.jobs.whereabouts import Whereabouts
from migrate.ledger import UserRow
from migrate.planner.folder import Plan
from migrate.states import UserState

ROW = UserRow("anna", 1, "NO", "hamar", "dublin-1", 0, UserState.FROZEN, 10, 1, 9, 0, 1, 8, 1, 0, 0)


@pytest.mark.parametrize(
    ("row", "is_verified"),
    [
        (None, False),
        (ROW, False),  # from among those whose copies are behind, by a cutover that may still be taken back
        (ROW._replace(good=10, other=0, matched=10), True),
        (ROW._replace(state=UserState.CUT_OVER), True),
        (ROW._replace(state=UserState.COPIED, matched=10), False),
    ],
)
def test_a_freeze_makes_nobody_verified(row: UserRow | None, is_verified: bool) -> None:
    found = Whereabouts("anna", cast("Plan", None), row, None, None, (), None, ())
    assert found.is_verified is is_verified
