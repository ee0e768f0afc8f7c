"""The first ledger: runs, plans, users, batches, leases, receipts, seals, passes, verdicts, findings."""

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
            "verify_level IN ('listing', 'content', 'both-ends')", name=op.f("ck_plans_verify_level_known")
        ),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_plans_digest")),
        sa.CheckConstraint(
            "users >= 0 AND objects >= 0 AND copies >= 0 AND size_bytes >= 0 AND batches >= 0",
            name=op.f("ck_plans_totals"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_plans_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sa.UniqueConstraint("digest", name=op.f("uq_plans_digest")),
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
        sa.CheckConstraint("state IN ('pending', 'leased', 'done')", name=op.f("ck_batches_state_known")),
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
        sa.CheckConstraint("level IN ('listing', 'content', 'both-ends')", name=op.f("ck_passes_level_known")),
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
        sa.CheckConstraint("state IN ('pending', 'leased', 'done')", name=op.f("ck_checks_state_known")),
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
        sa.CheckConstraint("evidence IN ('m', 'c', 'l')", name=op.f("ck_copies_evidence_known")),
        sa.CheckConstraint("outcome IN ('-', 'c', 'p', 'd', 'q', 'w')", name=op.f("ck_copies_outcome_known")),
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
        sa.CheckConstraint("state <> 'verified' OR matched = copies", name=op.f("ck_users_verified_is_whole")),
        sa.CheckConstraint(
            "state IN ('planned', 'copying', 'copied', 'verified', 'ready', 'frozen', 'cut_over', "
            "'observing', 'purged', 'quarantined', 'held', 'review', 'rolled_back', 'forgotten')",
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
    op.create_table(
        "user_counts",
        sa.Column("plan_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("users", sa.BigInteger(), nullable=False),
        sa.Column("good", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("other", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "users >= 0 AND good >= 0 AND quarantined >= 0 AND other >= 0", name=op.f("ck_user_counts_counted")
        ),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_user_counts_plan_id")),
        sa.PrimaryKeyConstraint("plan_id", "number", "wave", "state", name=op.f("pk_user_counts")),
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
        sa.CheckConstraint("purpose IN ('copy', 'verify')", name=op.f("ck_leases_purpose_known")),
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
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("(kind = 'verdicts') = (pass_id IS NOT NULL)", name=op.f("ck_seals_verdicts_have_pass")),
        sa.CheckConstraint("kind IN ('receipts', 'verdicts')", name=op.f("ck_seals_kind_known")),
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
            "verdict IN ('MATCH', 'MISMATCH', 'MISSING', 'UNKNOWN')", name=op.f("ck_verdicts_verdict_known")
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
    op.execute("CREATE INDEX ix_batches_pending ON batches (plan_id, wave, number) WHERE state = 'pending'")
    op.execute("CREATE INDEX ix_checks_pending ON checks (pass_id, number) WHERE state = 'pending'")
    op.execute("CREATE INDEX ix_users_split ON users (plan_id, last_batch) WHERE last_batch > first_batch")
    op.execute(
        "CREATE INDEX ix_verdicts_known ON verdicts (plan_id, reopened, verdict, number, ordinal) WHERE verdict <> 'MATCH'"
    )
    op.execute("CREATE INDEX ix_users_without_copies ON users (plan_id, user_id) WHERE copies = 0")
    op.execute(
        "CREATE UNIQUE INDEX uq_passes_open ON passes (plan_id, level, sample_ppm, waves) WHERE ended_at IS NULL"
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER users_come AFTER INSERT ON users BEGIN INSERT INTO user_counts (plan_id, number, "
            "wave, state, users, good, quarantined, other) VALUES (NEW.plan_id, coalesce(NEW.first_batch, -1), "
            "coalesce(NEW.wave, -1), NEW.state, 1, NEW.good, NEW.quarantined, NEW.other) ON CONFLICT (plan_id, "
            "number, wave, state) DO UPDATE SET users = user_counts.users + excluded.users, good = "
            "user_counts.good + excluded.good, quarantined = user_counts.quarantined + excluded.quarantined, "
            "other = user_counts.other + excluded.other; END"
        )
        op.execute(
            "CREATE TRIGGER users_go AFTER DELETE ON users BEGIN UPDATE user_counts SET users = users - 1, good "
            "= good - OLD.good, quarantined = quarantined - OLD.quarantined, other = other - OLD.other WHERE "
            "(plan_id, number, wave, state) = (OLD.plan_id, coalesce(OLD.first_batch, -1), coalesce(OLD.wave, "
            "-1), OLD.state); END"
        )
        op.execute(
            "CREATE TRIGGER users_change AFTER UPDATE ON users WHEN OLD.plan_id IS NOT NEW.plan_id OR "
            "OLD.first_batch IS NOT NEW.first_batch OR OLD.wave IS NOT NEW.wave OR OLD.state IS NOT NEW.state "
            "OR OLD.good IS NOT NEW.good OR OLD.quarantined IS NOT NEW.quarantined OR OLD.other IS NOT "
            "NEW.other BEGIN UPDATE user_counts SET users = users - 1, good = good - OLD.good, quarantined = "
            "quarantined - OLD.quarantined, other = other - OLD.other WHERE (plan_id, number, wave, state) = "
            "(OLD.plan_id, coalesce(OLD.first_batch, -1), coalesce(OLD.wave, -1), OLD.state); INSERT INTO "
            "user_counts (plan_id, number, wave, state, users, good, quarantined, other) VALUES (NEW.plan_id, "
            "coalesce(NEW.first_batch, -1), coalesce(NEW.wave, -1), NEW.state, 1, NEW.good, NEW.quarantined, "
            "NEW.other) ON CONFLICT (plan_id, number, wave, state) DO UPDATE SET users = user_counts.users + "
            "excluded.users, good = user_counts.good + excluded.good, quarantined = user_counts.quarantined + "
            "excluded.quarantined, other = user_counts.other + excluded.other; END"
        )
    else:
        op.execute(
            "CREATE FUNCTION count_users() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE g record; BEGIN IF "
            "TG_OP <> 'INSERT' THEN FOR g IN SELECT * FROM (SELECT u.plan_id, coalesce(u.first_batch, -1), "
            "coalesce(u.wave, -1), u.state, count(*) AS users, sum(u.good) AS good, sum(u.quarantined) AS "
            "quarantined, sum(u.other) AS other FROM gone AS u GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4) AS s "
            "(plan_id, number, wave, state, users, good, quarantined, other) LOOP UPDATE user_counts AS c SET "
            "users = c.users - g.users, good = c.good - g.good, quarantined = c.quarantined - g.quarantined, "
            "other = c.other - g.other WHERE c.plan_id = g.plan_id AND c.number = g.number AND c.wave = g.wave "
            "AND c.state = g.state; END LOOP; END IF; IF TG_OP <> 'DELETE' THEN INSERT INTO user_counts "
            "(plan_id, number, wave, state, users, good, quarantined, other) SELECT u.plan_id, "
            "coalesce(u.first_batch, -1), coalesce(u.wave, -1), u.state, count(*) AS users, sum(u.good) AS "
            "good, sum(u.quarantined) AS quarantined, sum(u.other) AS other FROM come AS u GROUP BY 1, 2, 3, 4 "
            "ORDER BY 1, 2, 3, 4 ON CONFLICT (plan_id, number, wave, state) DO UPDATE SET users = "
            "user_counts.users + excluded.users, good = user_counts.good + excluded.good, quarantined = "
            "user_counts.quarantined + excluded.quarantined, other = user_counts.other + excluded.other; END "
            "IF; RETURN NULL; END $$"
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
