"""The workspace: the folder that holds the specs (`plans/`) and what `migrate` keeps (`.migrate/`). Paths only, no content.

Everything under `.migrate/` is private to its owner, because manifests and ledger hold user ids and keys (design, invariant 10).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import UsageError


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths in and under one workspace folder."""

    root: Path

    @property
    def specs(self) -> Path:
        return self.root / "plans"

    @property
    def private(self) -> Path:
        return self.root / ".migrate"

    @property
    def plans(self) -> Path:
        """Built plans, one folder each, named by the first 16 hex digits of the digest."""
        return self.private / "plans"

    @property
    def seals(self) -> Path:
        """Sealed receipts and verdicts, one folder a plan."""
        return self.private / "seals"

    @property
    def scratch(self) -> Path:
        """What planning writes on the way: inventories as Parquet, DuckDB's spill files."""
        return self.private / "scratch"

    @property
    def sweeps(self) -> Path:
        """What sweeps have found, one Parquet file each."""
        return self.private / "sweeps"

    @property
    def rollbacks(self) -> Path:
        """What users who went back have left at their targets, one Parquet file a rollback."""
        return self.private / "rollbacks"

    @property
    def purges(self) -> Path:
        """Purge plans, one folder each, named by the first 16 hex digits of the digest."""
        return self.private / "purges"

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.private / 'ledger.sqlite'}"

    def capabilities(self, spec_name: str) -> Path:
        """What `migrate doctor` found out about the stores of a spec."""
        return self.private / f"capabilities-{spec_name}.json"

    def ensure(self, folder: Path) -> Path:
        """Make `folder` (and `.migrate/` above it), readable by the owner alone, those that were there among them.

        UsageError where there is no workspace.
        """
        if not self.root.is_dir():
            raise UsageError(
                f"there is no workspace in {self.root}", remedy="`migrate init` makes one, or name another."
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in (self.private, folder):
            if each.exists() and each.stat().st_mode & 0o077:
                each.chmod(0o700)
        return folder


def private_umask() -> None:
    """From here on, new files are readable by their owner alone. The command line calls it once, first."""
    os.umask(0o077)
