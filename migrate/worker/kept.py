"""What is at the targets of a user beside a plan's own copies: what its line keeps there, and what cutovers have copied late."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from migrate.ledger import LateCopy, Ledger
from migrate.model import TOMBSTONES, PlannedObject, Receipt, TargetRole
from migrate.planner.folder import Plan
from migrate.planner.kept import Kept, KeptKeys
from migrate.spec import Spec


class KeptObjects:
    """Reads it, a few users at a time. For one thread."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._line = KeptKeys(plan)
        self._ledger = ledger

    def of(self, user_ids: Collection[str]) -> Kept:
        """The target stores and keys of these users. IntegrityError where a plan of the line was changed."""
        found = {user_id: set(keys) for user_id, keys in self._line.of(user_ids).items()}
        for user_id, copies in self._ledger.late_of(user_ids).items():
            keys = found.setdefault(user_id, set())
            for copy in copies:
                place = (copy.target_store, copy.target_key)
                if copy.flag in TOMBSTONES:
                    keys.discard(place)
                else:
                    keys.add(place)
        return found


def as_cut_over(
    objects: Sequence[PlannedObject], late: Mapping[str, Sequence[LateCopy]], spec: Spec
) -> tuple[list[PlannedObject], dict[int, Receipt]]:
    """The objects of a batch as a cutover that broke off has left them: where it has replaced or removed an object of the plan,
    the later one, under the same ordinals, and the receipts of its copies. A source and its backups hold one object."""
    by_key: dict[tuple[str, str, str], dict[TargetRole, LateCopy]] = {}
    for copies in late.values():
        for copy in copies:
            by_key.setdefault((copy.user_id, spec.source_of(copy.store), copy.key), {})[copy.role] = copy
    found: list[PlannedObject] = []
    receipts: dict[int, Receipt] = {}
    for planned in objects:
        roles = by_key.get((planned.user_id, spec.source_of(planned.store), planned.key), {})
        mine = {copy.ordinal: roles[copy.role] for copy in planned.copies if copy.role in roles}
        proofs = {ordinal: copy.receipt for ordinal, copy in mine.items() if copy.receipt is not None}
        if len(proofs) < len(planned.copies):
            found.append(planned)
            continue
        one = next(iter(mine.values()))
        found.append(
            planned._replace(
                store=one.store,
                version_id=one.version_id,
                etag=one.etag,
                size=one.size,
                last_modified=one.last_modified,
                flag=one.flag,
            )
        )
        receipts |= proofs
    return found, receipts
