"""Opens the door to a spec's stores for the one who is at the command line."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.cli.context import Context
from migrate.model import Purpose
from migrate.spec import Spec
from migrate.stores.base import Capabilities
from migrate.stores.door import Door, Visitor


def open_door(
    context: Context, spec: Spec, purpose: Purpose, *, capabilities: Mapping[str, Capabilities], plan: str | None = None
) -> Door:
    """The door, for this operator on this machine. RefusedError where the spec's folders share their files."""
    visitor = Visitor(context.operator, context.host, context.country(spec), purpose, plan)
    return Door(spec, context.workspace, visitor, capabilities=capabilities, environment=context.environment)
