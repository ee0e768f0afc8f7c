"""The first ledger: runs, plans, users, batches, leases, receipts, seals, passes, verdicts, findings, holds, moves, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("tool_version", sa.Text(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("plan_digest", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (exit_code IS NULL)", name=op.f("ck_runs_ended")),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_runs_failures")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_table(
        "routes",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("frozen_by", sa.Text(), nullable=True),
        sa.Column("frozen_until", sa.BigInteger(), nullable=True),
        sa.Column("writers", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("(frozen_by IS NULL) = (frozen_until IS NULL)", name=op.f("ck_routes_frozen")),
        sa.CheckConstraint("writers >= 0", name=op.f("ck_routes_writers")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_routes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("built_at", sa.BigInteger(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("copies", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.Column("verify_level", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "verify_level = 'listing' OR verify_level = 'content' OR verify_level = 'both-ends'",
            name=op.f("ck_plans_verify_level_known"),
        ),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_plans_digest")),
        sa.CheckConstraint(
            "users >= 0 AND objects >= 0 AND copies >= 0 AND size_bytes >= 0 AND batches >= 0",
            name=op.f("ck_plans_totals"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_plans_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint("digest", name=op.f("uq_plans_digest")),
        sa.UniqueConstraint("parent", name=op.f("uq_plans_parent")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_workers_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "acceptances",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("count >= 0", name=op.f("ck_acceptances_count")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_acceptances_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_acceptances_run_id")),
        sa.PrimaryKeyConstraint("plan_id", "kind", name=op.f("pk_acceptances")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batches",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("objects", sa.Integer(), nullable=False),
        sa.Column("copies", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("key_from", sa.LargeBinary(), nullable=True),
        sa.Column("key_until", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("copied", sa.Integer(), server_default="0", nullable=False),
        sa.Column("present", sa.Integer(), server_default="0", nullable=False),
        sa.Column("drifted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quarantined", sa.Integer(), server_default="0", nullable=False),
        sa.Column("withdrawn", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("voided", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "state <> 'done' OR copied + present + drifted + quarantined + withdrawn = copies",
            name=op.f("ck_batches_done_is_whole"),
        ),
        sa.CheckConstraint(
            "state = 'pending' OR state = 'leased' OR state = 'done'", name=op.f("ck_batches_state_known")
        ),
        sa.CheckConstraint(
            "copied + present + drifted + quarantined + withdrawn <= copies", name=op.f("ck_batches_sum")
        ),
        sa.CheckConstraint(
            "copied >= 0 AND present >= 0 AND drifted >= 0 AND quarantined >= 0 AND withdrawn >= 0 AND "
            "voided >= 0 AND fence >= 0",
            name=op.f("ck_batches_counted"),
        ),
        sa.CheckConstraint("done_bytes >= 0 AND done_bytes <= size_bytes", name=op.f("ck_batches_done_bytes")),
        sa.CheckConstraint("length(digest) = 32", name=op.f("ck_batches_digest")),
        sa.CheckConstraint(
            "number >= 0 AND users >= 0 AND objects >= 0 AND copies >= 0 AND size_bytes >= 0",
            name=op.f("ck_batches_totals"),
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_batches_plan_id")),
        sa.PrimaryKeyConstraint("plan_id", "number", name=op.f("pk_batches")),
        sa.UniqueConstraint("plan_id", "number", "state", name=op.f("uq_batches_plan_id_number_state")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "passes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("sample_ppm", sa.Integer(), nullable=False),
        sa.Column("waves", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("worked_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("superseded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "level = 'listing' OR level = 'content' OR level = 'both-ends'", name=op.f("ck_passes_level_known")
        ),
        sa.CheckConstraint("sample_ppm > 0 AND sample_ppm <= 1000000", name=op.f("ck_passes_sample")),
        sa.CheckConstraint("superseded = false OR ended_at IS NOT NULL", name=op.f("ck_passes_superseded_is_over")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_passes_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_passes_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passes")),
    )
    op.create_table(
        "checks",
        sa.Column("pass_id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("matched", sa.Integer(), server_default="0", nullable=False),
        sa.Column("mismatched", sa.Integer(), server_default="0", nullable=False),
        sa.Column("missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unknown", sa.Integer(), server_default="0", nullable=False),
        sa.Column("extra", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "state = 'done' OR matched + mismatched + missing + unknown + extra = 0", name=op.f("ck_checks_done_first")
        ),
        sa.CheckConstraint(
            "state = 'pending' OR state = 'leased' OR state = 'done'", name=op.f("ck_checks_state_known")
        ),
        sa.CheckConstraint(
            "matched >= 0 AND mismatched >= 0 AND missing >= 0 AND unknown >= 0 AND extra >= 0",
            name=op.f("ck_checks_counted"),
        ),
        sa.ForeignKeyConstraint(["pass_id"], ["passes.id"], name=op.f("fk_checks_pass_id")),
        sa.ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_checks_batch"),
        sa.PrimaryKeyConstraint("pass_id", "plan_id", "number", name=op.f("pk_checks")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_checks_batch", "checks", ["plan_id", "number"], unique=False)
    op.create_table(
        "copies",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("part_bytes", sa.BigInteger(), nullable=True),
        sa.Column("attributes", sa.LargeBinary(), nullable=True),
        sa.Column("etag", sa.LargeBinary(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tallied", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "CASE WHEN outcome IN ('c', 'p') THEN coalesce(length(sha256), 0) = 32 AND "
            "coalesce(length(attributes), 0) = 32 AND coalesce(part_bytes, -1) >= 0 AND etag IS NOT NULL "
            "AND evidence IS NOT NULL AND reason IS NULL AND tallied = false ELSE reason IS NOT NULL AND "
            "sha256 IS NULL AND attributes IS NULL AND part_bytes IS NULL AND evidence IS NULL AND "
            "version_id IS NULL AND (outcome <> '-' OR tallied = false) END",
            name=op.f("ck_copies_whole"),
        ),
        sa.CheckConstraint("evidence = 'm' OR evidence = 'c' OR evidence = 'l'", name=op.f("ck_copies_evidence_known")),
        sa.CheckConstraint(
            "outcome = 'c' OR outcome = 'p' OR outcome = 'd' OR outcome = 'q' OR outcome = 'w' OR outcome = '-'",
            name=op.f("ck_copies_outcome_known"),
        ),
        sa.CheckConstraint("ordinal >= 0", name=op.f("ck_copies_ordinal")),
        sa.ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_copies_batch"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_copies_run_id")),
        sa.PrimaryKeyConstraint("plan_id", "number", "ordinal", name=op.f("pk_copies")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("pass_id", sa.Integer(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("answered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["pass_id"], ["passes.id"], name=op.f("fk_findings_pass_id")),
        sa.ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_findings_batch"),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_findings_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_findings_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint("pass_id", "kind", "store", "key", name=op.f("uq_findings_pass_id_kind_store_key")),
    )
    op.create_index("ix_findings_plan", "findings", ["plan_id", "answered", "kind"], unique=False)
    op.create_index("ix_findings_batch", "findings", ["plan_id", "number"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("length(attributes) = 32", name=op.f("ck_uploads_attributes")),
        sa.CheckConstraint("part_bytes > 0", name=op.f("ck_uploads_part_bytes")),
        sa.ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_uploads_batch"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_uploads_run_id")),
        sa.PrimaryKeyConstraint("plan_id", "number", "ordinal", name=op.f("pk_uploads")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("country", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=True),
        sa.Column("backup", sa.Text(), nullable=True),
        sa.Column("wave", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("copies", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("good", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quarantined", sa.Integer(), server_default="0", nullable=False),
        sa.Column("other", sa.Integer(), server_default="0", nullable=False),
        sa.Column("matched", sa.Integer(), server_default="0", nullable=False),
        sa.Column("matched_pass", sa.Integer(), nullable=True),
        sa.Column("first_batch", sa.Integer(), nullable=True),
        sa.Column("last_batch", sa.Integer(), nullable=True),
        sa.CheckConstraint("state <> 'quarantined' OR quarantined > 0", name=op.f("ck_users_quarantined")),
        sa.CheckConstraint(
            "(state <> 'verified' AND state <> 'ready') OR matched = copies", name=op.f("ck_users_verified_is_whole")
        ),
        sa.CheckConstraint(
            "state = 'planned' OR state = 'copying' OR state = 'copied' OR state = 'verified' OR "
            "state = 'ready' OR state = 'frozen' OR state = 'cut_over' OR state = 'observing' OR "
            "state = 'returning' OR state = 'purging' OR state = 'purged' OR state = 'quarantined' OR "
            "state = 'held' OR state = 'review' OR state = 'rolled_back' OR state = 'forgotten'",
            name=op.f("ck_users_state_known"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('copied', 'verified') OR good = copies", name=op.f("ck_users_copied_is_whole")
        ),
        sa.CheckConstraint(
            "(copies = 0 AND first_batch IS NULL AND last_batch IS NULL) OR (copies > 0 AND wave IS NOT "
            "NULL AND first_batch IS NOT NULL AND last_batch IS NOT NULL AND first_batch <= last_batch)",
            name=op.f("ck_users_batches"),
        ),
        sa.CheckConstraint(
            "copies >= 0 AND size_bytes >= 0 AND good >= 0 AND quarantined >= 0 AND other >= 0",
            name=op.f("ck_users_counted"),
        ),
        sa.CheckConstraint("good + quarantined + other <= copies", name=op.f("ck_users_sum")),
        sa.CheckConstraint("matched >= 0 AND matched <= good", name=op.f("ck_users_matched")),
        sa.ForeignKeyConstraint(["matched_pass"], ["passes.id"], name=op.f("fk_users_matched_pass")),
        sa.ForeignKeyConstraint(
            ["plan_id", "first_batch"], ["batches.plan_id", "batches.number"], name="fk_users_first_batch"
        ),
        sa.ForeignKeyConstraint(
            ["plan_id", "last_batch"], ["batches.plan_id", "batches.number"], name="fk_users_last_batch"
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_users_plan_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_users_batch", "users", ["plan_id", "first_batch"], unique=False)
    op.create_table(
        "leases",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("batch_state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Integer(), nullable=False),
        sa.Column("pass_id", sa.Integer(), nullable=True),
        sa.CheckConstraint("(purpose = 'copy') = (batch_state = 'leased')", name=op.f("ck_leases_copy_is_leased")),
        sa.CheckConstraint("(purpose = 'verify') = (batch_state = 'done')", name=op.f("ck_leases_verify_is_done")),
        sa.CheckConstraint("(purpose = 'verify') = (pass_id IS NOT NULL)", name=op.f("ck_leases_verify_has_pass")),
        sa.CheckConstraint("purpose = 'copy' OR purpose = 'verify'", name=op.f("ck_leases_purpose_known")),
        sa.CheckConstraint("fence > 0", name=op.f("ck_leases_fence")),
        sa.ForeignKeyConstraint(
            ["pass_id", "plan_id", "number"],
            ["checks.pass_id", "checks.plan_id", "checks.number"],
            name="fk_leases_check",
        ),
        sa.ForeignKeyConstraint(
            ["plan_id", "number", "batch_state"],
            ["batches.plan_id", "batches.number", "batches.state"],
            name="fk_leases_batch",
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_leases_worker_id")),
        sa.PrimaryKeyConstraint("plan_id", "number", name=op.f("pk_leases")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_leases_worker", "leases", ["worker_id"], unique=False)
    op.create_table(
        "parts",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(sha256) = 32", name=op.f("ck_parts_sha256")),
        sa.CheckConstraint("part >= 1 AND part <= 10000", name=op.f("ck_parts_part")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_parts_size")),
        sa.ForeignKeyConstraint(
            ["plan_id", "number", "ordinal"],
            ["uploads.plan_id", "uploads.number", "uploads.ordinal"],
            name="fk_parts_upload",
        ),
        sa.PrimaryKeyConstraint("plan_id", "number", "ordinal", "part", name=op.f("pk_parts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "seals",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pass_id", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("(kind = 'verdicts') = (pass_id IS NOT NULL)", name=op.f("ck_seals_verdicts_have_pass")),
        sa.CheckConstraint("kind = 'receipts' OR kind = 'verdicts'", name=op.f("ck_seals_kind_known")),
        sa.CheckConstraint("length(digest) = 32 AND length(chain) = 32", name=op.f("ck_seals_digests")),
        sa.CheckConstraint("rows >= 0", name=op.f("ck_seals_rows")),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_seals_sequence")),
        sa.ForeignKeyConstraint(
            ["pass_id", "plan_id", "number"],
            ["checks.pass_id", "checks.plan_id", "checks.number"],
            name="fk_seals_check",
        ),
        sa.ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_seals_batch"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_seals_run_id")),
        sa.PrimaryKeyConstraint("plan_id", "sequence", name=op.f("pk_seals")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_seals_batch", "seals", ["plan_id", "number", "kind"], unique=False)
    op.create_table(
        "verdicts",
        sa.Column("pass_id", sa.Integer(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("reopened", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("reopened = false OR verdict IN ('MISMATCH', 'MISSING')", name=op.f("ck_verdicts_reopened")),
        sa.CheckConstraint(
            "verdict = 'MATCH' OR verdict = 'MISMATCH' OR verdict = 'MISSING' OR verdict = 'UNKNOWN'",
            name=op.f("ck_verdicts_verdict_known"),
        ),
        sa.CheckConstraint("ordinal >= 0", name=op.f("ck_verdicts_ordinal")),
        sa.ForeignKeyConstraint(
            ["pass_id", "plan_id", "number"],
            ["checks.pass_id", "checks.plan_id", "checks.number"],
            name="fk_verdicts_check",
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_verdicts_run_id")),
        sa.PrimaryKeyConstraint("pass_id", "plan_id", "number", "ordinal", name=op.f("pk_verdicts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "holds",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.CheckConstraint("length(reason) > 0", name=op.f("ck_holds_reason")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_holds")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "moves",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("from_site", sa.Text(), nullable=False),
        sa.Column("to_site", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("frozen_at", sa.BigInteger(), nullable=False),
        sa.Column("unfrozen_at", sa.BigInteger(), nullable=True),
        sa.Column("flipped_at", sa.BigInteger(), nullable=True),
        sa.Column("frozen_ms", sa.BigInteger(), nullable=True),
        sa.Column("observe_until", sa.BigInteger(), nullable=True),
        sa.Column("back_token", sa.Text(), nullable=True),
        sa.Column("rolled_back_at", sa.BigInteger(), nullable=True),
        sa.Column("purged_at", sa.BigInteger(), nullable=True),
        sa.Column("behind", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "length(token) = 64 AND (back_token IS NULL OR length(back_token) = 64)", name=op.f("ck_moves_token")
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_moves_attempt")),
        sa.CheckConstraint("behind >= 0", name=op.f("ck_moves_behind")),
        sa.CheckConstraint("frozen_ms >= 0", name=op.f("ck_moves_frozen_ms")),
        sa.CheckConstraint("(flipped_at IS NULL) = (frozen_ms IS NULL)", name=op.f("ck_moves_flipped")),
        sa.CheckConstraint("unfrozen_at IS NULL OR flipped_at IS NULL", name=op.f("ck_moves_ended_once")),
        sa.CheckConstraint(
            "flipped_at IS NOT NULL OR (observe_until IS NULL AND back_token IS NULL AND rolled_back_at IS NULL)",
            name=op.f("ck_moves_flipped_first"),
        ),
        sa.CheckConstraint("rolled_back_at IS NULL OR back_token IS NOT NULL", name=op.f("ck_moves_back_begun")),
        sa.CheckConstraint(
            "purged_at IS NULL OR (observe_until IS NOT NULL AND rolled_back_at IS NULL)",
            name=op.f("ck_moves_observed_first"),
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_moves_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_moves_run_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name=op.f("fk_moves_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_moves")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "late",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("etag", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_modified", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("flag", sa.Text(), nullable=True),
        sa.Column("target_store", sa.Text(), nullable=False),
        sa.Column("target_key", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("part_bytes", sa.Integer(), nullable=True),
        sa.Column("attributes", sa.LargeBinary(), nullable=True),
        sa.Column("target_etag", sa.LargeBinary(), nullable=True),
        sa.Column("target_version", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role = 'home' OR role = 'backup'", name=op.f("ck_late_role_known")),
        sa.CheckConstraint(
            "category = 'restricted' OR category = 'allowable' OR category = 'exception'",
            name=op.f("ck_late_category_known"),
        ),
        sa.CheckConstraint("evidence = 'm' OR evidence = 'c' OR evidence = 'l'", name=op.f("ck_late_evidence_known")),
        sa.CheckConstraint("size_bytes >= 0 AND part_bytes >= 0", name=op.f("ck_late_counted")),
        sa.CheckConstraint("length(sha256) = 32 AND length(attributes) = 32", name=op.f("ck_late_digests")),
        sa.CheckConstraint(
            "(sha256 IS NULL) = (part_bytes IS NULL) AND (sha256 IS NULL) = (attributes IS NULL)"
            " AND (sha256 IS NULL OR target_etag IS NOT NULL) AND (sha256 IS NULL) = (evidence IS NULL)"
            " AND (sha256 IS NULL) = (at IS NULL)",
            name=op.f("ck_late_receipt"),
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_late_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_late_run_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name=op.f("fk_late_user_id")),
        sa.PrimaryKeyConstraint("user_id", "store", "key", "role", name=op.f("pk_late")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("plan_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(kind = 'move') = (from_state IS NOT NULL) AND (kind = 'move') = (to_state IS NOT NULL)",
            name=op.f("ck_events_move_has_states"),
        ),
        sa.CheckConstraint(
            "kind = 'hold' OR kind = 'release' OR kind = 'move' OR kind = 'erased'", name=op.f("ck_events_kind_known")
        ),
        sa.CheckConstraint(
            "from_state = 'planned' OR from_state = 'copying' OR from_state = 'copied' OR from_state = "
            "'verified' OR from_state = 'ready' OR from_state = 'frozen' OR from_state = 'cut_over' OR "
            "from_state = 'observing' OR from_state = 'returning' OR from_state = 'purging' OR "
            "from_state = 'purged' OR from_state = 'quarantined' OR "
            "from_state = 'held' OR from_state = 'review' OR from_state = 'rolled_back' OR from_state = "
            "'forgotten'",
            name=op.f("ck_events_from_state_known"),
        ),
        sa.CheckConstraint(
            "to_state = 'planned' OR to_state = 'copying' OR to_state = 'copied' OR to_state = "
            "'verified' OR to_state = 'ready' OR to_state = 'frozen' OR to_state = 'cut_over' OR "
            "to_state = 'observing' OR to_state = 'returning' OR to_state = 'purging' OR "
            "to_state = 'purged' OR to_state = 'quarantined' OR to_state = "
            "'held' OR to_state = 'review' OR to_state = 'rolled_back' OR to_state = 'forgotten'",
            name=op.f("ck_events_to_state_known"),
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_events_plan_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_events_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_user", "events", ["user_id", "id"], unique=False)
    op.create_table(
        "user_counts",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("users", sa.BigInteger(), nullable=False),
        sa.Column("good", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("other", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_user_counts_plan_id")),
        sa.PrimaryKeyConstraint("plan_id", "wave", "state", "lane", name=op.f("pk_user_counts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batch_counts",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("copies", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("done_bytes", sa.BigInteger(), nullable=False),
        sa.Column("copied", sa.BigInteger(), nullable=False),
        sa.Column("present", sa.BigInteger(), nullable=False),
        sa.Column("drifted", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_batch_counts_plan_id")),
        sa.PrimaryKeyConstraint("plan_id", "wave", "state", "lane", name=op.f("pk_batch_counts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "check_counts",
        sa.Column("pass_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("checks", sa.BigInteger(), nullable=False),
        sa.Column("matched", sa.BigInteger(), nullable=False),
        sa.Column("mismatched", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("unknown", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["pass_id"], ["passes.id"], name=op.f("fk_check_counts_pass_id")),
        sa.PrimaryKeyConstraint("pass_id", "state", "lane", name=op.f("pk_check_counts")),
        sqlite_with_rowid=False,
    )
    op.execute("CREATE INDEX ix_batches_pending ON batches (plan_id, wave, number) WHERE state = 'pending'")
    op.execute("CREATE INDEX ix_checks_pending ON checks (pass_id, number) WHERE state = 'pending'")
    op.execute("CREATE INDEX ix_users_quarantined ON users (plan_id, wave) WHERE quarantined > 0")
    op.execute("CREATE INDEX ix_users_split ON users (plan_id, last_batch) WHERE last_batch > first_batch")
    op.execute(
        "CREATE INDEX ix_verdicts_known ON verdicts (plan_id, reopened, verdict, number, ordinal) WHERE verdict <> 'MATCH'"
    )
    op.execute("CREATE INDEX ix_users_without_copies ON users (plan_id, user_id) WHERE copies = 0")
    op.execute(
        "CREATE INDEX ix_users_moving ON users (plan_id, user_id, state) WHERE state = 'frozen' OR state = 'cut_over' "
        "OR state = 'observing' OR state = 'returning' OR state = 'purging' OR state = 'rolled_back'"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_passes_open ON passes (plan_id, level, sample_ppm, waves) WHERE ended_at IS NULL"
    )
    if op.get_bind().dialect.name == "sqlite":
        for name, verb in (("change", "UPDATE"), ("go", "DELETE")):
            op.execute(
                f"CREATE TRIGGER events_{name} BEFORE {verb} ON events BEGIN SELECT RAISE(ABORT, 'events are added, and "
                "never changed'); END"
            )
        op.execute(
            "CREATE TRIGGER users_come AFTER INSERT ON users BEGIN INSERT INTO user_counts (plan_id, wave, state, "
            "lane, users, good, quarantined, other) VALUES (NEW.plan_id, coalesce(NEW.wave, -1), NEW.state, 0, 1, "
            "NEW.good, NEW.quarantined, NEW.other) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET users = "
            "user_counts.users + excluded.users, good = user_counts.good + excluded.good, quarantined = "
            "user_counts.quarantined + excluded.quarantined, other = user_counts.other + excluded.other; END"
        )
        op.execute(
            "CREATE TRIGGER users_go AFTER DELETE ON users BEGIN INSERT INTO user_counts (plan_id, wave, state, "
            "lane, users, good, quarantined, other) VALUES (OLD.plan_id, coalesce(OLD.wave, -1), OLD.state, 0, "
            "-1, -OLD.good, -OLD.quarantined, -OLD.other) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET "
            "users = user_counts.users + excluded.users, good = user_counts.good + excluded.good, quarantined = "
            "user_counts.quarantined + excluded.quarantined, other = user_counts.other + excluded.other; END"
        )
        op.execute(
            "CREATE TRIGGER users_change AFTER UPDATE ON users WHEN OLD.plan_id IS NOT NEW.plan_id OR OLD.wave IS "
            "NOT NEW.wave OR OLD.state IS NOT NEW.state OR OLD.good IS NOT NEW.good OR OLD.quarantined IS NOT "
            "NEW.quarantined OR OLD.other IS NOT NEW.other BEGIN INSERT INTO user_counts (plan_id, wave, state, "
            "lane, users, good, quarantined, other) VALUES (OLD.plan_id, coalesce(OLD.wave, -1), OLD.state, 0, "
            "-1, -OLD.good, -OLD.quarantined, -OLD.other) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET "
            "users = user_counts.users + excluded.users, good = user_counts.good + excluded.good, quarantined = "
            "user_counts.quarantined + excluded.quarantined, other = user_counts.other + excluded.other; INSERT "
            "INTO user_counts (plan_id, wave, state, lane, users, good, quarantined, other) VALUES (NEW.plan_id, "
            "coalesce(NEW.wave, -1), NEW.state, 0, 1, NEW.good, NEW.quarantined, NEW.other) ON CONFLICT (plan_id, "
            "wave, state, lane) DO UPDATE SET users = user_counts.users + excluded.users, good = user_counts.good "
            "+ excluded.good, quarantined = user_counts.quarantined + excluded.quarantined, other = "
            "user_counts.other + excluded.other; END"
        )
        op.execute(
            "CREATE TRIGGER batches_come AFTER INSERT ON batches BEGIN INSERT INTO batch_counts (plan_id, wave, "
            "state, lane, batches, objects, copies, size_bytes, done_bytes, copied, present, drifted, "
            "quarantined, withdrawn) VALUES (NEW.plan_id, coalesce(NEW.wave, -1), NEW.state, 0, 1, NEW.objects, "
            "NEW.copies, NEW.size_bytes, NEW.done_bytes, NEW.copied, NEW.present, NEW.drifted, NEW.quarantined, "
            "NEW.withdrawn) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET batches = batch_counts.batches "
            "+ excluded.batches, objects = batch_counts.objects + excluded.objects, copies = batch_counts.copies "
            "+ excluded.copies, size_bytes = batch_counts.size_bytes + excluded.size_bytes, done_bytes = "
            "batch_counts.done_bytes + excluded.done_bytes, copied = batch_counts.copied + excluded.copied, "
            "present = batch_counts.present + excluded.present, drifted = batch_counts.drifted + "
            "excluded.drifted, quarantined = batch_counts.quarantined + excluded.quarantined, withdrawn = "
            "batch_counts.withdrawn + excluded.withdrawn; END"
        )
        op.execute(
            "CREATE TRIGGER batches_go AFTER DELETE ON batches BEGIN INSERT INTO batch_counts (plan_id, wave, "
            "state, lane, batches, objects, copies, size_bytes, done_bytes, copied, present, drifted, "
            "quarantined, withdrawn) VALUES (OLD.plan_id, coalesce(OLD.wave, -1), OLD.state, 0, -1, -OLD.objects, "
            "-OLD.copies, -OLD.size_bytes, -OLD.done_bytes, -OLD.copied, -OLD.present, -OLD.drifted, "
            "-OLD.quarantined, -OLD.withdrawn) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET batches = "
            "batch_counts.batches + excluded.batches, objects = batch_counts.objects + excluded.objects, copies = "
            "batch_counts.copies + excluded.copies, size_bytes = batch_counts.size_bytes + excluded.size_bytes, "
            "done_bytes = batch_counts.done_bytes + excluded.done_bytes, copied = batch_counts.copied + "
            "excluded.copied, present = batch_counts.present + excluded.present, drifted = batch_counts.drifted + "
            "excluded.drifted, quarantined = batch_counts.quarantined + excluded.quarantined, withdrawn = "
            "batch_counts.withdrawn + excluded.withdrawn; END"
        )
        op.execute(
            "CREATE TRIGGER batches_change AFTER UPDATE ON batches WHEN OLD.plan_id IS NOT NEW.plan_id OR "
            "OLD.wave IS NOT NEW.wave OR OLD.state IS NOT NEW.state OR OLD.objects IS NOT NEW.objects OR "
            "OLD.copies IS NOT NEW.copies OR OLD.size_bytes IS NOT NEW.size_bytes OR OLD.done_bytes IS NOT "
            "NEW.done_bytes OR OLD.copied IS NOT NEW.copied OR OLD.present IS NOT NEW.present OR OLD.drifted IS "
            "NOT NEW.drifted OR OLD.quarantined IS NOT NEW.quarantined OR OLD.withdrawn IS NOT NEW.withdrawn "
            "BEGIN INSERT INTO batch_counts (plan_id, wave, state, lane, batches, objects, copies, size_bytes, "
            "done_bytes, copied, present, drifted, quarantined, withdrawn) VALUES (OLD.plan_id, "
            "coalesce(OLD.wave, -1), OLD.state, 0, -1, -OLD.objects, -OLD.copies, -OLD.size_bytes, "
            "-OLD.done_bytes, -OLD.copied, -OLD.present, -OLD.drifted, -OLD.quarantined, -OLD.withdrawn) ON "
            "CONFLICT (plan_id, wave, state, lane) DO UPDATE SET batches = batch_counts.batches + "
            "excluded.batches, objects = batch_counts.objects + excluded.objects, copies = batch_counts.copies + "
            "excluded.copies, size_bytes = batch_counts.size_bytes + excluded.size_bytes, done_bytes = "
            "batch_counts.done_bytes + excluded.done_bytes, copied = batch_counts.copied + excluded.copied, "
            "present = batch_counts.present + excluded.present, drifted = batch_counts.drifted + "
            "excluded.drifted, quarantined = batch_counts.quarantined + excluded.quarantined, withdrawn = "
            "batch_counts.withdrawn + excluded.withdrawn; INSERT INTO batch_counts (plan_id, wave, state, lane, "
            "batches, objects, copies, size_bytes, done_bytes, copied, present, drifted, quarantined, withdrawn) "
            "VALUES (NEW.plan_id, coalesce(NEW.wave, -1), NEW.state, 0, 1, NEW.objects, NEW.copies, "
            "NEW.size_bytes, NEW.done_bytes, NEW.copied, NEW.present, NEW.drifted, NEW.quarantined, "
            "NEW.withdrawn) ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET batches = batch_counts.batches "
            "+ excluded.batches, objects = batch_counts.objects + excluded.objects, copies = batch_counts.copies "
            "+ excluded.copies, size_bytes = batch_counts.size_bytes + excluded.size_bytes, done_bytes = "
            "batch_counts.done_bytes + excluded.done_bytes, copied = batch_counts.copied + excluded.copied, "
            "present = batch_counts.present + excluded.present, drifted = batch_counts.drifted + "
            "excluded.drifted, quarantined = batch_counts.quarantined + excluded.quarantined, withdrawn = "
            "batch_counts.withdrawn + excluded.withdrawn; END"
        )
        op.execute(
            "CREATE TRIGGER checks_come AFTER INSERT ON checks BEGIN INSERT INTO check_counts (pass_id, state, "
            "lane, checks, matched, mismatched, missing, unknown, extra) VALUES (NEW.pass_id, NEW.state, 0, 1, "
            "NEW.matched, NEW.mismatched, NEW.missing, NEW.unknown, NEW.extra) ON CONFLICT (pass_id, state, lane) "
            "DO UPDATE SET checks = check_counts.checks + excluded.checks, matched = check_counts.matched + "
            "excluded.matched, mismatched = check_counts.mismatched + excluded.mismatched, missing = "
            "check_counts.missing + excluded.missing, unknown = check_counts.unknown + excluded.unknown, extra = "
            "check_counts.extra + excluded.extra; END"
        )
        op.execute(
            "CREATE TRIGGER checks_go AFTER DELETE ON checks BEGIN INSERT INTO check_counts (pass_id, state, "
            "lane, checks, matched, mismatched, missing, unknown, extra) VALUES (OLD.pass_id, OLD.state, 0, -1, "
            "-OLD.matched, -OLD.mismatched, -OLD.missing, -OLD.unknown, -OLD.extra) ON CONFLICT (pass_id, state, "
            "lane) DO UPDATE SET checks = check_counts.checks + excluded.checks, matched = check_counts.matched + "
            "excluded.matched, mismatched = check_counts.mismatched + excluded.mismatched, missing = "
            "check_counts.missing + excluded.missing, unknown = check_counts.unknown + excluded.unknown, extra = "
            "check_counts.extra + excluded.extra; END"
        )
        op.execute(
            "CREATE TRIGGER checks_change AFTER UPDATE ON checks WHEN OLD.pass_id IS NOT NEW.pass_id OR OLD.state "
            "IS NOT NEW.state OR OLD.matched IS NOT NEW.matched OR OLD.mismatched IS NOT NEW.mismatched OR "
            "OLD.missing IS NOT NEW.missing OR OLD.unknown IS NOT NEW.unknown OR OLD.extra IS NOT NEW.extra BEGIN "
            "INSERT INTO check_counts (pass_id, state, lane, checks, matched, mismatched, missing, unknown, "
            "extra) VALUES (OLD.pass_id, OLD.state, 0, -1, -OLD.matched, -OLD.mismatched, -OLD.missing, "
            "-OLD.unknown, -OLD.extra) ON CONFLICT (pass_id, state, lane) DO UPDATE SET checks = "
            "check_counts.checks + excluded.checks, matched = check_counts.matched + excluded.matched, mismatched "
            "= check_counts.mismatched + excluded.mismatched, missing = check_counts.missing + excluded.missing, "
            "unknown = check_counts.unknown + excluded.unknown, extra = check_counts.extra + excluded.extra; "
            "INSERT INTO check_counts (pass_id, state, lane, checks, matched, mismatched, missing, unknown, "
            "extra) VALUES (NEW.pass_id, NEW.state, 0, 1, NEW.matched, NEW.mismatched, NEW.missing, NEW.unknown, "
            "NEW.extra) ON CONFLICT (pass_id, state, lane) DO UPDATE SET checks = check_counts.checks + "
            "excluded.checks, matched = check_counts.matched + excluded.matched, mismatched = "
            "check_counts.mismatched + excluded.mismatched, missing = check_counts.missing + excluded.missing, "
            "unknown = check_counts.unknown + excluded.unknown, extra = check_counts.extra + excluded.extra; END"
        )
    else:
        op.execute(
            "CREATE FUNCTION keep_events() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'events are "
            "added, and never changed' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON events FOR EACH STATEMENT EXECUTE "
            "FUNCTION keep_events()"
        )
        op.execute(
            "CREATE FUNCTION count_users() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE free integer := 0; "
            "BEGIN WHILE NOT pg_try_advisory_xact_lock(726234, free) LOOP free := free + 1; END LOOP; IF TG_OP = "
            "'INSERT' THEN INSERT INTO user_counts (plan_id, wave, state, lane, users, good, quarantined, other) "
            "SELECT r.plan_id, coalesce(r.wave, -1), r.state, free, sum(1), sum(1 * r.good), sum(1 * "
            "r.quarantined), sum(1 * r.other) FROM come AS r GROUP BY 1, 2, 3 ON CONFLICT (plan_id, wave, state, "
            "lane) DO UPDATE SET users = user_counts.users + excluded.users, good = user_counts.good + "
            "excluded.good, quarantined = user_counts.quarantined + excluded.quarantined, other = "
            "user_counts.other + excluded.other; ELSIF TG_OP = 'DELETE' THEN INSERT INTO user_counts (plan_id, "
            "wave, state, lane, users, good, quarantined, other) SELECT r.plan_id, coalesce(r.wave, -1), r.state, "
            "free, sum(-1), sum(-1 * r.good), sum(-1 * r.quarantined), sum(-1 * r.other) FROM gone AS r GROUP BY "
            "1, 2, 3 ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET users = user_counts.users + "
            "excluded.users, good = user_counts.good + excluded.good, quarantined = user_counts.quarantined + "
            "excluded.quarantined, other = user_counts.other + excluded.other; ELSE INSERT INTO user_counts "
            "(plan_id, wave, state, lane, users, good, quarantined, other) SELECT r.plan_id, coalesce(r.wave, "
            "-1), r.state, free, sum(r.sign), sum(r.sign * r.good), sum(r.sign * r.quarantined), sum(r.sign * "
            "r.other) FROM (SELECT 1 AS sign, plan_id, wave, state, good, quarantined, other FROM come UNION ALL "
            "SELECT -1, plan_id, wave, state, good, quarantined, other FROM gone) AS r GROUP BY 1, 2, 3 HAVING "
            "sum(r.sign) <> 0 OR sum(r.sign * r.good) <> 0 OR sum(r.sign * r.quarantined) <> 0 OR sum(r.sign * "
            "r.other) <> 0 ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET users = user_counts.users + "
            "excluded.users, good = user_counts.good + excluded.good, quarantined = user_counts.quarantined + "
            "excluded.quarantined, other = user_counts.other + excluded.other; END IF; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER users_come AFTER INSERT ON users REFERENCING NEW TABLE AS come FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_users()"
        )
        op.execute(
            "CREATE TRIGGER users_go AFTER DELETE ON users REFERENCING OLD TABLE AS gone FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_users()"
        )
        op.execute(
            "CREATE TRIGGER users_change AFTER UPDATE ON users REFERENCING OLD TABLE AS gone NEW TABLE AS come "
            "FOR EACH STATEMENT EXECUTE FUNCTION count_users()"
        )
        op.execute(
            "CREATE FUNCTION count_batches() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE free integer := 0; "
            "BEGIN WHILE NOT pg_try_advisory_xact_lock(726234, free) LOOP free := free + 1; END LOOP; IF TG_OP = "
            "'INSERT' THEN INSERT INTO batch_counts (plan_id, wave, state, lane, batches, objects, copies, "
            "size_bytes, done_bytes, copied, present, drifted, quarantined, withdrawn) SELECT r.plan_id, "
            "coalesce(r.wave, -1), r.state, free, sum(1), sum(1 * r.objects), sum(1 * r.copies), sum(1 * "
            "r.size_bytes), sum(1 * r.done_bytes), sum(1 * r.copied), sum(1 * r.present), sum(1 * r.drifted), "
            "sum(1 * r.quarantined), sum(1 * r.withdrawn) FROM come AS r GROUP BY 1, 2, 3 ON CONFLICT (plan_id, "
            "wave, state, lane) DO UPDATE SET batches = batch_counts.batches + excluded.batches, objects = "
            "batch_counts.objects + excluded.objects, copies = batch_counts.copies + excluded.copies, size_bytes "
            "= batch_counts.size_bytes + excluded.size_bytes, done_bytes = batch_counts.done_bytes + "
            "excluded.done_bytes, copied = batch_counts.copied + excluded.copied, present = batch_counts.present "
            "+ excluded.present, drifted = batch_counts.drifted + excluded.drifted, quarantined = "
            "batch_counts.quarantined + excluded.quarantined, withdrawn = batch_counts.withdrawn + "
            "excluded.withdrawn; ELSIF TG_OP = 'DELETE' THEN INSERT INTO batch_counts (plan_id, wave, state, "
            "lane, batches, objects, copies, size_bytes, done_bytes, copied, present, drifted, quarantined, "
            "withdrawn) SELECT r.plan_id, coalesce(r.wave, -1), r.state, free, sum(-1), sum(-1 * r.objects), "
            "sum(-1 * r.copies), sum(-1 * r.size_bytes), sum(-1 * r.done_bytes), sum(-1 * r.copied), sum(-1 * "
            "r.present), sum(-1 * r.drifted), sum(-1 * r.quarantined), sum(-1 * r.withdrawn) FROM gone AS r GROUP "
            "BY 1, 2, 3 ON CONFLICT (plan_id, wave, state, lane) DO UPDATE SET batches = batch_counts.batches + "
            "excluded.batches, objects = batch_counts.objects + excluded.objects, copies = batch_counts.copies + "
            "excluded.copies, size_bytes = batch_counts.size_bytes + excluded.size_bytes, done_bytes = "
            "batch_counts.done_bytes + excluded.done_bytes, copied = batch_counts.copied + excluded.copied, "
            "present = batch_counts.present + excluded.present, drifted = batch_counts.drifted + "
            "excluded.drifted, quarantined = batch_counts.quarantined + excluded.quarantined, withdrawn = "
            "batch_counts.withdrawn + excluded.withdrawn; ELSE INSERT INTO batch_counts (plan_id, wave, state, "
            "lane, batches, objects, copies, size_bytes, done_bytes, copied, present, drifted, quarantined, "
            "withdrawn) SELECT r.plan_id, coalesce(r.wave, -1), r.state, free, sum(r.sign), sum(r.sign * "
            "r.objects), sum(r.sign * r.copies), sum(r.sign * r.size_bytes), sum(r.sign * r.done_bytes), "
            "sum(r.sign * r.copied), sum(r.sign * r.present), sum(r.sign * r.drifted), sum(r.sign * "
            "r.quarantined), sum(r.sign * r.withdrawn) FROM (SELECT 1 AS sign, plan_id, wave, state, objects, "
            "copies, size_bytes, done_bytes, copied, present, drifted, quarantined, withdrawn FROM come UNION ALL "
            "SELECT -1, plan_id, wave, state, objects, copies, size_bytes, done_bytes, copied, present, drifted, "
            "quarantined, withdrawn FROM gone) AS r GROUP BY 1, 2, 3 HAVING sum(r.sign) <> 0 OR sum(r.sign * "
            "r.objects) <> 0 OR sum(r.sign * r.copies) <> 0 OR sum(r.sign * r.size_bytes) <> 0 OR sum(r.sign * "
            "r.done_bytes) <> 0 OR sum(r.sign * r.copied) <> 0 OR sum(r.sign * r.present) <> 0 OR sum(r.sign * "
            "r.drifted) <> 0 OR sum(r.sign * r.quarantined) <> 0 OR sum(r.sign * r.withdrawn) <> 0 ON CONFLICT "
            "(plan_id, wave, state, lane) DO UPDATE SET batches = batch_counts.batches + excluded.batches, "
            "objects = batch_counts.objects + excluded.objects, copies = batch_counts.copies + excluded.copies, "
            "size_bytes = batch_counts.size_bytes + excluded.size_bytes, done_bytes = batch_counts.done_bytes + "
            "excluded.done_bytes, copied = batch_counts.copied + excluded.copied, present = batch_counts.present "
            "+ excluded.present, drifted = batch_counts.drifted + excluded.drifted, quarantined = "
            "batch_counts.quarantined + excluded.quarantined, withdrawn = batch_counts.withdrawn + "
            "excluded.withdrawn; END IF; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER batches_come AFTER INSERT ON batches REFERENCING NEW TABLE AS come FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_batches()"
        )
        op.execute(
            "CREATE TRIGGER batches_go AFTER DELETE ON batches REFERENCING OLD TABLE AS gone FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_batches()"
        )
        op.execute(
            "CREATE TRIGGER batches_change AFTER UPDATE ON batches REFERENCING OLD TABLE AS gone NEW TABLE AS "
            "come FOR EACH STATEMENT EXECUTE FUNCTION count_batches()"
        )
        op.execute(
            "CREATE FUNCTION count_checks() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE free integer := 0; "
            "BEGIN WHILE NOT pg_try_advisory_xact_lock(726234, free) LOOP free := free + 1; END LOOP; IF TG_OP = "
            "'INSERT' THEN INSERT INTO check_counts (pass_id, state, lane, checks, matched, mismatched, missing, "
            "unknown, extra) SELECT r.pass_id, r.state, free, sum(1), sum(1 * r.matched), sum(1 * r.mismatched), "
            "sum(1 * r.missing), sum(1 * r.unknown), sum(1 * r.extra) FROM come AS r GROUP BY 1, 2 ON CONFLICT "
            "(pass_id, state, lane) DO UPDATE SET checks = check_counts.checks + excluded.checks, matched = "
            "check_counts.matched + excluded.matched, mismatched = check_counts.mismatched + excluded.mismatched, "
            "missing = check_counts.missing + excluded.missing, unknown = check_counts.unknown + "
            "excluded.unknown, extra = check_counts.extra + excluded.extra; ELSIF TG_OP = 'DELETE' THEN INSERT "
            "INTO check_counts (pass_id, state, lane, checks, matched, mismatched, missing, unknown, extra) "
            "SELECT r.pass_id, r.state, free, sum(-1), sum(-1 * r.matched), sum(-1 * r.mismatched), sum(-1 * "
            "r.missing), sum(-1 * r.unknown), sum(-1 * r.extra) FROM gone AS r GROUP BY 1, 2 ON CONFLICT "
            "(pass_id, state, lane) DO UPDATE SET checks = check_counts.checks + excluded.checks, matched = "
            "check_counts.matched + excluded.matched, mismatched = check_counts.mismatched + excluded.mismatched, "
            "missing = check_counts.missing + excluded.missing, unknown = check_counts.unknown + "
            "excluded.unknown, extra = check_counts.extra + excluded.extra; ELSE INSERT INTO check_counts "
            "(pass_id, state, lane, checks, matched, mismatched, missing, unknown, extra) SELECT r.pass_id, "
            "r.state, free, sum(r.sign), sum(r.sign * r.matched), sum(r.sign * r.mismatched), sum(r.sign * "
            "r.missing), sum(r.sign * r.unknown), sum(r.sign * r.extra) FROM (SELECT 1 AS sign, pass_id, state, "
            "matched, mismatched, missing, unknown, extra FROM come UNION ALL SELECT -1, pass_id, state, matched, "
            "mismatched, missing, unknown, extra FROM gone) AS r GROUP BY 1, 2 HAVING sum(r.sign) <> 0 OR "
            "sum(r.sign * r.matched) <> 0 OR sum(r.sign * r.mismatched) <> 0 OR sum(r.sign * r.missing) <> 0 OR "
            "sum(r.sign * r.unknown) <> 0 OR sum(r.sign * r.extra) <> 0 ON CONFLICT (pass_id, state, lane) DO "
            "UPDATE SET checks = check_counts.checks + excluded.checks, matched = check_counts.matched + "
            "excluded.matched, mismatched = check_counts.mismatched + excluded.mismatched, missing = "
            "check_counts.missing + excluded.missing, unknown = check_counts.unknown + excluded.unknown, extra = "
            "check_counts.extra + excluded.extra; END IF; RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER checks_come AFTER INSERT ON checks REFERENCING NEW TABLE AS come FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_checks()"
        )
        op.execute(
            "CREATE TRIGGER checks_go AFTER DELETE ON checks REFERENCING OLD TABLE AS gone FOR EACH STATEMENT "
            "EXECUTE FUNCTION count_checks()"
        )
        op.execute(
            "CREATE TRIGGER checks_change AFTER UPDATE ON checks REFERENCING OLD TABLE AS gone NEW TABLE AS come "
            "FOR EACH STATEMENT EXECUTE FUNCTION count_checks()"
        )
