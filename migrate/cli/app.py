"""The typer app. A command's module is loaded when the command is called: `--help` lists the commands without it.

So the modules of commands import what they need at their top, and `migrate --help` stays below 0.2 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import typer
from typer.core import TyperGroup

from migrate import __version__
from migrate.cli.context import make_context
from migrate.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command stands: a module that has an `app`, or in it a function. `help` is its line in the list of commands."""

    module: str
    help: str
    function: str | None = None


COMMANDS: dict[str, Entry] = {
    "init": Entry("migrate.cli.init", "Write a workspace to start from.", "init"),
    "doctor": Entry("migrate.cli.doctor", "Probe each store and check it against the spec.", "doctor"),
    "plan": Entry("migrate.cli.plan", "Build a plan from a spec.", "plan"),
    "plans": Entry("migrate.cli.plans", "List the plans of the workspace.", "plans"),
    "show": Entry("migrate.cli.plans", "Show a plan: who, what, where to, and what blocks it.", "show"),
    "explain": Entry(
        "migrate.cli.plans", "Say which rules decided about a user, and what the alternatives were.", "explain"
    ),
    "diff": Entry("migrate.cli.plans", "Compare two plans.", "diff"),
    "delta": Entry("migrate.cli.delta", "Build a plan of what changed at the sources since a plan.", "delta"),
    "run": Entry("migrate.cli.run", "Copy what a plan says; stop and resume at any moment.", "run"),
    "verify": Entry("migrate.cli.verify", "Read the targets again and compare.", "verify"),
    "cutover": Entry("migrate.cli.cutover", "Move a wave's users to their new home.", "cutover"),
    "rollback": Entry("migrate.cli.rollback", "Take users back to their old home.", "rollback"),
    "purge": Entry("migrate.cli.purge", "Delete at the sources what is left there of users who were moved.", "purge"),
    "hold": Entry(
        "migrate.cli.hold", "Put users on hold: whatever is verified, nothing is cut over or purged.", "hold"
    ),
    "forget": Entry(
        "migrate.cli.forget", "Forget users: copy nothing more of them, and erase what was copied.", "forget"
    ),
    "status": Entry("migrate.cli.status", "Show where a plan or a user stands.", "status"),
    "where": Entry("migrate.cli.where", "Say where a user's data is, store by store.", "where"),
    "sweep": Entry("migrate.cli.sweep", "Look through all stores for what lies where it should not.", "sweep"),
    "demo": Entry("migrate.cli.demo", "Migrate a synthetic world, from the plan to the purge.", "demo"),
    "ledger": Entry("migrate.cli.ledger", "Upgrade or back up the ledger."),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands by name, and loads one to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = load(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command: {args[0]!r}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


loading = threading.Event()
"""Set while a command's module is loaded: an interrupt amid an import is not to be trusted to come out as one."""


def load(name: str) -> Any:
    """The command `name`, with its module."""
    entry = COMMANDS[name]
    loading.set()
    try:
        module = import_module(entry.module)
    finally:
        loading.clear()
    if entry.function is None:
        command = typer.main.get_command(module.app)
    else:
        command = typer.main.get_command(_single(getattr(module, entry.function)))
    command.name = name
    return command


def _single(function: Callable[..., None]) -> typer.Typer:
    single = typer.Typer(**PLAIN)
    single.command()(function)
    return single


# Without rich, help takes half the time, and reads the same in a pipe. No traceback with local variables, ever: they hold
# keys and user ids (design, invariant 10).
PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "pretty_exceptions_show_locals": False,
}

app = typer.Typer(cls=LazyGroup, **PLAIN)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"migrate {__version__}")
        raise typer.Exit


def _without_password(ledger: str) -> None:
    """UsageError for a URL on the command line that holds a password: every user of the machine sees the arguments of all
    processes (design, invariant 10)."""
    try:
        parts = urlsplit(ledger)
    except ValueError:
        return  # no URL: opening it says so
    if parts.password or "password" in dict(parse_qsl(parts.query)):
        raise UsageError(
            "--ledger holds a password, which the list of processes shows to everybody",
            remedy="Put the URL into MIGRATE_LEDGER, or the password into PGPASSWORD or ~/.pgpass.",
        )


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    workspace: Annotated[
        Path, typer.Option(envvar="MIGRATE_WORKSPACE", metavar="DIR", help="The folder with plans/ and .migrate/.")
    ] = Path(),
    ledger: Annotated[
        str | None,
        typer.Option(
            envvar="MIGRATE_LEDGER",
            metavar="URL",
            help="sqlite:///PATH or postgresql://… without a password. Default: .migrate/ledger.sqlite.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="More logs, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Moves users' objects between jurisdictions, user by user, with a proof."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    source = context.get_parameter_source("ledger")
    if ledger is not None and source is not None and source.name == "COMMANDLINE":
        _without_password(ledger)
    context.obj = make_context(workspace=workspace, ledger=ledger, debug=debug)
