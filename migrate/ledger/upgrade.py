"""Bringing a ledger to this version, and backing it up. What the ledger's own commands call; nothing else loads Alembic."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from migrate.errors import NoLedgerError, UnreachableError, UsageError, VersionError
from migrate.ledger import schema
from migrate.ledger.engine import NO_LEDGER_REMEDY, Database, parse_url
from migrate.ledger.ledger import demand_known, revision
from migrate.ledger.patience import BUSY_TIMEOUT_SECONDS
from migrate.pauses import PausePoint, pause_at

_SCRIPTS = Path(__file__).parent / "upgrades"
_BACKUP_SECONDS = 24 * 3600  # of pg_dump: a ledger is gigabytes at most


def upgrade(url: str) -> tuple[str, str]:
    """Bring the ledger at `url` to this version, all or nothing; the versions before and after.

    NoLedgerError where there is no ledger, VersionError for one of a version that is not known here. No other process may have
    it open.
    """
    database = Database(url)
    try:
        database.prepare_file(create=False)
        with database.write() as connection:
            before = revision(connection)
            if before is None:
                raise NoLedgerError(f"there is no ledger in {database.display_url}", remedy=NO_LEDGER_REMEDY)
            demand_known(before, database.display_url)
            config = alembic_config()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:  # before it changes anything: it does not find the way from there
                raise VersionError(
                    f"the ledger {database.display_url} has version {before}, which no migrate has made",
                    remedy="Put a backup of it back, or name another ledger with --ledger.",
                ) from error
            pause_at(PausePoint.LEDGER_UPGRADED)
            after = revision(connection)
    finally:
        database.close()
    assert after == schema.REVISION, "a test holds the newest revision and the constant together"
    return before, after


def alembic_config() -> Config:
    """Alembic's configuration, without a file of its own. The connection goes into its `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def backup(url: str, path: Path) -> None:
    """Write a copy of the ledger, as of one moment, to the new file `path`, private to its owner. Runs may go on meanwhile.

    SQLite: its online backup. PostgreSQL: `pg_dump` in its custom format. UsageError where `path` exists or pg_dump is missing.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        source = Path(parsed.database or "")
        if not source.exists():
            raise NoLedgerError(f"there is no ledger at {source}", remedy=NO_LEDGER_REMEDY)
        _new_file(path)
        _backup_sqlite(source, path)
    else:
        program = shutil.which("pg_dump")
        if program is None:
            raise UsageError(
                "a PostgreSQL ledger is backed up by pg_dump, which is not on the PATH",
                remedy="install PostgreSQL's client programs (Debian: apt-get install postgresql-client), "
                "or let the server's own backups cover it",
            )
        _new_file(path)
        _backup_postgres(program, url, path)


def _new_file(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise UsageError(f"{path} is there already", remedy="name a new file for the backup") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _backup_sqlite(source: Path, path: Path) -> None:
    try:
        reader = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_SECONDS)
        writer = sqlite3.connect(path)
        try:
            # in one step, because a write to the source between two steps would start the copy again
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode=DELETE")
        finally:
            writer.close()
            reader.close()
    except sqlite3.Error as error:
        path.unlink(missing_ok=True)
        raise UnreachableError(f"the ledger {source} cannot be backed up: {error}") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _backup_postgres(program: str, url: str, path: Path) -> None:
    parsed = parse_url(url)
    environment = dict(os.environ)
    if parsed.password is not None:
        environment["PGPASSWORD"] = str(parsed.password)  # arguments are seen by every user of the machine
    target = parsed.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    try:
        subprocess.run(
            [program, "--format=custom", "--no-password", f"--file={path}", f"--dbname={target}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BACKUP_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        path.unlink(missing_ok=True)
        lines = error.stderr.strip().splitlines() or ["pg_dump failed"]
        raise UnreachableError(f"the ledger cannot be backed up: {lines[-1]}") from error
    except subprocess.TimeoutExpired as error:
        path.unlink(missing_ok=True)
        raise UnreachableError("the ledger cannot be backed up: pg_dump did not end within a day") from error
