"""The ledger's tables, with every constraint that a database can hold. Queries stand elsewhere.

`REVISION` is the Alembic revision of these tables: a fresh ledger is made from here and stamped with it, and a test shows that
one that was upgraded step by step looks the same. Whoever changes a table adds a revision under `upgrades/versions`.

Enums are text with a CHECK. A CHECK that comes out as NULL passes in SQL, so what must be there is asked for with IS NOT NULL.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

from migrate.ledger import counts
from migrate.ledger.columns import EVIDENCE_CODES, OUTCOME_CODES, KeyBytes, Micros, one_of
from migrate.ledger.rows import CheckState, EventKind, SealKind
from migrate.model import Category, Level, Purpose, TargetRole, Verdict
from migrate.states import BatchState, UserState

REVISION = "0001"

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# The name and shape that Alembic itself gives it; apart, because Alembic makes it by itself.
version_metadata = MetaData()
alembic_version = Table(
    "alembic_version",
    version_metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("country", Text),
    Column("tool_version", Text, nullable=False),
    Column("arguments", Text, nullable=False),  # JSON
    Column("plan_digest", Text),
    Column("started_at", Micros, nullable=False),
    Column("ended_at", Micros),
    Column("exit_code", Integer),
    Column("failures", Integer, nullable=False, server_default="0"),
    CheckConstraint("(ended_at IS NULL) = (exit_code IS NULL)", name="ended"),
    CheckConstraint("failures >= 0", name="failures"),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("parent", Text),
    Column("name", Text, nullable=False),
    Column("built_at", Micros, nullable=False),
    Column("registered_at", Micros, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("users", Integer, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("copies", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("batches", Integer, nullable=False),
    Column("verify_level", Text, nullable=False),
    UniqueConstraint("digest"),
    UniqueConstraint("parent"),  # of the deltas of one plan only the first is registered
    CheckConstraint("length(digest) = 64", name="digest"),
    CheckConstraint("users >= 0 AND objects >= 0 AND copies >= 0 AND size_bytes >= 0 AND batches >= 0", name="totals"),
    one_of("verify_level", Level),
)

acceptances = Table(
    "acceptances",
    metadata,
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("at", Micros, nullable=False),
    PrimaryKeyConstraint("plan_id", "kind"),
    CheckConstraint("count >= 0", name="count"),
    sqlite_with_rowid=False,
)

batches = Table(
    "batches",
    metadata,
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("users", Integer, nullable=False),
    Column("objects", Integer, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("key_from", KeyBytes),
    Column("key_until", KeyBytes),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("copied", Integer, nullable=False, server_default="0"),
    Column("present", Integer, nullable=False, server_default="0"),
    Column("drifted", Integer, nullable=False, server_default="0"),
    Column("quarantined", Integer, nullable=False, server_default="0"),
    Column("withdrawn", Integer, nullable=False, server_default="0"),
    Column("done_bytes", BigInteger, nullable=False, server_default="0"),
    Column("voided", Integer, nullable=False, server_default="0"),  # sealed receipts that a repair has put back
    PrimaryKeyConstraint("plan_id", "number"),
    UniqueConstraint("plan_id", "number", "state"),  # what a lease refers to
    one_of("state", BatchState),
    CheckConstraint("length(digest) = 32", name="digest"),
    CheckConstraint("number >= 0 AND users >= 0 AND objects >= 0 AND copies >= 0 AND size_bytes >= 0", name="totals"),
    CheckConstraint(
        "copied >= 0 AND present >= 0 AND drifted >= 0 AND quarantined >= 0 AND withdrawn >= 0"
        " AND voided >= 0 AND fence >= 0",
        name="counted",
    ),
    CheckConstraint("copied + present + drifted + quarantined + withdrawn <= copies", name="sum"),
    CheckConstraint(
        "state <> 'done' OR copied + present + drifted + quarantined + withdrawn = copies", name="done_is_whole"
    ),
    CheckConstraint("done_bytes >= 0 AND done_bytes <= size_bytes", name="done_bytes"),
    sqlite_with_rowid=False,
)

users = Table(
    "users",
    metadata,
    # The key makes "at most one active line of plans a user" a constraint.
    Column("user_id", Text, nullable=False),
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("country", Text, nullable=False),
    Column("home", Text),
    Column("backup", Text),
    Column("wave", Integer),
    Column("state", Text, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("good", Integer, nullable=False, server_default="0"),
    Column("quarantined", Integer, nullable=False, server_default="0"),
    Column("other", Integer, nullable=False, server_default="0"),
    Column("matched", Integer, nullable=False, server_default="0"),
    Column("matched_pass", Integer, ForeignKey("passes.id")),
    Column("first_batch", Integer),
    Column("last_batch", Integer),
    PrimaryKeyConstraint("user_id"),
    one_of("state", UserState),
    ForeignKeyConstraint(
        ["plan_id", "first_batch"], ["batches.plan_id", "batches.number"], name="fk_users_first_batch"
    ),
    ForeignKeyConstraint(["plan_id", "last_batch"], ["batches.plan_id", "batches.number"], name="fk_users_last_batch"),
    CheckConstraint(
        "copies >= 0 AND size_bytes >= 0 AND good >= 0 AND quarantined >= 0 AND other >= 0", name="counted"
    ),
    CheckConstraint("good + quarantined + other <= copies", name="sum"),
    CheckConstraint("matched >= 0 AND matched <= good", name="matched"),
    CheckConstraint("state NOT IN ('copied', 'verified') OR good = copies", name="copied_is_whole"),
    CheckConstraint("(state <> 'verified' AND state <> 'ready') OR matched = copies", name="verified_is_whole"),
    CheckConstraint("state <> 'quarantined' OR quarantined > 0", name="quarantined"),
    CheckConstraint(
        "(copies = 0 AND first_batch IS NULL AND last_batch IS NULL)"
        " OR (copies > 0 AND wave IS NOT NULL AND first_batch IS NOT NULL AND last_batch IS NOT NULL"
        " AND first_batch <= last_batch)",
        name="batches",
    ),
    Index("ix_users_batch", "plan_id", "first_batch"),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("host", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", BigInteger, nullable=False),  # clock ticks since boot, as in /proc/PID/stat
    Column("started_at", Micros, nullable=False),
    Column("beat", Integer, nullable=False, server_default="0"),
    Column("ended", Boolean, nullable=False, server_default=text("false")),
)

passes = Table(
    "passes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("level", Text, nullable=False),
    Column("sample_ppm", Integer, nullable=False),
    Column("waves", Text, nullable=False),  # numbers in order with commas between, or * for all
    Column("started_at", Micros, nullable=False),
    Column("worked_at", Micros, nullable=False),  # begun, gone on with, or a check of it ended
    Column("ended_at", Micros),
    Column("superseded", Boolean, nullable=False, server_default=text("false")),  # ended without having come to its end
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    one_of("level", Level),
    CheckConstraint("sample_ppm > 0 AND sample_ppm <= 1000000", name="sample"),
    CheckConstraint("superseded = false OR ended_at IS NOT NULL", name="superseded_is_over"),
)

checks = Table(
    "checks",
    metadata,
    Column("pass_id", Integer, ForeignKey("passes.id"), nullable=False),
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("matched", Integer, nullable=False, server_default="0"),
    Column("mismatched", Integer, nullable=False, server_default="0"),
    Column("missing", Integer, nullable=False, server_default="0"),
    Column("unknown", Integer, nullable=False, server_default="0"),
    Column("extra", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("pass_id", "plan_id", "number"),
    ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_checks_batch"),
    one_of("state", CheckState),
    CheckConstraint(
        "matched >= 0 AND mismatched >= 0 AND missing >= 0 AND unknown >= 0 AND extra >= 0", name="counted"
    ),
    CheckConstraint("state = 'done' OR matched + mismatched + missing + unknown + extra = 0", name="done_first"),
    Index("ix_checks_batch", "plan_id", "number"),
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("batch_state", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("worker_id", Integer, ForeignKey("workers.id"), nullable=False),
    Column("pass_id", Integer),
    PrimaryKeyConstraint("plan_id", "number"),  # one lease a batch
    # A batch that is being copied is 'leased', one that is being verified is 'done', and stays so while the lease is there.
    ForeignKeyConstraint(
        ["plan_id", "number", "batch_state"],
        ["batches.plan_id", "batches.number", "batches.state"],
        name="fk_leases_batch",
    ),
    ForeignKeyConstraint(
        ["pass_id", "plan_id", "number"], ["checks.pass_id", "checks.plan_id", "checks.number"], name="fk_leases_check"
    ),
    one_of("purpose", (Purpose.COPY, Purpose.VERIFY)),
    CheckConstraint("(purpose = 'copy') = (batch_state = 'leased')", name="copy_is_leased"),
    CheckConstraint("(purpose = 'verify') = (batch_state = 'done')", name="verify_is_done"),
    CheckConstraint("(purpose = 'verify') = (pass_id IS NOT NULL)", name="verify_has_pass"),
    CheckConstraint("fence > 0", name="fence"),
    Index("ix_leases_worker", "worker_id"),
    sqlite_with_rowid=False,
)

copies = Table(
    "copies",
    metadata,
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("sha256", LargeBinary),
    Column("part_bytes", BigInteger),
    Column("attributes", LargeBinary),
    Column("etag", LargeBinary),
    Column("version_id", Text),
    Column("evidence", Text),
    Column("reason", Text),
    Column("detail", Text),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("at", BigInteger, nullable=False),  # microseconds
    Column("tallied", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("plan_id", "number", "ordinal"),
    ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_copies_batch"),
    one_of("outcome", OUTCOME_CODES.values()),
    one_of("evidence", EVIDENCE_CODES.values()),
    CheckConstraint("ordinal >= 0", name="ordinal"),
    # A receipt has its digests and no reason; every other row has a reason and no digest.
    CheckConstraint(
        "CASE WHEN outcome IN ('c', 'p')"
        " THEN coalesce(length(sha256), 0) = 32 AND coalesce(length(attributes), 0) = 32 AND coalesce(part_bytes, -1) >= 0"
        " AND etag IS NOT NULL AND evidence IS NOT NULL AND reason IS NULL AND tallied = false"
        " ELSE reason IS NOT NULL AND sha256 IS NULL AND attributes IS NULL AND part_bytes IS NULL"
        " AND evidence IS NULL AND version_id IS NULL AND (outcome <> '-' OR tallied = false) END",
        name="whole",
    ),
    sqlite_with_rowid=False,
)

uploads = Table(
    "uploads",
    metadata,
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("store", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("part_bytes", BigInteger, nullable=False),
    Column("attributes", LargeBinary, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    PrimaryKeyConstraint("plan_id", "number", "ordinal"),
    ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_uploads_batch"),
    CheckConstraint("part_bytes > 0", name="part_bytes"),
    CheckConstraint("length(attributes) = 32", name="attributes"),
    sqlite_with_rowid=False,
)

parts = Table(
    "parts",
    metadata,
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("part", Integer, nullable=False),
    Column("etag", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    PrimaryKeyConstraint("plan_id", "number", "ordinal", "part"),
    ForeignKeyConstraint(
        ["plan_id", "number", "ordinal"],
        ["uploads.plan_id", "uploads.number", "uploads.ordinal"],
        name="fk_parts_upload",
    ),
    CheckConstraint("part >= 1 AND part <= 10000", name="part"),  # S3 user guide, multipart upload limits
    CheckConstraint("length(sha256) = 32", name="sha256"),
    CheckConstraint("size >= 0", name="size"),
    sqlite_with_rowid=False,
)

seals = Table(
    "seals",
    metadata,
    Column("plan_id", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("pass_id", Integer),
    Column("rows", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    PrimaryKeyConstraint("plan_id", "sequence"),
    ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_seals_batch"),
    ForeignKeyConstraint(
        ["pass_id", "plan_id", "number"], ["checks.pass_id", "checks.plan_id", "checks.number"], name="fk_seals_check"
    ),
    one_of("kind", SealKind),
    CheckConstraint("sequence >= 1", name="sequence"),
    CheckConstraint("rows >= 0", name="rows"),
    CheckConstraint("length(digest) = 32 AND length(chain) = 32", name="digests"),
    CheckConstraint("(kind = 'verdicts') = (pass_id IS NOT NULL)", name="verdicts_have_pass"),
    Index("ix_seals_batch", "plan_id", "number", "kind"),
    sqlite_with_rowid=False,
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("pass_id", Integer, nullable=False),
    Column("plan_id", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text),
    Column("etag", Text),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("at", BigInteger, nullable=False),  # microseconds; by the million, so without Micros
    Column("reopened", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("pass_id", "plan_id", "number", "ordinal"),
    ForeignKeyConstraint(
        ["pass_id", "plan_id", "number"],
        ["checks.pass_id", "checks.plan_id", "checks.number"],
        name="fk_verdicts_check",
    ),
    one_of("verdict", Verdict),
    CheckConstraint("ordinal >= 0", name="ordinal"),
    CheckConstraint("reopened = false OR verdict IN ('MISMATCH', 'MISSING')", name="reopened"),
    sqlite_with_rowid=False,
)

findings = Table(
    "findings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("pass_id", Integer, ForeignKey("passes.id")),
    Column("number", Integer),  # the batch whose check tells of it; none where the user has no copies
    Column("kind", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("key", KeyBytes),
    Column("user_id", Text),
    Column("size", BigInteger),
    Column("answered", Boolean, nullable=False, server_default=text("false")),  # looked for again, and not found
    Column("at", Micros, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    UniqueConstraint("pass_id", "kind", "store", "key"),  # a check that is done again finds the same again
    ForeignKeyConstraint(["plan_id", "number"], ["batches.plan_id", "batches.number"], name="fk_findings_batch"),
    Index("ix_findings_plan", "plan_id", "answered", "kind"),
    Index("ix_findings_batch", "plan_id", "number"),
)

# A hold is no state: it stands beside whatever becomes of the user, and may come before any plan.
holds = Table(
    "holds",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("since", Micros, nullable=False),
    Column("reason", Text, nullable=False),
    Column("operator", Text, nullable=False),
    PrimaryKeyConstraint("user_id"),
    CheckConstraint("length(reason) > 0", name="reason"),
    sqlite_with_rowid=False,
)

moves = Table(
    "moves",
    metadata,
    # The last attempt of each user whose cutover began; what became of earlier ones is in `events`.
    Column("user_id", Text, ForeignKey("users.user_id"), nullable=False),
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("from_site", Text, nullable=False),
    Column("to_site", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("frozen_at", Micros, nullable=False),
    Column("unfrozen_at", Micros),  # without a flip
    Column("flipped_at", Micros),
    Column("frozen_ms", BigInteger),  # how long the writers of who was flipped were kept off
    Column("observe_until", Micros),
    Column("back_token", Text),  # of the way back: the last attempt at it
    Column("rolled_back_at", Micros),
    Column("purged_at", Micros),
    # copies that were behind their sources when the freeze began: the last delta is to bring them
    Column("behind", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("user_id"),
    CheckConstraint("length(token) = 64 AND (back_token IS NULL OR length(back_token) = 64)", name="token"),
    CheckConstraint("attempt >= 1", name="attempt"),
    CheckConstraint("behind >= 0", name="behind"),
    CheckConstraint("frozen_ms >= 0", name="frozen_ms"),
    CheckConstraint("(flipped_at IS NULL) = (frozen_ms IS NULL)", name="flipped"),
    CheckConstraint("unfrozen_at IS NULL OR flipped_at IS NULL", name="ended_once"),
    CheckConstraint(
        "flipped_at IS NOT NULL OR (observe_until IS NULL AND back_token IS NULL AND rolled_back_at IS NULL)",
        name="flipped_first",
    ),
    CheckConstraint("rolled_back_at IS NULL OR back_token IS NOT NULL", name="back_begun"),
    CheckConstraint(
        "purged_at IS NULL OR (observe_until IS NOT NULL AND rolled_back_at IS NULL)", name="observed_first"
    ),
    sqlite_with_rowid=False,
)

late = Table(
    "late",
    metadata,
    # A row a copy that a cutover has planned while its user was frozen: no plan names it. The source's half says what the object
    # was; the receipt's half comes once the copy is there and was read again. A `target_etag` alone is of what was seen
    # meanwhile (`LateCopy.seen`).
    Column("user_id", Text, ForeignKey("users.user_id"), nullable=False),
    Column("store", Text, nullable=False),
    Column("key", KeyBytes, nullable=False),
    Column("role", Text, nullable=False),
    Column("plan_id", Integer, ForeignKey("plans.id"), nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("version_id", Text),
    Column("etag", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("last_modified", Micros, nullable=False),
    Column("category", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("flag", Text),
    Column("target_store", Text, nullable=False),
    Column("target_key", KeyBytes, nullable=False),
    Column("sha256", LargeBinary),
    Column("part_bytes", Integer),
    Column("attributes", LargeBinary),
    Column("target_etag", LargeBinary),
    Column("target_version", Text),
    Column("evidence", Text),
    Column("at", Micros),
    PrimaryKeyConstraint("user_id", "store", "key", "role"),
    one_of("role", TargetRole),
    one_of("category", Category),
    one_of("evidence", EVIDENCE_CODES.values()),
    CheckConstraint("size_bytes >= 0 AND part_bytes >= 0", name="counted"),
    CheckConstraint("length(sha256) = 32 AND length(attributes) = 32", name="digests"),
    CheckConstraint(
        "(sha256 IS NULL) = (part_bytes IS NULL) AND (sha256 IS NULL) = (attributes IS NULL)"
        " AND (sha256 IS NULL OR target_etag IS NOT NULL) AND (sha256 IS NULL) = (evidence IS NULL)"
        " AND (sha256 IS NULL) = (at IS NULL)",
        name="receipt",
    ),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("at", Micros, nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id")),
    Column("plan_id", Integer, ForeignKey("plans.id")),
    Column("kind", Text, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text),
    Column("note", Text),
    one_of("kind", EventKind),
    one_of("from_state", UserState),
    one_of("to_state", UserState),
    CheckConstraint(
        "(kind = 'move') = (from_state IS NOT NULL) AND (kind = 'move') = (to_state IS NOT NULL)",
        name="move_has_states",
    ),
    Index("ix_events_user", "user_id", "id"),
)
_NEVER = "'events are added, and never changed'"
_KEEP = (
    "CREATE FUNCTION keep_events() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    f" RAISE EXCEPTION {_NEVER} USING ERRCODE = 'integrity_constraint_violation'; END $$"
)
_STAY = "BEFORE UPDATE OR DELETE OR TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION keep_events()"
for _dialect, _statement in (
    ("sqlite", f"CREATE TRIGGER events_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, {_NEVER}); END"),
    ("sqlite", f"CREATE TRIGGER events_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, {_NEVER}); END"),
    ("postgresql", _KEEP),
    ("postgresql", f"CREATE TRIGGER events_stay {_STAY}"),
):
    event.listen(events, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]

# The embedded routes, and the columns that `migrate.routing` asks of any table of routes.
routes = Table(
    "routes",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("home", Text, nullable=False),
    Column("frozen_by", Text),
    Column("frozen_until", BigInteger),  # microseconds by the database's own clock
    Column("writers", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("user_id"),
    CheckConstraint("(frozen_by IS NULL) = (frozen_until IS NULL)", name="frozen"),
    CheckConstraint("writers >= 0", name="writers"),
    sqlite_with_rowid=False,
)

# Where a cutover has begun and is not done with: few users, so that a run finds at once what another one left. The text is the
# condition of an index, and of the queries that use it; no IN, for the reason at `one_of`.
UNDER_WAY = (
    UserState.FROZEN,
    UserState.CUT_OVER,
    UserState.OBSERVING,
    UserState.RETURNING,
    UserState.PURGING,
    UserState.ROLLED_BACK,
)
UNDER_WAY_SQL = " OR ".join(f"state = '{state.value}'" for state in UNDER_WAY)

user_counts = counts.counters_of(users, counts.USERS)
batch_counts = counts.counters_of(batches, counts.BATCHES)
check_counts = counts.counters_of(checks, counts.CHECKS)

# Partial indexes find at once what is next or wrong. As text: SQLAlchemy's own way loads the dialect of each named database.
for _table, _statement in (
    (batches, "CREATE INDEX ix_batches_pending ON batches (plan_id, wave, number) WHERE state = 'pending'"),
    (checks, "CREATE INDEX ix_checks_pending ON checks (pass_id, number) WHERE state = 'pending'"),
    (users, "CREATE INDEX ix_users_quarantined ON users (plan_id, wave) WHERE quarantined > 0"),
    (users, "CREATE INDEX ix_users_split ON users (plan_id, last_batch) WHERE last_batch > first_batch"),
    (
        verdicts,
        "CREATE INDEX ix_verdicts_known ON verdicts (plan_id, reopened, verdict, number, ordinal) WHERE verdict <> 'MATCH'",
    ),
    (users, "CREATE INDEX ix_users_without_copies ON users (plan_id, user_id) WHERE copies = 0"),
    (users, f"CREATE INDEX ix_users_moving ON users (plan_id, user_id, state) WHERE {UNDER_WAY_SQL}"),
    (
        passes,
        "CREATE UNIQUE INDEX uq_passes_open ON passes (plan_id, level, sample_ppm, waves) WHERE ended_at IS NULL",
    ),
):
    event.listen(_table, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]
