"""What a cutover copies, or takes away, while its user is frozen: the changes at the sources that no plan has seen. And what a
rollback deletes at the sources, since it was deleted at the new home.

A row a copy. It is written before anything is sent, so that a cutover that was killed leaves nothing at a target that the ledger
cannot tell from somebody else's; the receipt is added once the copy stands there and was read again (design, invariant 1).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, delete, or_, select, update
from sqlalchemy.engine import Connection, Row

from migrate.errors import IntegrityError, MoveRefusedError
from migrate.ledger import schema
from migrate.ledger.columns import EVIDENCE_CODES, EVIDENCES, pack_etag, unpack_etag
from migrate.ledger.core import Core, chunks
from migrate.ledger.engine import upsert
from migrate.ledger.rows import LateCopy
from migrate.model import Category, PlannedCopy, PlannedObject, Receipt, TargetRole
from migrate.states import AWAY, UserState

_USERS = 500  # in one query
LateRef = tuple[str, str, TargetRole]
"""A late copy of one user: source store, source key, and at which of the two sites."""


class Late(Core):
    """Late copies, of one user or of several."""

    def plan_late(
        self,
        user_id: str,
        token: str,
        plan_id: int,
        run_id: int,
        objects: Sequence[PlannedObject],
        beside: Mapping[str, Collection[str]],
        seen: Mapping[LateRef, str] | None = None,
    ) -> None:
        """Write down what is about to be copied or removed; nothing has a receipt then. MoveRefusedError unless this token's
        freeze of the user is the one that the ledger knows.

        `beside` has, for each store, those that hold the same objects, a source and its backups. What was known late of the
        object by one of these gives way: of one object there is one late copy at a site, the newest. `seen` has the ETags of what
        stands at targets meanwhile.
        """
        late, standing = schema.late, seen or {}
        of: dict[str, Any] = {"user_id": user_id, "plan_id": plan_id, "run_id": run_id}
        with self._write() as connection:
            _demand_frozen(connection, user_id, token)
            rows = [
                of | _planned_row(planned, copy, standing.get((planned.store, planned.key, copy.role)))
                for planned in objects
                for copy in planned.copies
            ]
            older = [
                {"of_user": user_id, "of_store": store, "of_key": planned.key}
                for planned in objects
                for store in beside.get(planned.store, ())
            ]
            if older:
                connection.execute(
                    delete(late).where(
                        late.c.user_id == bindparam("of_user"),
                        late.c.store == bindparam("of_store"),
                        late.c.key == bindparam("of_key"),
                    ),
                    older,
                )
            statement = upsert(connection, late)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(_KEY),
                    set_={
                        column.name: statement.excluded[column.name]
                        for column in late.columns
                        if column.name not in _KEY
                    },
                ),
                rows,
            )

    def confirm_late(self, user_id: str, token: str, receipts: Mapping[LateRef, Receipt]) -> None:
        """Add the receipts of copies that stand at the targets and were found equal there. IntegrityError for one that was never
        planned."""
        late = schema.late
        with self._write() as connection:
            _demand_frozen(connection, user_id, token)
            for (store, key, role), receipt in receipts.items():
                found = connection.execute(
                    update(late)
                    .where(
                        late.c.user_id == user_id, late.c.store == store, late.c.key == key, late.c.role == role.value
                    )
                    .values(
                        sha256=receipt.sha256,
                        part_bytes=receipt.part_bytes,
                        attributes=receipt.attributes,
                        target_etag=pack_etag(receipt.etag),
                        target_version=receipt.version_id,
                        evidence=EVIDENCE_CODES[receipt.evidence],
                        at=receipt.at,
                    )
                ).rowcount
                if found != 1:
                    raise IntegrityError("a late copy has a receipt, and was never planned")

    def late_of(self, user_ids: Collection[str]) -> dict[str, list[LateCopy]]:
        """The late copies of these users, by user, in order of store, key and role. Who has none is left out."""
        late = schema.late
        found: dict[str, list[LateCopy]] = {}
        with self._read() as connection:
            for chunk in chunks(user_ids, _USERS):
                query = select(late).where(late.c.user_id.in_(chunk))
                for row in connection.execute(query.order_by(late.c.user_id, late.c.store, late.c.key, late.c.role)):
                    found.setdefault(row.user_id, []).append(_late_copy(row))
        return found

    def late_copies(self, plan_ids: Collection[int]) -> Iterator[LateCopy]:
        """All late copies of the users of these plans whose home has not moved, by user, a user's together."""
        late, users, after = schema.late, schema.users, ""
        while True:
            page = (
                select(late.c.user_id)
                .join(users, users.c.user_id == late.c.user_id)
                .where(
                    users.c.plan_id.in_(plan_ids),
                    users.c.state.not_in([state.value for state in AWAY]),
                    late.c.user_id > after,
                )
                .group_by(late.c.user_id)
                .order_by(late.c.user_id)
                .limit(_USERS)
            )
            with self._read() as connection:
                names = list(connection.execute(page).scalars())
            if not names:
                return
            after = names[-1]
            for copies in self.late_of(names).values():
                yield from copies

    def forget_late(self, objects: Collection[tuple[str, str, str]]) -> None:
        """Drop the late copies of these objects, by user, source store and key: a plan has them now."""
        late = schema.late
        with self._write() as connection:
            for user_id, store, key in objects:
                connection.execute(
                    delete(late).where(late.c.user_id == user_id, late.c.store == store, late.c.key == key)
                )


_KEY = ("user_id", "store", "key", "role")
_RECEIPT = ("sha256", "part_bytes", "attributes", "target_etag", "target_version", "evidence", "at")


def _planned_row(planned: PlannedObject, copy: PlannedCopy, stands: str | None) -> dict[str, Any]:
    """What is written of a copy before it is made, but for whose it is. `stands`: the ETag at its target meanwhile."""
    return {
        "store": planned.store,
        "key": planned.key,
        "role": copy.role.value,
        "version_id": planned.version_id,
        "etag": pack_etag(planned.etag),
        "size_bytes": planned.size,
        "last_modified": planned.last_modified,
        "category": _category(planned).value,
        "rule": planned.rule,
        "flag": planned.flag,
        "target_store": copy.store,
        "target_key": planned.target_key,
        **dict.fromkeys(_RECEIPT),
        "target_etag": _packed(stands),
    }


def _packed(etag: str | None) -> bytes | None:
    return None if etag is None else pack_etag(etag)


def _category(planned: PlannedObject) -> Category:
    assert planned.category is not None, "a user's objects have one"
    return planned.category


def _demand_frozen(connection: Connection, user_id: str, token: str) -> None:
    users, moves = schema.users, schema.moves
    going = and_(users.c.state == UserState.FROZEN.value, moves.c.token == token)
    returning = and_(users.c.state == UserState.RETURNING.value, moves.c.back_token == token)
    query = (
        select(users.c.user_id)
        .join(moves, moves.c.user_id == users.c.user_id)
        .where(users.c.user_id == user_id, or_(going, returning))
    )
    if connection.execute(query).first() is None:
        raise MoveRefusedError("the user is not frozen under this attempt's token")


def _late_copy(row: Row[Any]) -> LateCopy:
    receipt = None
    if row.sha256 is not None:
        receipt = Receipt(
            bytes(row.sha256),
            row.part_bytes,
            bytes(row.attributes),
            unpack_etag(bytes(row.target_etag)),
            row.target_version,
            EVIDENCES[row.evidence],
            row.at,
        )
    return LateCopy(
        user_id=row.user_id,
        plan_id=row.plan_id,
        run_id=row.run_id,
        store=row.store,
        key=row.key,
        role=TargetRole(row.role),
        version_id=row.version_id,
        etag=unpack_etag(bytes(row.etag)),
        size=row.size_bytes,
        last_modified=row.last_modified,
        category=Category(row.category),
        rule=row.rule,
        flag=row.flag,
        target_store=row.target_store,
        target_key=row.target_key,
        receipt=receipt,
        seen=None if row.target_etag is None or receipt is not None else unpack_etag(bytes(row.target_etag)),
    )
