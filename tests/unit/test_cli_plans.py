"""`plan`, `plans`, `show`, `explain` and `diff`, through the real entry point on folders."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from commands import HOSTILE_KEY, HOSTILE_USER, SPEC, Run, build_workspace, fill, is_harmless, runner, runs_of

from migrate.cli.output import safe
from migrate.errors import ExitCode
from migrate.ledger import Ledger
from migrate.planner import document as planner_document
from migrate.planner.summary import Blocker, Forecast, PlanSummary
from migrate.report.plan_view import FINDINGS, accept_word, closed_lines, forecast_lines, left_out_lines
from migrate.workspace import Workspace


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


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return str(build_workspace(tmp_path))


def test_a_plan_is_built_and_shown(run: Run, spec: str, tmp_path: Path) -> None:
    """Users, sites, waves, census, blockers, and the very command that accepts them; a row in runs."""
    done = run("plan", spec)
    assert done.code == 0, done.err
    for part in ("2 planned", "1 out", "IE", "dublin-1", "unclassified", "blocked by"):
        assert part in done.out
    (digest,) = [path.name for path in (tmp_path / ".migrate/plans").iterdir()]
    assert f"plan {digest[:12]} (small)" in done.out
    accept = run("show", "--json").answer["blockers"][0]["accept"]
    assert f"  migrate run {digest[:12]} --accept {accept}\n" in done.out
    assert accept.startswith("unclassified:")
    assert [(row.verb, row.exit_code, row.arguments) for row in runs_of(tmp_path)] == [("plan", 0, {"spec": spec})]


def test_a_dry_run_builds_nothing(run: Run, spec: str, tmp_path: Path) -> None:
    """The same numbers and the same digest, no plan, and no row in runs."""
    dry = run("plan", spec, "--dry-run", "--json").answer
    assert dry["dry_run"] is True
    assert run("plans", "--json").answer == {"plans": []}
    assert not (tmp_path / ".migrate/ledger.sqlite").exists()
    built = run("plan", spec, "--json").answer
    assert built["digest"] == dry["digest"]
    assert {**built, "dry_run": True} == dry | {name: built[name] for name in ("folder", "built_at", "taken_elsewhere")}


def test_stdout_is_data_and_stderr_is_not(run: Run, spec: str) -> None:
    """With --json stdout is one document and every line on stderr is JSON."""
    done = run("plan", spec, "--json")
    assert done.answer["users"]["planned"] == 2
    assert all(line.startswith("{") for line in done.err.splitlines())
    assert "planning" in done.err
    assert "store_opened" not in done.err
    assert "store_opened" in run("--debug", "plan", spec, "--json").err


def test_no_log_line_names_a_user_or_a_key(run: Run, spec: str) -> None:
    """Invariant 10: planning says on stderr what it is at, and of whom not a word."""
    err = run("--debug", "plan", spec).err
    assert "planning" in err
    for secret in ("anna", "bert", ".jpg", "odd/"):
        assert secret not in err


def test_the_newest_plan_is_the_default(run: Run, spec: str) -> None:
    """`show` without a name shows what was built last; with the start of a digest, that plan."""
    first = run("plan", spec, "--json").answer["digest"]
    Path(spec).write_text(SPEC + "[waves]\ncount = 2\n")
    second = run("plan", spec, "--json").answer["digest"]
    assert first != second
    assert run("show", "--json").answer["digest"] == second
    assert run("show", first[:6], "--json").answer["digest"] == first
    listed = run("plans", "--json").answer["plans"]
    assert [row["digest"] for row in listed] == [second, first]
    assert first[:12] in run("plans").out


def test_a_plan_that_cannot_be_read_does_not_hide_the_others(run: Run, spec: str, tmp_path: Path) -> None:
    """It is told, the others are listed, and the exit code says that something is broken."""
    run("plan", spec)
    broken = tmp_path / ".migrate/plans/0123456789abcdef"
    broken.mkdir()
    (broken / "plan.json").write_text("{}")
    done = run("plans")
    assert done.code == 5
    assert "small" in done.out
    assert "0123456789abcdef" in done.err
    listed = run("plans", "--json")
    assert listed.code == 5
    assert ["problem" in row for row in listed.answer["plans"]] == [False, True]


def test_planning_makes_no_workspace(run: Run, spec: str, tmp_path: Path) -> None:
    """A misspelt --workspace is not filled with a ledger."""
    for options in ((), ("--dry-run",)):
        done = run("--workspace", str(tmp_path / "nowhere"), "plan", spec, *options)
        assert done.code == ExitCode.USAGE
        assert "migrate init" in done.err
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_workspace_says_how_to_begin(run: Run) -> None:
    """No table without rows."""
    done = run("plans")
    assert (done.code, done.out) == (0, "")
    assert "migrate plan SPEC" in done.err


def test_an_old_plan_of_another_version_is_in_nobodys_way(run: Run, spec: str, tmp_path: Path) -> None:
    """The newest plan is the default as before. If the other version's is the newest, it is 78, and the others are named: none
    of them is taken for it (Invariant 12)."""
    digest = run("plan", spec, "--json").answer["digest"]
    folder = tmp_path / ".migrate/plans" / digest[:16]
    foreign = tmp_path / ".migrate/plans/0123456789abcdef"
    foreign.mkdir()
    document = json.loads((folder / "plan.json").read_text()) | {"format": 0}
    for built_at, code in (("2020-01-01T00:00:00+00:00", 0), ("2120-01-01T00:00:00+00:00", 78)):
        (foreign / "plan.json").write_text(json.dumps(document | {"built_at": built_at}))
        for words in (("show",), ("status",), ("explain", "anna")):
            done = run(*words)
            assert done.code == code, done.err
            assert (digest[:12] in done.err) == (code == 78)
        assert run("show", digest[:12]).code == 0


def test_a_user_is_explained(run: Run, spec: str) -> None:
    """The rule, the home, the backup, and what lost."""
    run("plan", spec)
    done = run("explain", "anna")
    out = done.out
    assert "once it runs, `migrate status --user -`" in done.err, "nothing of it was run yet"
    for part in (
        "user anna",
        "residence  IE",
        "eea-uk-1/eu",
        "rule everyone",
        "home dublin-1",
        "backup hamar",
        "chosen",
    ):
        assert part in out
    answer = run("explain", "anna", "--json").answer
    assert answer["user"]["home"] == "dublin-1"


def test_a_user_who_stays_is_explained_too(run: Run, spec: str) -> None:
    """Out of scope, and the rule that says so; a run knows nothing of the user."""
    run("plan", spec)
    out = run("explain", "carl").out
    for part in ("user carl", "state      out", "residence  US", "scope      eea-uk-1/outside"):
        assert part in out
    assert "placement" not in out
    assert run("explain", "carl", "--json").answer["user"]["state"] == "out"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("anna,IE,active,true", "is on hold in the directory"),
        ("anna,IE,leaving,false", "a status that is not among scope.statuses"),
        ("anna,,active,false", "has no country of residence"),
        ("anna,XX,active,false", "no code of ISO 3166-1"),
        ("anna,SJ,active,false", "lives where scope.decisions says review"),
    ],
)
def test_why_somebody_waits_is_said_in_words(run: Run, tmp_path: Path, row: str, words: str) -> None:
    """On hold or in review: the reason, and what would change it; who moves has none."""
    text = SPEC.replace("[[layout", '[directory.columns]\nhold = "hold"\nstatus = "status"\n[[layout', 1)
    spec = build_workspace(tmp_path, spec=text + '[scope.decisions]\nSJ = "review"\n')
    (tmp_path / "users.csv").write_text(f"user_id,country,status,hold\n{row}\nbert,IE,active,false\n", newline="")
    run("plan", str(spec))
    assert words in run("explain", "anna").out
    assert "reason" not in run("explain", "bert").out


def test_a_users_id_can_come_from_stdin(run: Run, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 10: so that it stands in no list of processes."""
    run("plan", spec)
    monkeypatch.setattr("sys.stdin", io.StringIO("bert\n"))
    assert "user bert" in run("explain", "-").out


def test_a_user_whom_the_plan_does_not_have_is_a_usage_error(run: Run, spec: str) -> None:
    """The message does not repeat the id: it may end in a log."""
    run("plan", spec)
    done = run("explain", "nobody-here")
    assert done.code == ExitCode.USAGE
    assert "nobody-here" not in done.err


def test_two_plans_are_compared(run: Run, spec: str, tmp_path: Path) -> None:
    """One more object and another wave count are told, with the spec's key."""
    before = run("plan", spec, "--json").answer["digest"]
    fill(tmp_path, "us", ["users/anna/more.jpg"])
    Path(spec).write_text(SPEC + "[waves]\ncount = 2\n")
    after = run("plan", spec, "--json").answer["digest"]
    out = run("diff", before[:12], after[:12]).out
    assert "copies added" in out
    assert "waves.count" in out
    assert run("diff", before[:12], after[:12], "--json").answer["copies_added"]["copies"] == 2
    assert "the same" in run("diff", after, after).out


def test_a_changed_rule_is_told_by_its_name_and_no_list_is_repeated(run: Run, spec: str) -> None:
    """Of two lists of rules: which rule, and which key of it; one that was added; and another order."""
    more = '[[layout.rules]]\nname = "odd"\npattern = "odd/{rest}"\nshared = true\n'
    text = SPEC.replace("[[placement.rules]]", f"{more}[[placement.rules]]")
    Path(spec).write_text(text)
    before = run("plan", spec, "--json").answer["digest"]
    Path(spec).write_text(text.replace('category = "restricted"', 'category = "allowable"'))
    after = run("plan", spec, "--json").answer["digest"]
    changed = run("diff", before, after, "--json").answer["spec"]
    assert [(one["key"], one["before"], one["after"]) for one in changed] == [
        ("layout.rules.all.category", "restricted", "allowable")
    ]
    Path(spec).write_text(SPEC)
    less = run("plan", spec, "--json").answer["digest"]
    assert [one["key"] for one in run("diff", before, less, "--json").answer["spec"]] == ["layout.rules.odd"]
    assert "layout.rules.odd" in run("diff", before, less).out
    first = text.index("[[layout.rules]]")
    Path(spec).write_text(text[:first] + more + text[first:].replace(more, ""))
    turned = run("plan", spec, "--json").answer["digest"]
    assert [one["key"] for one in run("diff", before, turned, "--json").answer["spec"]] == ["layout.rules: order"]


def test_what_blocks_can_be_listed_by_name(run: Run, spec: str, tmp_path: Path) -> None:
    """An operator looks at the keys before accepting them by count and digest. Before a plan is built, too."""
    fill(tmp_path, "us", ["users/nobody/1.jpg"])
    run("plan", spec)
    listed = run("show", "--list", "unclassified", "--json").answer
    assert {row["key"] for row in listed["findings"]} == {HOSTILE_KEY}
    assert listed["count"] == len(listed["findings"])
    assert run("plan", spec, "--list", "unclassified").code == ExitCode.USAGE
    assert run("plan", spec, "--dry-run", "--list", "nope").code == ExitCode.USAGE
    before = run("plan", spec, "--dry-run", "--list", "unclassified", "--json").answer
    assert before["listed"] == listed["findings"]
    dry = run("plan", spec, "--dry-run")
    assert "migrate plan SPEC --dry-run --list unclassified\n" in dry.out
    assert "odd/" not in dry.out, "no key that was not asked for"
    assert "odd/" in run("plan", spec, "--dry-run", "--list", "unclassified").out
    assert run("show", "--list", "unclassified").out.split()[:3] == ["store", "key", "count"]
    assert run("show", "--list", "orphan").out.split()[:3] == ["store", "user", "count"]
    wrong = run("show", "--list", "nope")
    assert wrong.code == ExitCode.USAGE
    assert "unclassified" in wrong.err


def test_an_empty_source_does_not_run_until_somebody_accepts_it(run: Run, tmp_path: Path) -> None:
    """Refused with 77 and the word that accepts it; without the source's objects there was nothing to verify."""
    spec = build_workspace(tmp_path)
    for store in ("us", "singapore"):
        shutil.rmtree(tmp_path / "stores" / store)
        (tmp_path / "stores" / store).mkdir()
    assert run("plan", str(spec)).code == 0
    refused = run("run")
    assert (refused.code, refused.out) == (ExitCode.REFUSED, "")
    assert "1 nothing_owned" in refused.err
    assert "it holds no key" in run("show", "--list", "nothing_owned").out
    (blocker,) = run("show", "--json").answer["blockers"]
    assert run("run", "--accept", blocker["accept"]).code == 0
    ledger = Ledger.open(Workspace(tmp_path).ledger_url, create=False)
    (row,) = ledger.plans()
    assert row.entry.users == 2  # who is out of scope has no row
    ledger.close()


def test_hostile_users_and_keys_do_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    """Shown with their escapes, by every command that shows them."""
    spec = str(build_workspace(tmp_path, users={HOSTILE_USER: "IE", "bert": "XX"}))
    outputs = [run("plan", spec), run("show"), run("show", "--list", "unclassified"), run("explain", HOSTILE_USER)]
    for done in outputs:
        assert done.code == 0, done.err
        assert is_harmless(done.out)
        assert is_harmless(done.err)
    assert safe(HOSTILE_KEY) in outputs[2].out
    assert safe(HOSTILE_USER) in outputs[3].out


def test_a_plan_that_policy_forbids_is_77_and_recorded(run: Run, tmp_path: Path) -> None:
    """A user in a place that nobody has decided on stops planning; the row in runs says so."""
    spec = build_workspace(tmp_path, users={"anna": "IE", "carla": "CH"})
    done = run("plan", str(spec))
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert "CH (1)" in done.err
    assert "next: Say" in done.err
    assert runs_of(tmp_path)[0].exit_code == ExitCode.REFUSED
    assert run("plans", "--json").answer == {"plans": []}


def test_a_directory_that_is_not_there_is_78(run: Run, spec: str, tmp_path: Path) -> None:
    """Invariant 4: no input, no plan."""
    (tmp_path / "users.csv").unlink()
    assert run("plan", spec).code == ExitCode.BAD_SPEC


def test_stores_that_nobody_probed_are_told(run: Run, spec: str) -> None:
    """Of an S3 store without a probe the least is assumed, and the operator hears it; a folder needs none."""
    assert run("plan", spec, "--dry-run", "--json").answer["unprobed_stores"] == []


def test_every_kind_of_finding_has_its_words() -> None:
    """The kinds that the planner writes, read from its own sources, are those that are explained."""
    planner = Path(planner_document.__file__).parent
    written = set(re.findall(r"(?:SELECT|'kind':) '(\w+)'", (planner / "sql/findings.sql").read_text(encoding="utf-8")))
    written |= set(re.findall(r"'kind': '(\w+)'", (planner / "sql/readable.sql").read_text(encoding="utf-8")))
    written |= set(
        re.findall(r"^    '(\w+)',$", (planner / "sql/findings.sql").read_text(encoding="utf-8"), re.MULTILINE)
    )
    source = inspect.getsource(planner_document)
    written |= set(re.findall(r"INSERT INTO findings VALUES \('(\w+)'", source))
    source = inspect.getsource(planner_document.gather_findings)
    written |= set(re.findall(r"\(\"(\w+)\", \w+\.", source))
    written |= set(re.findall(r"rows\.append\(\(\"(\w+)\"", source))
    written |= {kind for names in re.findall(r"for kind in \((.+?)\)", source) for kind in re.findall(r"\w+", names)}
    assert written == set(FINDINGS)


SUMMARY = PlanSummary(
    digest="ab" * 32,
    name="x",
    built_at="2026-11-24T00:00:00+00:00",
    users={"planned": 1},
    objects=1,
    copies=2,
    size_bytes=2,
    batches=1,
    inputs=[
        {"input": "directory", "as_of": "2026-11-24T00:00:00+00:00"},
        {"input": "us", "as_of": "2026-11-23T23:00:00+00:00", "left_out": 3},
    ],
    by_country=(),
    by_site=(),
    by_wave=(),
    census={},
    policies=[],
    reconciliation={},
    skew_seconds={},
    closed={"dublin-1": {"turn": 1234, "bytes_placed": 2**30}},
    findings={},
    blockers=(),
    forecast=Forecast(3, 2, 4, 2, 2**20, 2**21, 7200),
    cutover={"unlistable_rules": [], "users_too_large": 0},
)


def test_a_forecast_is_in_requests_bytes_and_time() -> None:
    """Parts and uploads only where there are any."""
    requests, duration = forecast_lines(SUMMARY)
    assert requests == "3 GET (1 MiB), 2 PUT and 4 parts of 1 uploads (2 MiB)"
    assert duration == "2h 00m or more with one worker"


def test_what_an_inventory_lists_beside_the_census_is_told() -> None:
    """Invariant 3: a row outside of the store is counted too; where there is none, nothing is said."""
    [line] = left_out_lines(SUMMARY)
    assert line.startswith("the inventory of us lists 3 more")
    assert left_out_lines(replace(SUMMARY, inputs=SUMMARY.inputs[:1])) == []


def test_a_full_site_is_told() -> None:
    """With the turn at which it closed."""
    assert closed_lines(SUMMARY) == ["dublin-1 is full: from the 1,234th user in the order of turns, with 1 GiB"]


def test_an_accepted_blocker_is_named_by_kind_count_and_digest() -> None:
    """Twelve digits of the digest are enough to copy, and too many to guess."""
    assert accept_word(Blocker("review", 16, "8b12429ca38900")) == "review:16:8b12429ca389"
