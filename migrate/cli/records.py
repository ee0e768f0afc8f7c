"""A row in the ledger's `runs` for every command that changes anything: who, where, with what, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import typer

from migrate import __version__
from migrate.cli.context import Context
from migrate.errors import ExitCode, MigrateError, NoLedgerError
from migrate.ledger import Ledger


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """The run's id, and the ledger that it stands in, open to the end of the block."""

    run_id: int
    ledger: Ledger


def open_ledger(context: Context, *, create: bool = True) -> Ledger:
    """The ledger of the command line. A new one beside the workspace's plans gets its private folder first."""
    if create and context.ledger_url == context.workspace.ledger_url:
        context.workspace.ensure(context.workspace.private)
    return Ledger.open(context.ledger_url, create=create)


@contextmanager
def existing_ledger(context: Context) -> Iterator[Ledger | None]:
    """The ledger, if there is one, open to the end of the block: who only looks makes none."""
    try:
        ledger = open_ledger(context, create=False)
    except NoLedgerError:
        yield None
        return
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def recorded_run(
    context: Context,
    verb: str,
    arguments: Mapping[str, Any],
    *,
    plan: str | None = None,
    country: str | None = None,
    create: bool = True,
) -> Iterator[RecordedRun]:
    """Record a command from its start to its end, however it ends. `arguments` are plain data without a secret. NoLedgerError
    where there is no ledger, and `create` is not asked for.

    `raise typer.Exit(code)` inside the block is how a command ends with a code of its own; it is recorded.
    """
    ledger = open_ledger(context, create=create)
    try:
        run_id = ledger.start_run(
            verb=verb,
            operator=context.operator,
            host=context.host,
            country=country or context.country_given,
            tool_version=__version__,
            arguments=dict(arguments),
            plan=plan,
            now=context.now(),
        )
        try:
            yield RecordedRun(run_id, ledger)
        except BaseException as error:
            with suppress(MigrateError):  # the first error is the one to tell
                ledger.end_run(run_id, exit_code=code_of(error), now=context.now())
            raise
        ledger.end_run(run_id, exit_code=ExitCode.DONE, now=context.now())
    finally:
        ledger.close()


def code_of(error: BaseException) -> int:
    """The exit code that the boundary will give for `error`."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, MigrateError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return ExitCode.INTERRUPTED
    return ExitCode.INTEGRITY
