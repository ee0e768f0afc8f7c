"""The databases refuse bad states by themselves: raw SQL tries to break each constraint, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from ledgers import NOW, World, quarantined, receipt
from sqlalchemy import inspect

from migrate.errors import LedgerError
from migrate.ledger import EXTRA, NewFinding, PartRow
from migrate.ledger.schema import metadata
from migrate.model import Category, CheckResult, Level, PlannedCopy, PlannedObject, TargetRole, Verdict

D32 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

# By constraint: statements that must each be refused. The world has batch 0 done with copy 3 quarantined, batch 1 leased with
# copies 0 and 1 recorded and an upload for copy 2, batch 2 pending; a pass with batch 0 checked (copy 0 MISMATCH).
BREAKS: dict[str, list[str]] = {
    "ck_runs_ended": ["UPDATE runs SET ended_at = 1", "UPDATE runs SET exit_code = 0"],
    "ck_runs_failures": ["UPDATE runs SET failures = -1"],
    "pk_runs": ["UPDATE runs SET id = NULL", "INSERT INTO runs SELECT * FROM runs"],
    "uq_plans_digest": [
        (
            "INSERT INTO plans SELECT 99, digest, parent, name, built_at, registered_at, run_id, users, objects,"
            " copies, size_bytes, batches, verify_level FROM plans"
        )
    ],
    "uq_plans_parent": [
        (
            "INSERT INTO plans SELECT 98 + n, n || substr(digest, 2), digest, name, built_at, registered_at, run_id, users,"
            " objects, copies, size_bytes, batches, verify_level FROM plans, (SELECT 1 AS n UNION SELECT 2) AS twice"
        )
    ],
    "ck_plans_digest": ["UPDATE plans SET digest = 'ab'"],
    "ck_plans_totals": [f"UPDATE plans SET {name} = -1" for name in ("users", "objects", "copies", "size_bytes", "batches")],
    "ck_plans_verify_level_known": ["UPDATE plans SET verify_level = 'deep'"],
    "fk_plans_run_id": ["UPDATE plans SET run_id = 99"],
    "pk_plans": ["INSERT INTO plans SELECT * FROM plans"],
    "pk_acceptances": ["INSERT INTO acceptances SELECT * FROM acceptances"],
    "ck_acceptances_count": ["UPDATE acceptances SET count = -1"],
    "fk_acceptances_plan_id": ["UPDATE acceptances SET plan_id = 99"],
    "fk_acceptances_run_id": ["UPDATE acceptances SET run_id = 99"],
    "pk_batches": ["INSERT INTO batches SELECT * FROM batches WHERE number = 2"],
    "uq_batches_plan_id_number_state": [],  # implied by the key; leases refer to it
    "fk_batches_plan_id": ["UPDATE batches SET plan_id = 99 WHERE number = 3"],
    "ck_batches_state_known": ["UPDATE batches SET state = 'ready' WHERE number = 2"],
    "ck_batches_digest": ["UPDATE batches SET digest = 'ab' WHERE number = 2"],
    "ck_batches_totals": [f"UPDATE batches SET {name} = -1 WHERE number = 3" for name in ("users", "objects")],
    "ck_batches_counted": [
        f"UPDATE batches SET {name} = -1 WHERE number = 2"
        for name in ("copied", "present", "drifted", "quarantined", "withdrawn", "voided", "fence")
    ],
    "ck_batches_sum": ["UPDATE batches SET copied = 1, present = 1, drifted = 1 WHERE number = 2"],
    "ck_batches_done_is_whole": [
        "UPDATE batches SET state = 'done' WHERE number = 2",
        "UPDATE batches SET copied = copied - 1 WHERE number = 0",
    ],
    "ck_batches_done_bytes": ["UPDATE batches SET done_bytes = -1", "UPDATE batches SET done_bytes = size_bytes + 1"],
    "pk_users": ["INSERT INTO users SELECT * FROM users WHERE user_id = 'dag'"],
    "fk_users_plan_id": ["UPDATE users SET plan_id = 99 WHERE user_id = 'empty'"],
    "fk_users_matched_pass": ["UPDATE users SET matched_pass = 99"],
    "fk_users_first_batch": ["UPDATE users SET first_batch = -1 WHERE user_id = 'dag'"],
    "fk_users_last_batch": ["UPDATE users SET last_batch = 99 WHERE user_id = 'dag'"],
    "ck_users_state_known": ["UPDATE users SET state = 'gone' WHERE user_id = 'dag'"],
    "ck_users_counted": [
        f"UPDATE users SET {name} = -1 WHERE user_id = 'dag'"
        for name in ("size_bytes", "good", "quarantined", "other")
    ],
    "ck_users_sum": ["UPDATE users SET other = 2 WHERE user_id = 'dag'"],
    "ck_users_matched": ["UPDATE users SET matched = -1", "UPDATE users SET matched = 1 WHERE user_id = 'dag'"],
    "ck_users_copied_is_whole": [
        "UPDATE users SET state = 'copied' WHERE user_id = 'dag'",
        "UPDATE users SET state = 'verified' WHERE user_id = 'dag'",
    ],
    "ck_users_verified_is_whole": [
        "UPDATE users SET state = 'verified', matched = 0 WHERE user_id = 'anna'",
        "UPDATE users SET state = 'ready' WHERE user_id = 'dag'",
    ],
    "ck_users_quarantined": ["UPDATE users SET state = 'quarantined' WHERE user_id = 'dag'"],
    "ck_users_batches": [
        "UPDATE users SET first_batch = NULL WHERE user_id = 'dag'",
        "UPDATE users SET first_batch = 2, last_batch = 1 WHERE user_id = 'carla'",
        "UPDATE users SET wave = NULL WHERE user_id = 'dag'",
        "UPDATE users SET first_batch = 0, last_batch = 0 WHERE user_id = 'empty'",
    ],
    "pk_workers": ["INSERT INTO workers SELECT * FROM workers"],
    "fk_workers_run_id": ["UPDATE workers SET run_id = 99"],
    "pk_passes": ["INSERT INTO passes SELECT * FROM passes"],
    "fk_passes_plan_id": ["UPDATE passes SET plan_id = 99"],
    "fk_passes_run_id": ["UPDATE passes SET run_id = 99"],
    "ck_passes_level_known": ["UPDATE passes SET level = 'deep'"],
    "ck_passes_superseded_is_over": ["UPDATE passes SET superseded = true"],
    "ck_passes_sample": ["UPDATE passes SET sample_ppm = 0", "UPDATE passes SET sample_ppm = 1000001"],
    "uq_passes_open": [
        (
            "INSERT INTO passes SELECT 99, plan_id, level, sample_ppm, waves, started_at, worked_at, ended_at, superseded,"
            " run_id FROM passes"
        )
    ],
    **{f"pk_{name}": [f"INSERT INTO {name} SELECT * FROM {name}"] for name in ("user_counts", "batch_counts", "check_counts")},
    "fk_user_counts_plan_id": ["UPDATE user_counts SET plan_id = 99"],
    "fk_batch_counts_plan_id": ["UPDATE batch_counts SET plan_id = 99"],
    "fk_check_counts_pass_id": ["UPDATE check_counts SET pass_id = 99"],
    "pk_checks": ["INSERT INTO checks SELECT * FROM checks"],
    "fk_checks_pass_id": ["INSERT INTO checks (pass_id, plan_id, number) VALUES (99, 1, 0)"],
    "fk_checks_batch": ["INSERT INTO checks (pass_id, plan_id, number) VALUES (1, 1, 99)"],
    "ck_checks_state_known": ["UPDATE checks SET state = 'gone'"],
    "ck_checks_counted": [
        f"UPDATE checks SET {name} = -1 WHERE number = 0" for name in ("matched", "mismatched", "missing", "unknown", "extra")
    ],
    "ck_checks_done_first": ["UPDATE checks SET matched = 1 WHERE number = 2"],
    "pk_leases": ["INSERT INTO leases SELECT * FROM leases"],
    "fk_leases_worker_id": ["UPDATE leases SET worker_id = 99"],
    "fk_leases_batch": [
        "UPDATE batches SET state = 'pending' WHERE number = 1",  # a batch that is being copied stays so
        "INSERT INTO leases VALUES (1, 2, 'copy', 'leased', 1, 1, NULL)",  # one that is pending is not leased
        "INSERT INTO leases VALUES (1, 2, 'verify', 'done', 1, 1, 1)",  # and not verified
    ],
    "fk_leases_check": ["INSERT INTO leases VALUES (1, 0, 'verify', 'done', 1, 1, 99)"],
    "ck_leases_purpose_known": ["UPDATE leases SET purpose = 'plan', batch_state = 'pending'"],
    "ck_leases_copy_is_leased": ["INSERT INTO leases VALUES (1, 0, 'copy', 'done', 1, 1, NULL)"],
    "ck_leases_verify_is_done": ["INSERT INTO leases VALUES (1, 2, 'verify', 'pending', 1, 1, 1)"],
    "ck_leases_verify_has_pass": [
        "INSERT INTO leases VALUES (1, 0, 'verify', 'done', 1, 1, NULL)",
        "UPDATE leases SET pass_id = 1",
    ],
    "ck_leases_fence": ["UPDATE leases SET fence = 0"],
    "pk_copies": ["INSERT INTO copies SELECT * FROM copies"],
    "fk_copies_batch": ["UPDATE copies SET number = 99 WHERE number = 1 AND ordinal = 0"],
    "fk_copies_run_id": ["UPDATE copies SET run_id = 99"],
    "ck_copies_outcome_known": ["UPDATE copies SET outcome = 'x' WHERE outcome = 'q'"],
    "ck_copies_evidence_known": ["UPDATE copies SET evidence = 'x' WHERE outcome = 'c'"],
    "ck_copies_ordinal": ["UPDATE copies SET ordinal = -1 WHERE number = 1 AND ordinal = 0"],
    "ck_copies_whole": [
        *(
            f"UPDATE copies SET {name} = NULL WHERE outcome = 'c'"
            for name in ("sha256", "attributes", "part_bytes", "etag", "evidence")
        ),
        "UPDATE copies SET sha256 = 'short' WHERE outcome = 'c'",
        "UPDATE copies SET attributes = 'short' WHERE outcome = 'c'",
        "UPDATE copies SET part_bytes = -1 WHERE outcome = 'c'",
        "UPDATE copies SET reason = 'why' WHERE outcome = 'c'",
        "UPDATE copies SET tallied = true WHERE outcome = 'c'",
        "UPDATE copies SET outcome = 'c' WHERE outcome = 'q'",
        "UPDATE copies SET outcome = 'd' WHERE outcome = 'c'",
        "UPDATE copies SET reason = NULL WHERE outcome = 'q'",
        f"UPDATE copies SET sha256 = '{D32}' WHERE outcome = 'q'",
        "UPDATE copies SET version_id = 'v' WHERE outcome = 'q'",
        "UPDATE copies SET outcome = '-', tallied = true WHERE outcome = 'q'",
    ],
    "pk_uploads": ["INSERT INTO uploads SELECT * FROM uploads"],
    "fk_uploads_batch": [
        "INSERT INTO uploads SELECT plan_id, 99, ordinal, store, upload_id, part_bytes, attributes, run_id FROM uploads"
    ],
    "fk_uploads_run_id": ["UPDATE uploads SET run_id = 99"],
    "ck_uploads_part_bytes": ["UPDATE uploads SET part_bytes = 0"],
    "ck_uploads_attributes": ["UPDATE uploads SET attributes = 'short'"],
    "pk_parts": ["INSERT INTO parts SELECT * FROM parts"],
    "fk_parts_upload": ["UPDATE parts SET ordinal = 0", "DELETE FROM uploads"],
    "ck_parts_part": ["UPDATE parts SET part = 0", "UPDATE parts SET part = 10001"],
    "ck_parts_sha256": ["UPDATE parts SET sha256 = 'short'"],
    "ck_parts_size": ["UPDATE parts SET size = -1"],
    "pk_seals": ["INSERT INTO seals SELECT * FROM seals WHERE sequence = 1"],
    "fk_seals_batch": ["UPDATE seals SET number = 99 WHERE kind = 'receipts'"],
    "fk_seals_check": ["UPDATE seals SET pass_id = 99 WHERE kind = 'verdicts'"],
    "fk_seals_run_id": ["UPDATE seals SET run_id = 99"],
    "ck_seals_kind_known": ["UPDATE seals SET kind = 'x' WHERE kind = 'receipts'"],
    "ck_seals_sequence": ["UPDATE seals SET sequence = 0 WHERE sequence = 1"],
    "ck_seals_rows": ["UPDATE seals SET rows = -1"],
    "ck_seals_digests": ["UPDATE seals SET digest = 'short'", "UPDATE seals SET chain = 'short'"],
    "ck_seals_verdicts_have_pass": [
        "UPDATE seals SET pass_id = NULL WHERE kind = 'verdicts'",
        "UPDATE seals SET pass_id = 1 WHERE kind = 'receipts'",
    ],
    "pk_holds": ["INSERT INTO holds SELECT * FROM holds"],
    "ck_holds_reason": ["UPDATE holds SET reason = ''"],
    "pk_moves": ["INSERT INTO moves SELECT * FROM moves"],
    "fk_moves_user_id": ["UPDATE moves SET user_id = 'nobody'", "DELETE FROM users WHERE user_id = 'empty'"],
    "fk_moves_plan_id": ["UPDATE moves SET plan_id = 99"],
    "fk_moves_run_id": ["UPDATE moves SET run_id = 99"],
    "ck_moves_token": [
        "UPDATE moves SET token = 'ab'",
        "UPDATE moves SET flipped_at = 1, frozen_ms = 1, back_token = 'ab'",
    ],
    "ck_moves_back_begun": ["UPDATE moves SET flipped_at = 1, frozen_ms = 1, rolled_back_at = 1"],
    "ck_moves_attempt": ["UPDATE moves SET attempt = 0"],
    "ck_moves_behind": ["UPDATE moves SET behind = -1"],
    "ck_moves_frozen_ms": ["UPDATE moves SET flipped_at = 1, frozen_ms = -1"],
    "ck_moves_flipped": ["UPDATE moves SET flipped_at = 1", "UPDATE moves SET frozen_ms = 1"],
    "ck_moves_ended_once": ["UPDATE moves SET unfrozen_at = 1, flipped_at = 1, frozen_ms = 1"],
    "ck_moves_flipped_first": ["UPDATE moves SET observe_until = 1", "UPDATE moves SET back_token = token"],
    "ck_moves_observed_first": [
        "UPDATE moves SET flipped_at = 1, frozen_ms = 1, purged_at = 1",
        (
            "UPDATE moves SET flipped_at = 1, frozen_ms = 1, observe_until = 1, back_token = token, rolled_back_at = 1,"
            " purged_at = 1"
        ),
    ],
    "pk_late": ["INSERT INTO late SELECT * FROM late"],
    "fk_late_user_id": ["UPDATE late SET user_id = 'nobody'"],
    "fk_late_plan_id": ["UPDATE late SET plan_id = 99"],
    "fk_late_run_id": ["UPDATE late SET run_id = 99"],
    "ck_late_role_known": ["UPDATE late SET role = 'x'"],
    "ck_late_category_known": ["UPDATE late SET category = 'x'"],
    "ck_late_evidence_known": ["UPDATE late SET evidence = 'x'"],
    "ck_late_counted": ["UPDATE late SET size_bytes = -1", "UPDATE late SET part_bytes = -1"],
    "ck_late_digests": ["UPDATE late SET sha256 = target_key", "UPDATE late SET attributes = target_key"],
    "ck_late_receipt": [
        f"UPDATE late SET {name} = NULL" for name in ("sha256", "part_bytes", "attributes", "target_etag", "evidence", "at")
    ],
    "pk_events": ["INSERT INTO events SELECT * FROM events"],
    "fk_events_run_id": ["INSERT INTO events (user_id, at, kind, run_id) VALUES ('anna', 1, 'hold', 99)"],
    "fk_events_plan_id": ["INSERT INTO events (user_id, at, kind, plan_id) VALUES ('anna', 1, 'hold', 99)"],
    "ck_events_kind_known": ["INSERT INTO events (user_id, at, kind) VALUES ('anna', 1, 'x')"],
    "ck_events_from_state_known": [
        "INSERT INTO events (user_id, at, kind, from_state, to_state) VALUES ('anna', 1, 'move', 'x', 'frozen')"
    ],
    "ck_events_to_state_known": [
        "INSERT INTO events (user_id, at, kind, from_state, to_state) VALUES ('anna', 1, 'move', 'frozen', 'x')"
    ],
    "ck_events_move_has_states": [
        "INSERT INTO events (user_id, at, kind) VALUES ('anna', 1, 'move')",
        "INSERT INTO events (user_id, at, kind, to_state) VALUES ('anna', 1, 'hold', 'frozen')",
        "INSERT INTO events (user_id, at, kind, from_state) VALUES ('anna', 1, 'move', 'frozen')",
    ],
    "pk_routes": ["INSERT INTO routes SELECT * FROM routes"],
    "ck_routes_frozen": ["UPDATE routes SET frozen_by = 't'", "UPDATE routes SET frozen_until = 1"],
    "ck_routes_writers": ["UPDATE routes SET writers = -1"],
    "pk_verdicts": ["INSERT INTO verdicts SELECT * FROM verdicts"],
    "fk_verdicts_check": ["UPDATE verdicts SET pass_id = 99", "DELETE FROM checks WHERE number = 0"],
    "fk_verdicts_run_id": ["UPDATE verdicts SET run_id = 99"],
    "ck_verdicts_verdict_known": ["UPDATE verdicts SET verdict = 'MAYBE'"],
    "ck_verdicts_ordinal": ["UPDATE verdicts SET ordinal = -1"],
    "ck_verdicts_reopened": ["UPDATE verdicts SET verdict = 'UNKNOWN', reopened = true"],
    "pk_findings": ["INSERT INTO findings SELECT * FROM findings"],
    "fk_findings_plan_id": ["UPDATE findings SET plan_id = 99"],
    "fk_findings_pass_id": ["UPDATE findings SET pass_id = 99"],
    "fk_findings_batch": ["UPDATE findings SET number = 99"],
    "fk_findings_run_id": ["UPDATE findings SET run_id = 99"],
    "uq_findings_pass_id_kind_store_key": [
        (
            "INSERT INTO findings SELECT 99, plan_id, pass_id, number, kind, store, key, user_id, size, answered, at,"
            " run_id FROM findings"
        )
    ],
}  # fmt: skip


@pytest.fixture
def full_world(world: World) -> World:
    """Something in every table."""
    world.copy_batch(3)
    lease = world.lease()
    world.record(lease, [receipt(0), quarantined(1)])
    world.ledger.start_upload(
        lease, 2, store="s", upload_id="u", part_bytes=5, attributes=bytes(32), run_id=world.run_id
    )
    world.ledger.record_parts(lease, [PartRow(2, 1, "e", bytes(32), 5)])
    world.ledger.accept(world.plan_id, "review", 1, "aa", world.run_id, NOW)
    found = world.start_pass(Level.CONTENT)
    check = world.lease_check(found)
    assert check is not None
    results = [CheckResult(n, Verdict.MISMATCH if n == 0 else Verdict.MATCH) for n in range(3)]
    world.ledger.record_verdicts(check, results, world.run_id, NOW)
    world.finish_check(check, results, NewFinding(EXTRA, "hamar", "key", "anna", 1, 0))
    world.execute("INSERT INTO routes (user_id, home) VALUES ('anna', 'us')")
    world.ledger.hold("anna", "a claim", operator="op", run_id=world.run_id, now=NOW)
    world.look_at_empty(found)
    token = world.freeze("empty")
    late = PlannedObject(
        "empty",
        "us",
        "k",
        None,
        "e",
        1,
        NOW,
        Category.RESTRICTED,
        "r",
        "k",
        None,
        (PlannedCopy(0, TargetRole.HOME, "hamar"),),
    )
    world.ledger.plan_late("empty", token, world.plan_id, world.run_id, [late], {})
    proof = receipt(0).receipt
    assert proof is not None
    world.ledger.confirm_late("empty", token, {("us", "k", TargetRole.HOME): proof})
    return world


def test_every_constraint_fires(full_world: World) -> None:
    """Each statement alone is refused; a constraint that binds nothing would be found here."""
    let_through = []
    for name, statements in BREAKS.items():
        for statement in statements:
            try:
                full_world.execute(statement)
            except LedgerError as refused:
                if "constraints do not allow" in refused.what and (name in refused.what or not name.startswith("ck_")):
                    continue
                statement += f" -- {refused.what}"
            let_through.append(f"{name}: {statement}")
    assert not let_through, "\n".join(let_through)


def test_every_constraint_is_tried(full_world: World) -> None:
    """The list above knows each constraint of each table, and none that is not there."""
    database = full_world.ledger._database
    found: set[str | None] = set()
    with database.read() as connection:
        inspector = inspect(connection)
        for table in metadata.tables:
            found.add(inspector.get_pk_constraint(table)["name"])
            found |= {constraint["name"] for constraint in inspector.get_foreign_keys(table)}
            found |= {constraint["name"] for constraint in inspector.get_unique_constraints(table)}
            found |= {constraint["name"] for constraint in inspector.get_check_constraints(table)}
            found |= {index["name"] for index in inspector.get_indexes(table) if index["unique"]}
    assert {name for name in found if name is not None} == set(BREAKS)


@pytest.mark.parametrize("change", ["UPDATE events SET note = 'another'", "DELETE FROM events"])
def test_a_users_history_is_never_changed(full_world: World, change: str) -> None:
    """Rows of `events` are added: whoever would change or remove one is refused by the database."""
    before = full_world.ledger.history("anna")
    assert [event.note for event in before] == ["a claim"]
    with pytest.raises(LedgerError, match="events are added"):
        full_world.execute(change)
    assert full_world.ledger.history("anna") == before


def test_missing_values_are_refused(full_world: World) -> None:
    """NOT NULL, for every column that has it."""
    let_through = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            if column.nullable:
                continue
            try:
                full_world.execute(f'UPDATE {table.name} SET "{column.name}" = NULL')
            except LedgerError:
                continue
            let_through.append(f"{table.name}.{column.name}")
    assert not let_through, "\n".join(let_through)
