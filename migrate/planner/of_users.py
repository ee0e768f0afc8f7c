"""What a line of plans has planned of single users, for who moves them one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from migrate.model import TOMBSTONES, PlannedObject
from migrate.planner.digest import OBJECTS
from migrate.planner.folder import Plan, object_of, open_reader
from migrate.planner.kept import parents_of

SourceKey = tuple[str, str]
"""The source store whose key it is, also where a backup of it is read instead, and the key."""


@dataclass(frozen=True, slots=True)
class PlannedAt:
    """An object as the newest plan of the line that names it has it, and where its receipts are: the plan's place in the line,
    and its batch."""

    planned: PlannedObject
    place: int
    batch: int


@dataclass(frozen=True, slots=True)
class CopyAt:
    """A copy that a plan of the line has planned for a user, be it made, removed or not: where to, and the plan's place in the
    line, its batch and the copy's ordinal there. `size` and `etag` are the source's; a tombstone makes nothing."""

    store: str
    key: str
    place: int
    batch: int
    ordinal: int
    size: int
    etag: str
    is_tombstone: bool


class LineOfUsers:
    """Reads the objects of a few users at a time. For one thread; to be closed. Raises what opening the plans raises."""

    def __init__(self, plan: Plan) -> None:
        self.plans = [*parents_of(plan), plan]
        self._source = {name: each.spec.source_of(name) for each in self.plans for name in each.spec.stores}
        self._connection = open_reader()
        for each in self.plans:
            each.check_users()

    def close(self) -> None:
        self._connection.close()

    def states(self, user_ids: Collection[str]) -> dict[str, str]:
        """What the newest plan says of these users: who is not `planned` there is not to be moved."""
        rows = self._connection.execute(
            f"SELECT user_id, state FROM {self.plans[-1].relation('users')} WHERE user_id IN (SELECT unnest(?))",
            [list(user_ids)],
        ).fetchall()
        return dict(rows)

    def of(self, user_ids: Collection[str]) -> dict[str, Mapping[SourceKey, PlannedAt]]:
        """By user, the objects by source key, tombstones among them. IntegrityError where a plan was changed."""
        found: dict[str, dict[SourceKey, PlannedAt]] = {user_id: {} for user_id in user_ids}
        for place, plan in enumerate(self.plans):
            numbers = self._batches(plan, user_ids)
            if not numbers:
                continue
            rows = self._connection.execute(
                f"SELECT {OBJECTS.names} FROM {plan.relation('objects', first=numbers[0], last=numbers[-1])} "
                "WHERE batch IN (SELECT unnest(?)) AND user_id IN (SELECT unnest(?))",
                [numbers, list(user_ids)],
            )
            while chunk := rows.fetchmany(10_000):
                for row in chunk:
                    planned = object_of(row)
                    key = (self._source[planned.store], planned.key)
                    found[planned.user_id][key] = PlannedAt(planned, place, row[0])
        return dict(found)

    def copies_of(self, user_ids: Collection[str]) -> dict[str, list[CopyAt]]:
        """By user, each copy that any plan of the line names, oldest plan first. IntegrityError where a plan was changed."""
        found: dict[str, list[CopyAt]] = {user_id: [] for user_id in user_ids}
        for place, plan in enumerate(self.plans):
            numbers = self._batches(plan, user_ids)
            if not numbers:
                continue
            rows = self._connection.execute(
                "SELECT user_id, target_store, target_key, batch, ordinal, size, etag, flag "
                f"FROM {plan.relation('copies', first=numbers[0], last=numbers[-1])} "
                "WHERE batch IN (SELECT unnest(?)) AND user_id IN (SELECT unnest(?)) ORDER BY batch, ordinal",
                [numbers, list(user_ids)],
            )
            while chunk := rows.fetchmany(10_000):
                for user_id, store, key, batch, ordinal, size, etag, flag in chunk:
                    found[user_id].append(CopyAt(store, key, place, batch, ordinal, size, etag, flag in TOMBSTONES))
        return found

    def _batches(self, plan: Plan, user_ids: Collection[str]) -> list[int]:
        """The batches of these users in a plan of the line, once their copies are known to be the plan's."""
        spans = self._connection.execute(
            f"SELECT first_batch, last_batch FROM {plan.relation('users')} "
            "WHERE user_id IN (SELECT unnest(?)) AND first_batch IS NOT NULL",
            [list(user_ids)],
        ).fetchall()
        numbers = sorted({number for first, last in spans for number in range(first, last + 1)})
        if numbers:
            plan.check_copies(numbers)
        return numbers
