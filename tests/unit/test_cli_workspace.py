"""`init`, `doctor` and `ledger`: a workspace from nothing, what is wrong with it, and its ledger."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from commands import NOW, SPEC, Done, Run, build_workspace, is_harmless, runner, runs_of
from packaging.specifiers import SpecifierSet

from migrate.errors import ExitCode
from migrate.jobs.examining import TESTED, examine_here
from migrate.privacy import make_key
from migrate.spec import load_spec, parse_spec
from migrate.stores.base import Capabilities
from migrate.stores.capabilities import load_capabilities
from migrate.stores.probe import Check, CheckStatus
from migrate.stores.probe_target import TargetTrial
from migrate.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MIGRATE_COUNTRY", "MIGRATE_LEDGER", "MIGRATE_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
    structlog.reset_defaults()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return runner(capsys, tmp_path)


# init


def test_init_writes_a_workspace(run: Run, tmp_path: Path) -> None:
    """A spec that can be read, its schema, a private folder with a key, and a line for git; then it says what is next."""
    place = tmp_path / "new"
    done = run("init", str(place))
    assert done.code == 0
    assert load_spec(place / "plans/clover.toml").name == "clover"
    assert "properties" in json.loads((place / "plans/spec.schema.json").read_text())
    assert (place / "plans/clover.toml").read_text().startswith("#:schema ./spec.schema.json\n")
    assert (place / ".gitignore").read_text() == ".migrate/\n"
    assert stat.S_IMODE((place / ".migrate").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / ".migrate/pseudonym.key").stat().st_mode) == 0o600
    assert "next: fill in" in done.err
    assert "MIGRATE_COUNTRY" in done.err
    assert f"wrote  {place / '.migrate/ledger.sqlite'}" in done.out
    assert [(row.verb, row.exit_code) for row in runs_of(place)] == [("init", 0)]
    assert "ledger" not in run("init", str(place)).out


def test_init_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    """A spec that was filled in, a key and other lines for git stay; only what is missing is added."""
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/clover.toml").write_text("mine")
    (tmp_path / ".gitignore").write_text("*.pyc")
    first = run("init", "--json").answer
    key = (tmp_path / ".migrate/pseudonym.key").read_bytes()
    assert first["kept"] == [str(tmp_path / "plans/clover.toml")]
    second = run("init", "--json").answer
    assert second["written"] == []
    assert (tmp_path / "plans/clover.toml").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n.migrate/\n"
    assert (tmp_path / ".migrate/pseudonym.key").read_bytes() == key


@pytest.mark.parametrize("words", [("show",), ("diff", "a", "b"), ("run",), ("explain", "anna")])
def test_where_no_workspace_is_the_way_to_one_is_told(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Often it is the wrong folder; nothing is made there."""
    done = run(*words)
    assert done.code == ExitCode.USAGE
    assert "migrate init" in done.err
    assert list(tmp_path.iterdir()) == []


def test_init_by_force_keeps_the_key(run: Run, tmp_path: Path) -> None:
    """--force writes the spec anew. With another key, the pseudonyms in older logs would mean nothing."""
    run("init")
    key = (tmp_path / ".migrate/pseudonym.key").read_bytes()
    (tmp_path / "plans/clover.toml").write_text("mine")
    assert run("init", "--force").code == 0
    assert load_spec(tmp_path / "plans/clover.toml").name == "clover"
    assert (tmp_path / ".migrate/pseudonym.key").read_bytes() == key


def test_init_where_nothing_can_be_written_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    """No traceback for a path that is a file."""
    (tmp_path / "file").write_text("")
    assert run("init", str(tmp_path / "file")).code == ExitCode.USAGE


def test_the_first_doctor_asks_for_the_country(run: Run, tmp_path: Path) -> None:
    """Straight after init nobody has said where the workers run: refused, with the way to say it."""
    run("init")
    done = run("doctor", str(tmp_path / "plans/clover.toml"))
    assert done.code == ExitCode.REFUSED
    assert "MIGRATE_COUNTRY" in done.out
    assert "there is no directory.parquet" in done.out


# doctor


def checks(done: Done) -> dict[tuple[str, str], str]:
    return {(check["where"], check["check"]): check["status"] for check in done.answer["checks"]}


def test_doctor_probes_every_store_and_writes_down_what_it_can(run: Run, tmp_path: Path) -> None:
    """All well: exit 0, a line a check, the capabilities file, a row in runs, and nothing left at a target."""
    spec = build_workspace(tmp_path)
    (tmp_path / ".migrate").mkdir()
    make_key(tmp_path / ".migrate/pseudonym.key")
    done = run("doctor", str(spec))
    assert done.code == 0, done.out
    for name in ("here", "us", "singapore", "dublin-1", "hamar"):
        assert f"\n{name} " in done.out
    found = load_capabilities(Workspace(tmp_path).capabilities("small"), load_spec(spec).stores)
    assert set(found) == {"us", "singapore", "dublin-1", "hamar"}
    assert found["hamar"].tags
    assert runs_of(tmp_path)[0].verb == "doctor"
    left = [path for path in (tmp_path / "stores/hamar").rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path).as_posix() for path in left] == ["stores/hamar/.migrate-store/lock"]


def test_doctor_answers_as_one_document(run: Run, tmp_path: Path) -> None:
    """With --json: the checks, the capabilities and the exit code."""
    done = run("doctor", str(build_workspace(tmp_path)), "--json")
    assert done.answer["exit_code"] == done.code == 0
    assert checks(done)["here", "ledger"] == "ok"
    assert checks(done)["here", "routing"] == "ok"
    assert checks(done)["here", "pseudonym key"] == "warn"
    assert done.answer["capabilities"]["us"]["metadata"] is True


def test_routing_that_cannot_be_had_is_told_and_the_stores_are_probed(run: Run, tmp_path: Path) -> None:
    """Its fix, its exit code, and all else as ever."""
    spec = build_workspace(tmp_path, spec=SPEC + '[routing]\nkind = "command"\ncommand.argv = ["./nowhere"]\n')
    done = run("doctor", str(spec), "--json")
    assert done.code == ExitCode.BAD_SPEC
    assert [name for (_, name), status in checks(done).items() if status == "fail"] == ["routing"]
    assert set(done.answer["capabilities"]) == {"us", "singapore", "dublin-1", "hamar"}


def test_a_store_that_is_not_there_is_69_and_the_others_are_probed(run: Run, tmp_path: Path) -> None:
    """One failed line does not hide the others, and what is not known is not written down."""
    spec = build_workspace(tmp_path)
    (tmp_path / "stores/hamar").rmdir()
    done = run("doctor", str(spec), "--json")
    assert done.code == ExitCode.UNREACHABLE
    found = checks(done)
    assert "fail" in {status for (where, _), status in found.items() if where == "hamar"}
    assert found["dublin-1", "tags"] == "ok"
    assert "hamar" not in load_capabilities(Workspace(tmp_path).capabilities("small"), load_spec(spec).stores)
    assert runs_of(tmp_path)[0].exit_code == ExitCode.UNREACHABLE


def test_a_store_that_cannot_be_reached_keeps_what_was_found_of_it(run: Run, tmp_path: Path) -> None:
    """A later look at a store that is down says nothing of what it can do; what failed stands once more at the end."""
    spec = build_workspace(tmp_path)
    assert run("doctor", str(spec)).code == 0
    path = Workspace(tmp_path).capabilities("small")
    before = load_capabilities(path, load_spec(spec).stores)
    (tmp_path / "stores/hamar").rename(tmp_path / "away")
    done = run("doctor", str(spec))
    assert done.code == ExitCode.UNREACHABLE
    assert load_capabilities(path, load_spec(spec).stores) == before
    last = done.out.splitlines()[-3:]
    assert last[0].startswith("failed: hamar, ")
    assert last[1].startswith("  fix: ")
    assert "1 failed" in last[2]


def test_no_country_is_said_once_and_not_for_each_store(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where no store is opened none is asked, and what was found before stays."""
    spec = build_workspace(tmp_path)
    assert run("doctor", str(spec)).code == 0
    monkeypatch.setenv("MIGRATE_COUNTRY", "US")
    done = run("doctor", str(spec), "--json")
    assert done.code == ExitCode.REFUSED
    assert [where for (where, _), status in checks(done).items() if status == "fail"] == ["here"]
    assert set(done.answer["capabilities"]) == {"us", "singapore", "dublin-1", "hamar"}


def test_an_empty_source_is_a_warning_with_a_way_out(run: Run, tmp_path: Path) -> None:
    """Nothing would move, and nothing could be tried: look at the url."""
    spec = build_workspace(tmp_path, spec=SPEC.replace("file:stores/us", "file:stores/empty"))
    (tmp_path / "stores/empty").mkdir()
    (check,) = [
        check
        for check in run("doctor", str(spec), "--json").answer["checks"]
        if (check["where"], check["check"]) == ("us", "read")
    ]
    assert check["status"] == "warn"
    assert "url" in check["fix"]


@pytest.mark.parametrize(("country", "code"), [("US", ExitCode.REFUSED), ("ie", ExitCode.DONE)])
def test_the_country_of_the_environment_goes_before_the_specs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, country: str, code: ExitCode
) -> None:
    """Invariant 7: a machine in the United States opens no store, whatever the spec declares."""
    monkeypatch.setenv("MIGRATE_COUNTRY", country)
    done = run("doctor", str(build_workspace(tmp_path)), "--json")
    assert done.code == code
    if code is ExitCode.REFUSED:
        assert done.answer["capabilities"] == {}
        assert {where for where, _ in checks(done)} == {"here"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_doctor_that_is_stopped_leaves_nothing_and_has_its_end_in_the_ledger(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Its own words, exit code 130 in the ledger too, and no object of a trial at any target."""
    spec = build_workspace(tmp_path)
    joins, turn = TargetTrial._joins_parts, itertools.count()

    def joins_and_is_stopped(trial: TargetTrial) -> bool:
        if next(turn) == 0:  # a second signal would end the process at once
            os.kill(os.getpid(), number)
        return joins(trial)

    monkeypatch.setattr(TargetTrial, "_joins_parts", joins_and_is_stopped)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        done = run("doctor", str(spec))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.code == ExitCode.INTERRUPTED
    assert "stopped while looking at the stores" in done.err
    assert [(row.verb, row.exit_code) for row in runs_of(tmp_path)] == [("doctor", ExitCode.INTERRUPTED)]
    for name in ("dublin-1", "hamar"):
        left = [path for path in (tmp_path / "stores" / name).rglob("*") if path.is_file()]
        assert [path.name for path in left] == ["lock"]


def test_a_bad_spec_is_78_with_all_its_problems(run: Run, tmp_path: Path) -> None:
    """The same words as everywhere else."""
    spec = build_workspace(tmp_path, spec=SPEC.replace('"IE"', '"Ireland"').replace("[run]", "[runs]"))
    done = run("doctor", str(spec), "--json")
    assert (done.code, done.out) == (ExitCode.BAD_SPEC, "")
    assert len(done.error["problems"]) > 2


def test_a_key_that_others_can_read_is_refused(run: Run, tmp_path: Path) -> None:
    """Invariant 10: who has the key can try out ids."""
    spec = build_workspace(tmp_path)
    (tmp_path / ".migrate").mkdir()
    make_key(tmp_path / ".migrate/pseudonym.key")
    (tmp_path / ".migrate/pseudonym.key").chmod(0o644)
    done = run("doctor", str(spec))
    assert done.code == ExitCode.REFUSED
    assert "chmod 600" in done.out


def test_a_ledger_of_another_version_is_told_with_the_rest(run: Run, tmp_path: Path) -> None:
    """Invariant 12: a line of the table like any other, and the stores are probed all the same."""
    spec = build_workspace(tmp_path)
    run("doctor", str(spec))
    with sqlite3.connect(tmp_path / ".migrate/ledger.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    done = run("doctor", str(spec), "--json")
    assert done.code == ExitCode.BAD_SPEC
    assert checks(done)["here", "ledger"] == "fail"
    assert checks(done)["hamar", "tags"] == "ok"


def test_what_a_store_answers_does_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    """A folder's name is data as well."""
    spec = build_workspace(tmp_path, spec=SPEC.replace("file:stores/hamar", "file:stores/ha\\u001b[2Jmar[bold]"))
    done = run("doctor", str(spec))
    assert done.code == ExitCode.UNREACHABLE
    assert "\\x1b[2Jmar[bold]" in done.out
    assert is_harmless(done.out)


def here(tmp_path: Path, spec: str, *, ledger_url: str | None = None) -> dict[str, Check]:
    workspace = Workspace(tmp_path)
    url = ledger_url or workspace.ledger_url
    found = examine_here(parse_spec(spec, place="x"), workspace, {}, country="IE", ledger_url=url, now=NOW)
    return {finding.check.name: finding.check for finding in found}


def test_a_directory_that_is_too_old_is_told_before_planning(tmp_path: Path) -> None:
    """The same limit that planning has."""
    (tmp_path / "users.csv").write_text("")
    old = here(tmp_path, SPEC.replace("36500d", "48h"))["directory"]
    assert (old.status, old.exit) == (CheckStatus.FAIL, ExitCode.BAD_SPEC)
    assert here(tmp_path, SPEC)["directory"].status is CheckStatus.OK


def huge_directory(tmp_path: Path, size_bytes: int) -> None:
    """A directory of 14 bytes a user, whose end is a hole in the file: it takes no room itself."""
    with (tmp_path / "users.csv").open("wb") as file:
        file.write(b"user_id,country\n" + b"u00000001,IE,\n" * 80_000)
        file.truncate(size_bytes)


def test_a_disk_that_cannot_hold_what_is_known_to_come_is_told(tmp_path: Path) -> None:
    """Five gigabytes are no answer to a directory of terabytes: by its size the ledger alone would not fit."""
    huge_directory(tmp_path, 14 * 10**6)
    fits = here(tmp_path, SPEC)["disk"]
    assert fits.status is not CheckStatus.FAIL
    assert "about 144 MiB wanted" in fits.finding
    huge_directory(tmp_path, 14 * 2 * shutil.disk_usage(tmp_path).free // 151)
    full = here(tmp_path, SPEC)["disk"]
    assert (full.status, full.exit) == (CheckStatus.FAIL, ExitCode.UNREACHABLE)
    assert "users in the ledger" in full.finding
    on_postgres = here(tmp_path, SPEC, ledger_url="postgresql://clover@127.0.0.1/ledger")["disk"]
    assert on_postgres.status is not CheckStatus.FAIL
    assert "the ledger" not in on_postgres.finding


def test_a_ledger_on_another_disk_is_asked_of_that_disk(tmp_path: Path) -> None:
    """The workspace's own says nothing of it, and what the ledger has already is not wanted again."""
    folders = [path for path in map(Path, ("/dev/shm", "/var/tmp", Path.cwd())) if path.is_dir()]
    others = [path for path in folders if path.stat().st_dev != tmp_path.stat().st_dev]
    if not others:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir=others[0]) as there:
        ledger = Path(there, "deeper", "ledger.sqlite")
        huge_directory(tmp_path, 14 * 2 * shutil.disk_usage(there).free // 151)
        found = here(tmp_path, SPEC, ledger_url=f"sqlite:///{ledger}")
        assert found["ledger's disk"].status is CheckStatus.FAIL
        assert "users" not in found["disk"].finding
        ledger.parent.mkdir()
        with ledger.open("wb") as file:
            file.truncate(4 * shutil.disk_usage(there).free)
        assert here(tmp_path, SPEC, ledger_url=f"sqlite:///{ledger}")["ledger's disk"].status is not CheckStatus.FAIL


def test_a_plan_says_how_much_room_planning_again_takes(run: Run, tmp_path: Path) -> None:
    """The objects at the sources and the users that the ledger gets, as they were found."""
    spec = build_workspace(tmp_path)
    assert run("plan", str(spec)).code == 0
    census = run("show", "--json").answer["census"]["us"]["listed"]
    assert f"wanted: {census:,} object" in here(tmp_path, SPEC)["disk"].finding


def test_a_library_that_was_never_tested_is_another_version_and_no_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """78, as for a plan or a ledger of another version."""
    monkeypatch.setitem(TESTED, "duckdb", ((99,), (100,)))
    found = here(tmp_path, SPEC)["duckdb"]
    assert (found.status, found.exit) == (CheckStatus.FAIL, ExitCode.BAD_SPEC)


def test_a_directory_without_its_checksum_is_told_before_planning(tmp_path: Path) -> None:
    """Planning would stop there."""
    (tmp_path / "users.csv").write_text("")
    spec = SPEC.replace('path = "users.csv"', 'path = "users.csv"\nchecksummed = true')
    found = here(tmp_path, spec)["directory"]
    assert (found.status, found.exit) == (CheckStatus.FAIL, ExitCode.BAD_SPEC)
    assert "sha256sum users.csv > users.csv.sha256" in found.fix
    (tmp_path / "users.csv.sha256").write_text("")
    assert here(tmp_path, spec)["directory"].status is CheckStatus.OK


def test_codes_that_nobody_has_decided_are_told(tmp_path: Path) -> None:
    """Planning would stop at the first user who lives there."""
    found = here(tmp_path, SPEC + '[scope.decisions]\nCH = "out"\nSJ = "in"\n')["decisions"]
    assert found.status is CheckStatus.WARN
    assert found.finding.startswith("GG, GI, IM, JE:")


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [("http://127.0.0.1:9000", False), ("http://10.0.0.7:9000", True), ("https://s3.example", False)],
)
def test_a_way_that_is_not_encrypted_is_told(tmp_path: Path, endpoint: str, warned: bool) -> None:
    """Everybody on the way could read the bodies; on this machine there is no way."""
    spec = SPEC.replace(
        '"file:stores/hamar"',
        f'"s3://hamar/", credentials = "env:HAMAR", region = "eu-north-1", endpoint = "{endpoint}"',
    )
    assert ("transport hamar" in here(tmp_path, spec)) is warned


def test_the_tested_versions_are_those_that_are_pinned() -> None:
    """What doctor takes for tested is what pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, (least, below) in TESTED.items():
        pinned = next(line for line in project["dependencies"] if line.startswith(name))
        wanted = f">={'.'.join(map(str, least))},<{'.'.join(map(str, below))}"
        assert SpecifierSet(pinned.removeprefix(name)) == SpecifierSet(wanted)


# ledger


def test_a_ledger_is_backed_up_and_upgraded(run: Run, tmp_path: Path) -> None:
    """A backup is a private copy that opens; an upgrade of a ledger that is up to date changes nothing."""
    run("init")
    done = run("ledger", "backup", str(tmp_path / "copy.sqlite"), "--json")
    assert done.answer["size_bytes"] == (tmp_path / "copy.sqlite").stat().st_size > 0
    assert stat.S_IMODE((tmp_path / "copy.sqlite").stat().st_mode) == 0o600
    upgraded = run("ledger", "upgrade", "--json").answer
    assert upgraded["before"] == upgraded["after"]
    assert runs_of(tmp_path)[0].verb == "ledger upgrade"
    again = run("ledger", "backup", str(tmp_path / "copy.sqlite"))
    assert again.code == ExitCode.USAGE


def test_a_ledger_that_is_not_there_is_neither_backed_up_nor_made(run: Run, tmp_path: Path) -> None:
    """A wrong folder must not end with an empty backup and a good exit code."""
    for words in (("backup", str(tmp_path / "copy.sqlite")), ("upgrade",)):
        assert run("ledger", *words).code != 0
    assert list(tmp_path.iterdir()) == []


def test_capabilities_of_a_stranger_are_none() -> None:
    """What nobody has probed can do nothing."""
    assert not any(getattr(Capabilities(), name) for name in Capabilities.__slots__)
