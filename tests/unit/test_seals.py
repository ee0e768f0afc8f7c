"""Sealed files: what stands is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.errors import IntegrityError
from migrate.model import CheckResult, Verdict
from migrate.worker.seals import Seals


def test_a_sealed_file_is_never_replaced(tmp_path: Path) -> None:
    """Another ledger counts its fences from the start: the proof that is there stays, byte by byte (invariant 3)."""
    seals = Seals(tmp_path, "d" * 64)
    try:
        first = seals.write_verdicts(7, 1, 1, [CheckResult(0, Verdict.MATCH)])
        before = (tmp_path / first.path).read_bytes()
        with pytest.raises(IntegrityError, match="is there already"):
            seals.write_verdicts(7, 1, 1, [CheckResult(0, Verdict.MISSING)])
        assert (tmp_path / first.path).read_bytes() == before
        assert seals.write_verdicts(7, 2, 1, [CheckResult(0, Verdict.MATCH)]).path != first.path
    finally:
        seals.close()
