"""Worlds that are made once a test process and then handed out as copies, as `cp -a` copies a workspace that is moved.

How a world comes about (planned, copied, verified, cut over) is shown by the tests of those commands; whoever only needs to
stand there need not go the way again. Nothing of a copy is shared with another one: files, records and a SQLite ledger are
copied, and a PostgreSQL ledger becomes a database of its own, with the kept one as its template.
"""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import psycopg
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from smallworld import SmallWorld

P = ParamSpec("P")

_worlds: dict[Hashable, SmallWorld] = {}
_folders: list[Path] = []


def keep_in(folder: Path) -> None:
    """Where the worlds are kept from now on: a folder that lives as long as the test session."""
    _folders.append(folder)


def made_once(
    make: Callable[Concatenate[Path, str | None, P], SmallWorld],
) -> Callable[Concatenate[Path, str | None, P], SmallWorld]:
    """`make(root, ledger, ...)` makes a world at `root`, with the ledger at that URL: it is called once for each of its other
    arguments and each server of the ledger. Nothing in it may depend on what a single test has changed."""

    @wraps(make)
    def copied(root: Path, ledger: str | None, *args: P.args, **named: P.kwargs) -> SmallWorld:
        server = None if ledger is None else make_url(ledger).set(database="postgres")
        key = (make.__module__, make.__qualname__, server, args, tuple(sorted(named.items())))
        if key not in _worlds:
            folder = Path(tempfile.mkdtemp(dir=_folders[-1]))
            _worlds[key] = make(folder, None if ledger is None else _new_database(ledger), *args, **named)
        return _copy(_worlds[key], root, ledger)

    return copied


def _copy(kept: SmallWorld, root: Path, ledger: str | None) -> SmallWorld:
    kept.close()
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{kept.root}/.", root], check=True)
    if ledger is not None:
        assert kept.ledger is not None
        _fill_database(ledger, kept.ledger)
    return replace(kept, root=root, ledger=ledger, users=dict(kept.users), objects=dict(kept.objects), stores={})


def _new_database(ledger: str) -> str:
    """The URL of an empty database on the server of `ledger`. It goes with the server."""
    name = f"kept_{uuid.uuid4().hex}"
    _execute(make_url(ledger), f"CREATE DATABASE {name}")
    return _text(make_url(ledger).set(database=name))


def _fill_database(ledger: str, kept: str) -> None:
    """Make the database of `ledger`, which is empty, anew as the kept one is."""
    url, template = make_url(ledger), make_url(kept).database
    _execute(
        url,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'",
        f"DROP DATABASE {url.database}",
        # the other strategy copies a sequence so that its next values are lost in a crash, and given out twice
        f"CREATE DATABASE {url.database} TEMPLATE {template} STRATEGY file_copy",
    )


def _execute(url: URL, *statements: str) -> None:
    with psycopg.connect(_text(url.set(database="postgres")), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
