"""Who is forgotten in a workspace, by whatever ledger: `.migrate/forgotten.jsonl`, a user's id a line.

A plan that takes another's place runs on a ledger of its own, which knows nothing of the others, and its directory may still name
whoever asked for their deletion. So the first run of a plan asks here as well, and copies nothing of them; planning asks, too,
since whom the directory does not name any more is not to be copied as an orphan.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection

from migrate.errors import UnreachableError
from migrate.inventory.files import sync_folder
from migrate.inventory.tables import writing
from migrate.workspace import Workspace

_FILE = "forgotten.jsonl"


def remember(workspace: Workspace, user_ids: Collection[str]) -> None:
    """Write down those who are not there yet; durable when this returns. UnreachableError where it cannot be written."""
    known = remembered(workspace)
    lines = "".join(f"{json.dumps(user_id)}\n" for user_id in user_ids if user_id not in known)
    if not lines:
        return
    with writing():
        path = workspace.ensure(workspace.private) / _FILE
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
            # what a process that was killed has not written to its end stands alone on its line, and is nobody
            file.write(f"\n{lines}".encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)


def remembered(workspace: Workspace) -> set[str]:
    """Everybody who was written down. UnreachableError where that cannot be read: nobody is taken for not forgotten then."""
    path = workspace.private / _FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UnreachableError(f"{path} cannot be read: {error.strerror}", remedy="Let this user read it.") from error
    found: set[str] = set()
    for line in text.split("\n"):
        try:
            user_id = json.loads(line)
        except ValueError:
            continue
        if isinstance(user_id, str):
            found.add(user_id)
    return found
