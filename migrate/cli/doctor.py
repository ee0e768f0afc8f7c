"""`migrate doctor SPEC`: is all as the spec says, and what can the stores do?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from migrate.cli.context import Context, JsonOption, SpecArgument, context_of
from migrate.cli.doors import open_door
from migrate.cli.logs import start_logs
from migrate.cli.output import Column, Output, safe
from migrate.cli.records import open_ledger, recorded_run
from migrate.cli.working import stopping
from migrate.errors import ExitCode, InputError
from migrate.jobs.examining import (
    Examined,
    Finding,
    examine_here,
    examine_ledger,
    examine_routing,
    examine_stores,
    exit_of,
    may_open,
    nobody_may,
)
from migrate.model import Purpose
from migrate.spec import Spec, load_spec
from migrate.stores.base import Capabilities
from migrate.stores.capabilities import load_capabilities, save_capabilities
from migrate.stores.probe import CheckStatus
from migrate.units import number_of

_STYLES = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}


def doctor(typer_context: typer.Context, spec: SpecArgument, as_json: JsonOption = False) -> None:
    """Probe each store and check it, this machine and the workspace against the spec; write down what the stores can do.

    Targets are tried out under a scratch prefix, which is emptied again. Sources and backups are only read.
    """
    context = context_of(typer_context, as_json=as_json)
    start_logs(context)
    loaded = load_spec(spec)
    country = context.country(loaded)
    here = examine_here(
        loaded,
        context.workspace,
        context.environment,
        country=country,
        ledger_url=context.ledger_url,
        now=context.now(),
    )
    ledger = examine_ledger(lambda: open_ledger(context))
    here.append(ledger)
    if ledger.check.status is CheckStatus.FAIL:
        _look(context, loaded, here)
    else:
        routing = examine_routing(loaded, lambda: open_ledger(context), context.environment, context.workspace.root)
        here.append(routing)
        with recorded_run(context, "doctor", {"spec": str(spec)}, country=country):
            _look(context, loaded, here)


def _look(context: Context, spec: Spec, here: list[Finding]) -> None:
    """Look at the stores, write down what they can do, and tell all of it. Ends with typer.Exit where a check failed."""
    found = _ask(context, spec) if may_open(here) else nobody_may(spec)
    path = context.workspace.capabilities(spec.name)
    context.workspace.ensure(path.parent)
    capabilities = {**_known_before(path, spec, found.unreached), **found.capabilities}
    save_capabilities(path, spec.stores, capabilities)
    findings = [*here, *found.findings]
    code = exit_of(findings)
    if context.as_json:
        context.output.document(_document(findings, capabilities, path, code))
    else:
        _show(context.output, findings)
        _conclude(context, spec, findings, capabilities, path)
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


def _ask(context: Context, spec: Spec) -> Examined:
    door = open_door(context, spec, Purpose.DOCTOR, capabilities={})
    try:
        with stopping(context) as stop:
            return examine_stores(spec, door, clock=context.now, is_stopping=stop.is_set)
    finally:
        door.close()


def _known_before(path: Path, spec: Spec, names: frozenset[str]) -> dict[str, Capabilities]:
    """What an earlier look found out about these stores: that they cannot be reached now says nothing of what they can do."""
    with suppress(InputError):  # a file that cannot be read is written anew
        return {name: able for name, able in load_capabilities(path, spec.stores).items() if name in names}
    return {}


def _show(output: Output, findings: Sequence[Finding]) -> None:
    rows = []
    before = ""
    for found in findings:
        check = found.check
        text = Text(safe(check.finding))
        if check.fix:
            text.append(f"\nfix: {safe(check.fix)}", style=_STYLES[check.status])
        rows.append(
            (
                found.where if found.where != before else "",
                check.name,
                Text(check.status.value, style=_STYLES[check.status]),
                text,
            )
        )
        before = found.where
    output.table([Column("where"), Column("check", folds=True), Column(""), Column("finding", folds=True)], rows)


def _conclude(
    context: Context, spec: Spec, findings: Sequence[Finding], capabilities: dict[str, Capabilities], path: Path
) -> None:
    failures = [found for found in findings if found.check.status is CheckStatus.FAIL]
    warned = sum(found.check.status is CheckStatus.WARN for found in findings)
    output = context.output
    output.line()
    for found in failures:
        output.line(f"failed: {found.where}, {found.check.name}: {found.check.finding}", style="bold red")
        output.line(f"  fix: {found.check.fix}")
    output.line(
        f"{number_of(len(findings), 'check')}: {len(failures)} failed, {warned} to look at",
        style="bold red" if failures else "bold green",
    )
    output.note(
        f"what {len(capabilities)} of {len(spec.stores)} stores can do is in {path}; planning takes it as an input"
    )


def _document(
    findings: Sequence[Finding], capabilities: dict[str, Capabilities], path: Path, code: ExitCode
) -> dict[str, Any]:
    return {
        "exit_code": int(code),
        "checks": [
            {
                "where": found.where,
                "check": found.check.name,
                "status": found.check.status.value,
                "finding": found.check.finding,
                "fix": found.check.fix,
            }
            for found in findings
        ],
        "capabilities": {name: asdict(able) for name, able in sorted(capabilities.items())},
        "capabilities_file": str(path),
    }
