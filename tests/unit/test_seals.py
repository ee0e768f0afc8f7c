"""Sealed files: what stands is never replaced by anything else, and what is sealed twice is one file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrate.errors import SealLostError
from migrate.ledger import NewSeal, Seal, SealKind
from migrate.model import Evidence, Outcome, Receipt
from migrate.worker.seals import SealedReceipt, Seals, file_name

AT = datetime(2026, 11, 1, tzinfo=UTC)


def receipts(etag: str) -> list[SealedReceipt]:
    return [(0, Outcome.COPIED, Receipt(b"\x01" * 32, 0, b"\x02" * 32, etag, None, Evidence.MD5, AT))]


def known(seal: NewSeal) -> Seal:
    return Seal(1, 1, 7, SealKind.RECEIPTS, None, seal.rows, seal.digest, b"\x00" * 32, 1)


def test_no_other_ledger_takes_a_proof_away(tmp_path: Path) -> None:
    """Another ledger, or one put back from its backup, counts its fences from where it stands: both proofs stay (invariant 3)."""
    seals = Seals(tmp_path, "d" * 64)
    try:
        ours = known(seals.write_receipts(7, 2, receipts("ours")))
        theirs = known(seals.write_receipts(7, 2, receipts("theirs")))
        seals.forget_receipts(7, 9)
        assert [seals.read_receipts([seal], [0])[0][1].etag for seal in (ours, theirs)] == ["ours", "theirs"]
    finally:
        seals.close()


def test_what_is_sealed_twice_is_one_file(tmp_path: Path) -> None:
    """By the same worker, whose word did not reach the ledger, or by the next holder; what was broken off goes."""
    seals = Seals(tmp_path, "d" * 64)
    try:
        first, second = (known(seals.write_receipts(7, fence, receipts("a"))) for fence in (1, 2))
        assert file_name(first) == file_name(second)
        folder = Seals.folder_of(tmp_path, "d" * 64)
        (folder / "receipts-00000007-2.partial").write_bytes(b"half")
        seals.forget_receipts(7, 3)
        assert [path.name for path in folder.iterdir()] == [file_name(first)]
        (folder / file_name(first)).write_bytes(b"not what was sealed")
        with pytest.raises(SealLostError):
            seals.read_receipts([first], [0])
    finally:
        seals.close()
