"""What `migrate doctor` looks at: this machine, the workspace, the spec's input files, routing, and every store, side by side.

Each look ends in one check with a fix; nothing is raised for what was found. The stores' own checks are `stores.probe`'s.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from migrate.errors import ExitCode, InterruptedRun, MigrateError, worst
from migrate.inventory.aside import side_by_side
from migrate.jobs.disk import examine_disks
from migrate.ledger import Ledger
from migrate.privacy import Pseudonyms
from migrate.residency import UNDECIDED
from migrate.routing import open_router
from migrate.secrets import raw_key
from migrate.spec import Spec, spec_time
from migrate.stopping import Stopping
from migrate.stores.base import Capabilities
from migrate.stores.door import Door
from migrate.stores.probe import Check, CheckStatus, ProbeReport, probe
from migrate.units import format_duration
from migrate.workspace import Workspace

COUNTRY = "country"
HERE = "here"  # the section of what is no store's
# What was measured and tested; pyproject.toml pins the same, and a test holds them together.
TESTED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "duckdb": ((1, 5), (3,)),
    "obstore": ((0, 12, 1), (0, 13)),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A check, and where: a store's name, or `here`."""

    where: str
    check: Check


def examine_here(
    spec: Spec,
    workspace: Workspace,
    environment: Mapping[str, str],
    *,
    country: str | None,
    ledger_url: str,
    now: datetime,
) -> list[Finding]:
    """The machine, the workspace and the spec's input files. No store and no ledger is opened."""
    checks = [
        _country(spec, country),
        _pseudonym_key(spec, workspace, environment),
        *examine_disks(spec, workspace, ledger_url),
        *(_library(name, version(name)) for name in TESTED),
        Check("time zone", CheckStatus.OK, f"{spec.time_zone}: it is {spec_time(now, spec)}"),
        *_decisions(spec),
        *_plain_http(spec),
        *_inputs(spec, workspace, now),
    ]
    return [Finding(HERE, check) for check in checks]


def examine_ledger(open_ledger: Callable[[], Ledger]) -> Finding:
    """Whether the ledger opens, in this version; and for SQLite how it journals."""
    try:
        ledger = open_ledger()
    except MigrateError as error:
        return Finding(HERE, Check("ledger", CheckStatus.FAIL, error.what, error.remedy, error.exit_code))
    try:
        mode = ledger.journal_mode()
        how = "PostgreSQL" if mode is None else f"SQLite {sqlite3.sqlite_version}, journal mode {mode}"
        return Finding(HERE, Check("ledger", CheckStatus.OK, f"{ledger.display_url}: {how}"))
    finally:
        ledger.close()


def examine_routing(
    spec: Spec, open_ledger: Callable[[], Ledger], environment: Mapping[str, str], root: Path
) -> Finding:
    """Whether it is answered where a user lives: one who cannot exist, since no user's id has a `/`. Nothing is changed."""
    routing = spec.routing
    try:
        with closing(open_ledger()) as ledger, open_router(spec, ledger, environment, root) as router:
            home = router.read("migrate/doctor").home
    except MigrateError as error:
        problems = getattr(error, "problems", ())
        finding = ": ".join((error.what, "; ".join(problems))) if problems else error.what
        return Finding(HERE, Check("routing", CheckStatus.FAIL, finding, error.remedy, error.exit_code))
    if home not in spec.sites:
        finding = f"{routing.kind}: an unknown user lives at a site that this spec does not know"
        fix = f"Let it name sites as the spec does: {', '.join(spec.sites)}."
        return Finding(HERE, Check("routing", CheckStatus.FAIL, finding, fix, ExitCode.BAD_SPEC))
    return Finding(HERE, Check("routing", CheckStatus.OK, f"{routing.kind}: a user without a route lives at {home}"))


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found at the stores; what those can do of which no check failed; and those of which nothing was heard."""

    findings: list[Finding]
    capabilities: dict[str, Capabilities]
    unreached: frozenset[str]


def examine_stores(spec: Spec, door: Door, *, clock: Callable[[], datetime], is_stopping: Stopping) -> Examined:
    """Probe every store. InterruptedRun when stopped."""

    def look(name: str, halted: Stopping) -> tuple[str, ProbeReport | MigrateError]:
        store = spec.stores[name]
        try:
            opened, questions = door.open(name), door.questions(name)
        except MigrateError as error:
            return name, error
        country = spec.sites[store.site].country
        return name, probe(opened, store.role, questions, country=country, clock=clock, is_stopping=halted)

    stopped = InterruptedRun(
        "stopped while looking at the stores; nothing was written down",
        remedy="Run it again. What a trial has left at a target is cleared away by any `migrate doctor` an hour from now.",
    )
    jobs = [lambda halted, name=name: look(name, halted) for name in spec.stores]
    found: list[Finding] = []
    capabilities = {}
    unreached = set()
    for name, report in side_by_side(jobs, threads=len(jobs), is_stopping=is_stopping, stopped=stopped):
        if isinstance(report, MigrateError):
            check = Check("open", CheckStatus.FAIL, report.what, report.remedy, report.exit_code)
            found.append(Finding(name, check))
            unreached.add(name)
            continue
        found += [Finding(name, check) for check in report.checks]
        if report.exit is ExitCode.DONE:
            capabilities[name] = report.capabilities
        elif not report.is_reached:
            unreached.add(name)
    return Examined(found, capabilities, frozenset(unreached))


def nobody_may(spec: Spec) -> Examined:
    """Where this machine may open no store at all: that stands once, and not for each store."""
    fix = "Mend what is said of the country, then ask the stores."
    finding = f"none of {len(spec.stores)} was asked: from this machine no store is opened"
    return Examined([Finding(HERE, Check("stores", CheckStatus.WARN, finding, fix))], {}, frozenset(spec.stores))


def may_open(findings: list[Finding]) -> bool:
    """Whether the country of this machine is one that policy allows."""
    return not any(found.check.name == COUNTRY and found.check.status is CheckStatus.FAIL for found in findings)


def exit_of(findings: list[Finding]) -> ExitCode:
    """The worst of the failed checks."""
    return worst(found.check.exit for found in findings)


def _country(spec: Spec, country: str | None) -> Check:
    allowed = ", ".join(spec.residency.worker_countries)
    if country is None:
        fix = f"Set MIGRATE_COUNTRY, or run.country in the spec, to where this machine is (allowed: {allowed})."
        return Check(COUNTRY, CheckStatus.FAIL, "nobody has said where this machine is", fix, ExitCode.REFUSED)
    if country not in spec.residency.worker_countries:
        finding = f"this machine is in {country}, and the bytes would pass through it"
        return Check(COUNTRY, CheckStatus.FAIL, finding, f"Work on a machine in: {allowed}.", ExitCode.REFUSED)
    return Check(COUNTRY, CheckStatus.OK, f"this machine is in {country}, as declared; allowed: {allowed}")


def _pseudonym_key(spec: Spec, workspace: Workspace, environment: Mapping[str, str]) -> Check:
    reference = spec.privacy.pseudonym_key
    kind, name = reference.split(":", 1)
    if kind == "file" and not (workspace.root / name).exists():
        fix = "`migrate init` makes one. Until there is one, logs cannot speak of a user at all."
        return Check("pseudonym key", CheckStatus.WARN, f"there is no {name}", fix)
    try:
        Pseudonyms(raw_key(reference, environment, workspace.root))
    except MigrateError as error:
        return Check("pseudonym key", CheckStatus.FAIL, error.what, error.remedy, error.exit_code)
    return Check("pseudonym key", CheckStatus.OK, f"{reference} is there, and its owner's alone")


def _library(name: str, found: str) -> Check:
    least, below = TESTED[name]
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if least <= numbers < below:
        return Check(name, CheckStatus.OK, found)
    wanted = f">={'.'.join(map(str, least))},<{'.'.join(map(str, below))}"
    fix = f"python3 -m pip install '{name}{wanted}'"
    return Check(
        name, CheckStatus.FAIL, f"{found} was never tested with this version of migrate", fix, ExitCode.BAD_SPEC
    )


def _decisions(spec: Spec) -> list[Check]:
    missing = sorted(UNDECIDED - spec.scope.decisions.keys())
    if not missing:
        return []
    finding = f"{', '.join(missing)}: nobody has decided; planning stops at the first user who lives there"
    fix = 'Say "in", "out" or "review" under scope.decisions.'
    return [Check("decisions", CheckStatus.WARN, finding, fix)]


def _plain_http(spec: Spec) -> list[Check]:
    """The stores whose requests cross a network that anybody on the way can read."""
    fix = "Give an https:// endpoint, unless the way there is encrypted by other means."
    return [
        Check(
            f"transport {name}",
            CheckStatus.WARN,
            f"{store.endpoint} is not encrypted: the bodies can be read on the way",
            fix,
        )
        for name, store in spec.stores.items()
        if store.endpoint is not None
        and (parts := urlsplit(store.endpoint.lower())).scheme == "http"
        and parts.hostname not in ("127.0.0.1", "::1", "localhost")
    ]


def _inputs(spec: Spec, workspace: Workspace, now: datetime) -> list[Check]:
    """The directory and the inventories that are files: there, and young enough to plan with."""
    directory = spec.directory
    is_checksummed = directory.checksummed
    found = [
        _file(
            "directory",
            directory.path,
            directory.as_of,
            directory.max_age,
            workspace,
            now,
            summed=is_checksummed,
        )
    ]
    for name, store in spec.stores.items():
        source = store.inventory
        if source.path is not None:
            is_checksummed = source.checksummed
            found.append(
                _file(
                    f"inventory {name}",
                    source.path,
                    source.as_of,
                    source.max_age,
                    workspace,
                    now,
                    summed=is_checksummed,
                )
            )
    return [check for check in found if check is not None]


def _file(
    name: str,
    path: str,
    as_of: datetime | None,
    max_age: int,
    workspace: Workspace,
    now: datetime,
    *,
    summed: bool,
) -> Check | None:
    if not path.startswith("store:") and not (workspace.root / Path(path)).exists():
        return Check(
            name, CheckStatus.FAIL, f"there is no {path}", "Export it, or correct its path.", ExitCode.BAD_SPEC
        )
    if summed and not path.startswith("store:") and not (workspace.root / f"{path}.sha256").exists():
        fix = f"sha256sum {path} > {path}.sha256 where it is exported, or take checksummed out of the spec."
        return Check(
            name, CheckStatus.FAIL, f"there is no {path}.sha256, and it is to be checksummed", fix, ExitCode.BAD_SPEC
        )
    if as_of is None:
        return None
    age = now - as_of
    if age > timedelta(seconds=max_age):
        finding = f"{path} is {format_duration(age.total_seconds())} old, and max_age is {format_duration(max_age)}"
        return Check(name, CheckStatus.FAIL, finding, "Export it anew, and set as_of.", ExitCode.BAD_SPEC)
    return Check(name, CheckStatus.OK, f"{path} shows {as_of.isoformat()}")
