"""From a spec to its router, and what `migrate doctor` says where that is not to be had. It only reads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import routeworlds
import sqlalchemy
from pg import PostgresServer
from routes import Hook
from routeworlds import COLUMNS, KEY, TABLE, section, spec_of

from migrate.errors import ExitCode
from migrate.jobs.examining import examine_routing
from migrate.ledger import Ledger
from migrate.model import Role
from migrate.routing.sql import SqlRouter
from migrate.stores.probe import Check, CheckStatus

SQL = section("sql", url="env:ROUTES", table=TABLE, columns=COLUMNS)
NEVER_THERE = "postgresql://op:hush-hush@127.0.0.1:9/routes"


def examined(folder: Path, routing: str, **environment: str) -> Check:
    """What `doctor` says of this `[routing]`."""
    spec = spec_of(routing)
    ledger = f"sqlite:///{folder / 'ledger.sqlite'}"
    return examine_routing(spec, lambda: Ledger.open(ledger), environment, folder).check


def demand_failure(check: Check, code: ExitCode, *words: str) -> None:
    assert (check.status, check.exit) == (CheckStatus.FAIL, code), check
    assert check.fix
    for word in words:
        assert word in check.finding


def test_doctor_reads_routes_of_every_kind_and_changes_nothing(tmp_path: Path) -> None:
    """All well: what an unknown user's home is. No table has a row afterwards, and nothing but `read` was asked."""
    url = f"sqlite:///{tmp_path / 'p.sqlite'}"
    routeworlds.make_table(url, COLUMNS)
    argv = routeworlds.command_of(tmp_path / "state.json")
    with Hook(KEY.encode()).served() as hook:
        found = [
            examined(tmp_path, section("embedded")),
            examined(tmp_path, SQL, ROUTES=url),
            examined(tmp_path, section("http", url=hook.url, key="env:KEY"), KEY=KEY),
            examined(tmp_path, section("command", argv=argv)),
        ]
        assert {question["verb"] for _, question in hook.requests} == {"read"}
    assert [check.status for check in found] == [CheckStatus.OK] * 4
    assert all(check.finding.endswith("lives at us") for check in found)
    for database, table in ((url, TABLE), (f"sqlite:///{tmp_path / 'ledger.sqlite'}", "routes")):
        engine = sqlalchemy.create_engine(database)
        with engine.connect() as connection:
            of = sqlalchemy.table(table)
            assert connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(of)).scalar() == 0
        engine.dispose()


def test_all_that_is_wrong_with_a_table_is_told_at_once(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Columns that are not there, of another type, and users that may stand twice, each under its key."""
    with postgres_server.database() as url:
        demand_failure(examined(tmp_path, SQL, ROUTES=url), ExitCode.BAD_SPEC, "routing.sql.table", "no table")
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            quote = connection.dialect.identifier_preparer.quote
            connection.exec_driver_sql(
                f'CREATE TABLE {quote(TABLE)} ("order" text, "frozen by" text, {quote(COLUMNS["until"])} timestamptz)'
            )
            connection.exec_driver_sql(
                f"""CREATE UNIQUE INDEX a_part ON {quote(TABLE)} ("order") WHERE "order" > 'b'"""
            )
        engine.dispose()
        check = examined(tmp_path, SQL, ROUTES=url)
    keys = [f"routing.sql.columns.{key}: " for key in ("home", "until", "writers", "user")]
    demand_failure(check, ExitCode.BAD_SPEC, *keys, "4 problems", "is not unique", "BIGINT")
    assert "columns.token" not in check.finding


def test_a_table_that_we_may_not_read_is_77(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """With what to grant."""
    with postgres_server.database() as url:
        routeworlds.make_table(url, COLUMNS)
        role = f"reader_{tmp_path.name[:40]}".lower()
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.exec_driver_sql(f'CREATE ROLE "{role}" LOGIN')
        check = examined(tmp_path, SQL, ROUTES=url.replace("postgres@", f"{role}@"))
        with engine.begin() as connection:
            connection.exec_driver_sql(f'DROP ROLE "{role}"')
        engine.dispose()
    demand_failure(check, ExitCode.REFUSED, "permission denied")
    assert "GRANT" in check.fix.upper()


@pytest.mark.parametrize(
    ("url", "code", "word"),
    [
        (NEVER_THERE, ExitCode.UNREACHABLE, "cannot be reached"),
        ("mysql://op:hush-hush@db/routes", ExitCode.BAD_SPEC, "routing.sql.url"),
        ("hush-hush", ExitCode.BAD_SPEC, "routing.sql.url"),
        ("sqlite:///nowhere/hush.sqlite", ExitCode.BAD_SPEC, "there is no"),
        (None, ExitCode.BAD_SPEC, "no ROUTES"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_without_its_password(
    tmp_path: Path, url: str | None, code: ExitCode, word: str
) -> None:
    """And a file that is not there is not made."""
    check = examined(tmp_path, SQL, **({} if url is None else {"ROUTES": url}))
    demand_failure(check, code, word)
    assert "hush-hush" not in check.finding + check.fix
    assert not list(tmp_path.rglob("hush*"))


def test_a_hook_or_a_command_that_does_not_do_its_part_is_told(tmp_path: Path) -> None:
    """Nobody there, another key, no program, and a home that is no site of the spec."""
    http = section("http", url="http://127.0.0.1:9/", key="env:KEY", attempts=1)
    demand_failure(examined(tmp_path, http, KEY=KEY), ExitCode.UNREACHABLE, "gave no answer")
    demand_failure(examined(tmp_path, http, KEY="short"), ExitCode.BAD_SPEC, "shorter than")
    with Hook(b"another key than ours").served() as hook:
        check = examined(tmp_path, section("http", url=hook.url, key="env:KEY"), KEY=KEY)
    demand_failure(check, ExitCode.REFUSED, "signature")
    demand_failure(examined(tmp_path, section("command", argv=["./nowhere"])), ExitCode.BAD_SPEC, "cannot be started")
    argv = [sys.executable, "-S", "-E", "-c", """print('{"home": "mars"}')"""]
    check = examined(tmp_path, section("command", argv=argv))
    demand_failure(check, ExitCode.BAD_SPEC, "a site that this spec does not know")
    assert "hamar" in check.fix


def test_with_sources_at_several_sites_somebody_says_where_a_user_begins(tmp_path: Path) -> None:
    """`default_home`; without it no table is opened."""
    spec = spec_of(section("embedded"))
    elsewhere = spec.stores["us"].model_copy(update={"site": "singapore", "url": "file:stores/other"})
    two = spec.model_copy(update={"stores": {**spec.stores, "other": elsewhere}})
    assert len(two.by_role(Role.SOURCE)) == 2
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    check = examine_routing(two, lambda: Ledger.open(ledger), {}, tmp_path).check
    demand_failure(check, ExitCode.BAD_SPEC, "routing.default_home")
    said = two.model_copy(update={"routing": two.routing.model_copy(update={"default_home": "us"})})
    assert examine_routing(said, lambda: Ledger.open(ledger), {}, tmp_path).check.status is CheckStatus.OK


def blocks(language: str) -> list[str]:
    """The blocks of a language in the document on routing."""
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8").partition("\n## Routing\n")[2]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_documents_table_and_writers_are_what_a_freeze_expects(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """The statements as they are printed, on PostgreSQL: a writer is waited for, and gets no home while the user is frozen."""
    made, writers = blocks("sql")
    take, begin, end = (sqlalchemy.text(statement) for statement in writers.strip().rstrip(";").split(";\n\n"))
    sql = section("sql", url="env:ROUTES", columns={"writers": "writers"})
    with postgres_server.database() as url:
        engine = sqlalchemy.create_engine(
            url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(made)
            with routeworlds.opened(sql, tmp_path, ROUTES=url) as router:
                assert isinstance(router, SqlRouter)
                anna = {"user": "anna"}
                connection.execute(take, anna)
                assert connection.execute(begin, anna).scalar() == "us"
                looks: list[float] = []

                def sleep(seconds: float) -> None:
                    looks.append(seconds)
                    connection.execute(end, anna)

                router._sleep = sleep
                router.freeze("anna", "t1", 30)
                assert len(looks) == 1
                connection.execute(take, anna)
                assert connection.execute(begin, anna).scalar() is None
                router.flip("anna", "t1", "hamar")
                router.unfreeze("anna", "t1")
                assert connection.execute(begin, anna).scalar() == "hamar"
        engine.dispose()


def test_the_documents_questions_and_answers_are_those_that_are_sent(tmp_path: Path) -> None:
    """Word for word, in the order of the keys."""
    asked, answered = blocks("json")
    with Hook(KEY.encode()).served() as hook:
        with routeworlds.opened(section("http", url=hook.url, key="env:KEY"), tmp_path, KEY=KEY) as router:
            router.freeze("anna", "5b0c…", 30)
            router.flip("anna", "5b0c…", "hamar")
            router.unfreeze("anna", "5b0c…")
            router.read("anna")
        assert [json.loads(line) for line in asked.splitlines()] == [question for _, question in hook.requests]
        assert list(json.loads(answered)) == list(hook.platform.answer({"verb": "read", "user": "anna"}) or ())
