"""What every command is given: the workspace, the ledger's URL, the output, and who asks from where.

The environment is read here and nowhere else, so that a command is a function of its context and its arguments.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from migrate.cli.output import Output
from migrate.errors import UsageError
from migrate.residency import check_code
from migrate.workspace import Workspace

if TYPE_CHECKING:
    from migrate.spec import Spec

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
PlanArgument = Annotated[
    str | None, typer.Argument(metavar="[PLAN]", help="The start of a plan's digest. Without it: the newest plan.")
]
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, such as plans/clover.toml.")]


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, from where, about which workspace. `country_given` is MIGRATE_COUNTRY, which goes before the spec's."""

    workspace: Workspace
    ledger_url: str
    output: Output
    operator: str
    host: str
    country_given: str | None
    environment: Mapping[str, str]
    debug: bool
    now: Callable[[], datetime]

    @property
    def as_json(self) -> bool:
        return self.output.as_json

    def country(self, spec: Spec) -> str | None:
        """The country that this process runs in, as declared. UsageError where the environment names none of ISO's."""
        if self.country_given is not None:
            try:
                check_code(self.country_given)
            except ValueError as error:
                raise UsageError(
                    f"MIGRATE_COUNTRY: {error}", remedy="It is two letters, such as IE: where this machine is."
                ) from None
        return self.country_given or spec.run.country


def make_context(
    *, workspace: Path, ledger: str | None, debug: bool, environment: Mapping[str, str] | None = None
) -> Context:
    """The context of a command line."""
    given = os.environ if environment is None else environment
    place = Workspace(workspace.absolute())
    return Context(
        workspace=place,
        ledger_url=ledger or place.ledger_url,
        output=Output(),
        operator=given.get("MIGRATE_OPERATOR") or _login_name(),
        host=socket.gethostname(),
        country_given=given.get("MIGRATE_COUNTRY", "").strip().upper() or None,
        environment=given,
        debug=debug,
        now=lambda: datetime.now(UTC),
    )


def context_of(context: typer.Context, *, as_json: bool) -> Context:
    """A command's own context, from typer's."""
    found = context.find_object(Context)
    assert found is not None, "the root callback sets it"
    return replace(found, output=Output(as_json=as_json))


def user_given(text: str) -> str:
    """A user's id from the command line; `-` reads it from stdin, so that it stands in no list of processes (invariant 10)."""
    if text != "-":
        return text
    try:
        given = sys.stdin.readline().rstrip("\n")
    except UnicodeDecodeError:
        given = "\udcff"
    if not is_utf8(given):
        raise UsageError("the user's id on stdin is not UTF-8", remedy="Write it in UTF-8, as the directory has it.")
    return given


def users_given(texts: Sequence[str]) -> list[str]:
    """Several users' ids from the command line, each once; `-` reads them from stdin, one a line. UsageError for an empty one."""
    found: list[str] = []
    for text in texts:
        if text != "-":
            found.append(text)
            continue
        try:
            lines = sys.stdin.read().split("\n")
        except UnicodeDecodeError:
            lines = ["\udcff"]
        if not all(map(is_utf8, lines)):
            raise UsageError("a user's id on stdin is not UTF-8", remedy="Write it in UTF-8, as the directory has it.")
        found += lines[:-1] if lines[-1] == "" else lines
    if "" in found:
        raise UsageError("a user's id is empty", remedy="Give the ids as the directory has them, one a line on stdin.")
    return list(dict.fromkeys(found))


def is_utf8(text: str) -> bool:
    """Whether a text from outside was UTF-8. Python reads other bytes as lone surrogates, which cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in the password database, as in some containers
        return f"uid-{os.getuid()}"
