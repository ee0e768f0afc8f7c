"""The spec's `[routing]`: where it is answered where a user lives. Not part of a plan's digest."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from migrate.spec.values import Name, Reference, Seconds, Section

_LOCAL = ("localhost", "127.0.0.1", "::1")


def _no_profile(reference: str) -> str:
    if reference.startswith("profile:"):
        raise ValueError("a profile holds AWS keys alone: name this by env:NAME or file:PATH")
    return reference


def _check_hook(url: str) -> str:
    """A hook's URL as it was given. ValueError, without the URL, for one that is not understood."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not re.fullmatch(r"https?://[^@?#\s]+", url) or not url.isascii():
        raise ValueError("a hook is https://HOST/PATH or https://HOST:PORT/PATH: no user, query or fragment")
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise ValueError(
            "user ids stand in what a hook is asked, and its answers are believed: https, unless it is local"
        )
    return url


KeptReference = Annotated[Reference, AfterValidator(_no_profile)]
Attempts = Annotated[int, Field(ge=1, le=10)]


class RoutingColumns(Section):
    """The names of the table's columns."""

    user: str = Field(default="user_id", min_length=1, max_length=63)
    """The user's id: text, unique."""
    home: str = Field(default="home", min_length=1, max_length=63)
    """The site where the user lives, by its name in this spec: text."""
    token: str = Field(default="frozen_by", min_length=1, max_length=63)
    """Whose freeze was the last one: text."""
    until: str = Field(default="frozen_until", min_length=1, max_length=63)
    """When it ends: BIGINT, microseconds since 1970 by the database's clock. The user is frozen while this lies ahead."""
    writers: str | None = Field(default=None, min_length=1, max_length=63)
    """How many writes are under way: a whole number that writers count up and down. Without it a freeze waits for
    `drain_seconds`."""


class SqlRouting(Section):
    """A table of the platform's, a row a user, on SQLite or PostgreSQL."""

    url: KeptReference
    """What holds the database's URL, `postgresql://USER:PASSWORD@HOST/DATABASE`: `env:NAME`, the variable, or `file:PATH`."""
    table: str = Field(default="routes", min_length=1, max_length=63)
    """The table's name as the database has it, without quotes. In another schema: put that into the URL's search_path."""
    columns: RoutingColumns = RoutingColumns()
    """What its columns are called."""


class HttpRouting(Section):
    """A hook of the platform's: signed POST requests with JSON (docs/operations.md, "Routing")."""

    url: Annotated[str, AfterValidator(_check_hook)]
    """Where it is: `https://HOST/PATH`; plain http for this machine alone."""
    key: KeptReference
    """The key of the signatures, 16 bytes and more: `env:NAME`, the variable that holds it, or `file:PATH`."""
    timeout_seconds: Seconds = 10
    """How long one request may take. A freeze has `drain_seconds` on top."""
    attempts: Attempts = 4
    """How often one question is sent at most."""


class CommandRouting(Section):
    """A program of the platform's: JSON on stdin and stdout (docs/operations.md, "Routing")."""

    argv: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """The program and its arguments, as they are: no shell reads them. No user id is among them."""
    timeout_seconds: Seconds = 10
    """How long it may take, then it is killed. A freeze has `drain_seconds` on top."""


class Routing(Section):
    """Where it is answered where a user lives, and told that a user moves. Outside of a plan's digest."""

    kind: Literal["embedded", "sql", "http", "command"] = "embedded"
    """`embedded` is a table in the ledger; `sql` a table of the platform's, `http` its hook, `command` its program."""
    default_home: Name | None = None
    """For tables: the site where a user without a row lives. Without it: the site of the source stores."""
    drain_seconds: Seconds = 5
    """How long a freeze waits at most for writes that began before it."""
    freeze_seconds_max: Seconds = 30
    """How long a freeze may last at most. Longer than `drain_seconds`."""
    sql: SqlRouting | None = None
    """Goes with kind `sql`, and is required there."""
    http: HttpRouting | None = None
    """Goes with kind `http`, and is required there."""
    command: CommandRouting | None = None
    """Goes with kind `command`, and is required there."""
