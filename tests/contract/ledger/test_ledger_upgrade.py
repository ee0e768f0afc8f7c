"""Versions of the ledger: a fresh one equals an upgraded one, and any other version is refused (invariant 12)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from ledgers import PLAN, World
from sqlalchemy import inspect, text

from migrate.errors import ExitCode, LedgerError, NoLedgerError, UsageError, VersionError
from migrate.ledger import Ledger, schema
from migrate.ledger.engine import Database
from migrate.ledger.upgrade import alembic_config, backup, upgrade


def describe(url: str) -> dict[str, Any]:
    """All that the database knows about its own tables."""
    database = Database(url)
    with database.read() as connection:
        inspector = inspect(connection)
        found: dict[str, Any] = {}
        for table in inspector.get_table_names():
            found[table] = {
                "columns": [{**column, "type": str(column["type"])} for column in inspector.get_columns(table)],
                "key": inspector.get_pk_constraint(table),
                "references": sorted(map(str, inspector.get_foreign_keys(table))),
                "unique": sorted(map(str, inspector.get_unique_constraints(table))),
                "checks": sorted(
                    str(check["name"]) + check["sqltext"] for check in inspector.get_check_constraints(table)
                ),
                "indexes": sorted(map(_plain, inspector.get_indexes(table))),
            }
        if database.is_sqlite:
            rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
            found["sql"] = {name: sorted(line.strip(" ,\t") for line in sql.split("\n")) for name, sql in rows}
        else:
            found["triggers"] = sorted(
                connection.execute(
                    text(
                        "SELECT pg_get_triggerdef(t.oid) || p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
                        " WHERE NOT t.tgisinternal"
                    )
                ).scalars()
            )
    database.close()
    return found


def _plain(index: Any) -> str:
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def stamp(url: str, revision: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
    database.close()


def upgrade_from_nothing(url: str) -> None:
    """Every revision in turn on an empty database, as Alembic does it."""
    database = Database(url)
    database.prepare_file(create=True)
    with database.write() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    database.close()


def test_a_fresh_ledger_equals_an_upgraded_one(ledger_url: str, other_url: str) -> None:
    """Tables, columns, keys, constraints and indexes: whichever way they were made."""
    Ledger.open(ledger_url).close()
    upgrade_from_nothing(other_url)
    assert describe(ledger_url) == describe(other_url)
    Ledger.open(other_url, create=False).close()


@pytest.mark.parametrize("lost", ["DROP INDEX ix_leases_worker", "DROP TRIGGER users_go"])
def test_a_difference_between_schemas_is_seen(ledger_url: str, other_url: str, lost: str) -> None:
    """The corrupted twin: one index, or one trigger, less."""
    Ledger.open(ledger_url).close()
    upgrade_from_nothing(other_url)
    database = Database(other_url)
    with database.write() as connection:
        on_table = " ON users" if "TRIGGER" in lost and not database.is_sqlite else ""
        connection.execute(text(lost + on_table))
    database.close()
    assert describe(ledger_url) != describe(other_url)


def test_the_constant_is_the_newest_revision() -> None:
    """`Ledger.open` compares with a constant, so that it need not load Alembic."""
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [schema.REVISION]
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)


def test_opening_loads_no_alembic() -> None:
    """A command that only opens the ledger does not pay for its upgrades."""
    code = (
        "import sys; from migrate.ledger import Ledger;"
        "print([name for name in sys.modules if name.startswith(('alembic', 'psycopg', 'sqlalchemy.dialects.postgresql'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_newer_ledger_is_refused_with_the_command_that_helps(ledger_url: str) -> None:
    """Invariant 12, also for the upgrade itself."""
    Ledger.open(ledger_url).close()
    stamp(ledger_url, "9999")
    with pytest.raises(VersionError, match="9999") as refused:
        Ledger.open(ledger_url)
    assert "newer migrate" in refused.value.remedy
    assert refused.value.exit_code == ExitCode.BAD_SPEC
    with pytest.raises(VersionError, match="9999"):
        upgrade(ledger_url)


def test_an_older_ledger_is_refused_until_it_is_upgraded(ledger_url: str) -> None:
    """Invariant 12: nothing is upgraded silently."""
    Ledger.open(ledger_url).close()
    stamp(ledger_url, "0000")
    with pytest.raises(VersionError, match="0000") as refused:
        Ledger.open(ledger_url)
    assert "migrate ledger upgrade" in refused.value.remedy
    with pytest.raises(VersionError, match="no migrate has made"):
        upgrade(ledger_url)  # there is no way from a version that never was


def test_an_upgrade_goes_through_every_revision_and_keeps_the_rows(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a next revision beside the real ones: refused before, upgraded on command, the rows still there."""
    ledger = Ledger.open(ledger_url)
    world = World.make(ledger)
    ledger.close()
    scripts = tmp_path / "upgrades"
    shutil.copytree(Path(schema.__file__).parent / "upgrades", scripts)
    (scripts / "versions" / "r0002_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '0002'\ndown_revision = {schema.REVISION!r}\n"
        "def upgrade():\n    op.add_column('runs', sa.Column('note', sa.Text()))\n"
    )
    monkeypatch.setattr("migrate.ledger.upgrade._SCRIPTS", scripts)
    monkeypatch.setattr(schema, "REVISION", "0002")
    with pytest.raises(VersionError, match="migrate needs 0002"):
        Ledger.open(ledger_url)
    assert upgrade(ledger_url) == ("0001", "0002")
    assert upgrade(ledger_url) == ("0002", "0002")
    upgraded = Ledger.open(ledger_url)
    assert upgraded.plan_id(PLAN) == world.plan_id
    upgraded.close()


def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing: what the failed revision did is rolled back."""
    Ledger.open(ledger_url).close()
    before = describe(ledger_url)
    scripts = tmp_path / "upgrades"
    shutil.copytree(Path(schema.__file__).parent / "upgrades", scripts)
    (scripts / "versions" / "r0002_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '0002'\ndown_revision = {schema.REVISION!r}\n"
        "def upgrade():\n"
        "    op.add_column('runs', sa.Column('note', sa.Text()))\n"
        "    op.execute('INSERT INTO runs (id) VALUES (1)')\n"
    )
    monkeypatch.setattr("migrate.ledger.upgrade._SCRIPTS", scripts)
    with pytest.raises(LedgerError):
        upgrade(ledger_url)
    assert describe(ledger_url) == before
    Ledger.open(ledger_url).close()


def test_where_no_ledger_is_none_is_made_or_upgraded(ledger_url: str) -> None:
    """`status` on an empty workspace does not leave a database behind."""
    with pytest.raises(NoLedgerError, match="no ledger"):
        Ledger.open(ledger_url, create=False)
    with pytest.raises(NoLedgerError, match="no ledger"):
        upgrade(ledger_url)


def test_a_database_of_something_else_is_refused(ledger_url: str) -> None:
    """A slip in the URL does not put our tables beside somebody's own."""
    database = Database(ledger_url)
    database.prepare_file(create=True)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
    database.close()
    with pytest.raises(UsageError, match="something else"):
        Ledger.open(ledger_url)


def test_a_backup_is_a_ledger_of_one_moment(tmp_path: Path) -> None:
    """SQLite: the copy opens, holds the rows, is private, and takes no file's place."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger = Ledger.open(url)
    world = World.make(ledger)
    copy = tmp_path / "copy.sqlite"
    backup(url, copy)
    world.copy_all()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    restored = Ledger.open(f"sqlite:///{copy}", create=False)
    assert restored.plan_id(PLAN) == world.plan_id
    assert restored.batch(world.plan_id, 0).state == "pending"
    with pytest.raises(UsageError, match="there already"):
        backup(url, copy)
    ledger.close()
    restored.close()


def test_a_backup_of_postgresql_is_pg_dumps(
    postgres_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump where there is one, and its name where there is none."""
    with postgres_server.database() as url:
        Ledger.open(url).close()
        path = tmp_path / "ledger.dump"
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UsageError, match="pg_dump"):
            backup(url, path)
        assert not path.exists()
        monkeypatch.setenv("PATH", f"{postgres_server.programs}{os.pathsep}{tmp_path}")
        backup(url, path)
        listing = subprocess.run(
            [postgres_server.programs / "pg_restore", "--list", path], capture_output=True, text=True, check=True
        )
        assert "TABLE public verdicts" in listing.stdout
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_file_is_no_ledger(tmp_path: Path) -> None:
    """Bytes that are no database raise our error, and stay as they are."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all" * 400)
    with pytest.raises(LedgerError):
        Ledger.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"not a database")
