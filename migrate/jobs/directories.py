"""Whether anybody has heard of a user: for words alone, so nothing is digested, and what cannot be read has not."""

from __future__ import annotations

import duckdb

from migrate.errors import MigrateError
from migrate.ledger import Ledger
from migrate.planner.folder import Plan, open_reader, plan_folders
from migrate.workspace import Workspace


def is_known(user_id: str, ledger: Ledger, workspace: Workspace) -> bool:
    """Whether a plan of the ledger has the user, or the directory that some plan of the workspace was built from."""
    if ledger.user(user_id) is not None:
        return True
    connection = open_reader()
    try:
        for folder in plan_folders(workspace):
            try:
                users = Plan.open(folder).relation("users")
                if connection.execute(f"SELECT 1 FROM {users} WHERE user_id = ? LIMIT 1", [user_id]).fetchone():
                    return True
            except (MigrateError, duckdb.Error):
                continue
    finally:
        connection.close()
    return False
