"""The arithmetic of the whole programme, from measured figures: `python -m bench.sizing`, or with another FILE of results.

150 million users with 1,000 objects each, a home and a backup copy, one year. What is measured comes from the benchmark; what is
assumed (sizes, prices, how busy a core may be) stands here, is printed with the result, and can be changed in one place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LATEST = Path(__file__).parents[1] / "docs" / "bench" / "latest.json"
_YEAR_SECONDS = 365 * 24 * 3600
_COPIES_A_BATCH = 2_000  # the spec's default
_SMALL_BYTES = 33 * 1024  # the mean of the benchmark's small objects
LARGE_BYTES = 12 * 64 * 2**20 + 2 * 2**30  # of its large ones, in all
_GIB, _TB = 2**30, 10**12


@dataclass(frozen=True, slots=True)
class Programme:
    """What is to be moved, and what is assumed of it."""

    users: int = 150_000_000
    objects_a_user: int = 1_000
    copies_an_object: int = 2
    seconds: int = _YEAR_SECONDS
    object_bytes: int = 256 * 1024
    """The mean. Small ones cost requests, large ones bandwidth."""
    share_of_time: float = 0.8
    """Of the year, with copying allowed: not while verifying, in maintenance, or at the day's peak."""
    share_of_core: float = 0.7
    """How busy a worker's core is on average."""
    plan_rows: int = 20_000_000
    """The objects of one plan, as many as the largest that is measured. Each reads the inventory of its own part."""
    verified_times: float = 2.0
    """How often each copy is looked at by content: once after copying, and once more before the source is purged."""

    @property
    def objects(self) -> int:
        return self.users * self.objects_a_user

    @property
    def copies(self) -> int:
        return self.objects * self.copies_an_object


@dataclass(frozen=True, slots=True)
class Prices:
    """List prices in US dollars, to be replaced by those of the contract."""

    get_thousand: float = 0.0004
    put_thousand: float = 0.005
    egress_gigabyte: float = 0.02
    core_hour: float = 0.04
    stored_gigabyte_month: float = 0.023


@dataclass(frozen=True, slots=True)
class Figures:
    """What the benchmark measured. Bytes, milliseconds of CPU, and seconds."""

    copy_cpu_ms: float
    """Of one small object with one target copy; a second target is assumed to cost as much again, which is more than it does."""
    verify_cpu_ms: float
    """Of one small copy by content."""
    byte_cpu_ns: float
    """Of each byte above a small object's, copied; verified, it is assumed to cost as much, which is more than it does."""
    plan_seconds_a_million: float
    plan_bytes_a_copy: float
    open_receipt_bytes: float
    sealed_batch_bytes: float
    sealed_receipt_bytes: float
    user_bytes: float
    receipts_a_second: float
    """PostgreSQL, one worker."""


class MissingFiguresError(Exception):
    """The results do not have what the arithmetic needs."""


def figures_of(document: Mapping[str, Any]) -> Figures:
    """From a document of results. MissingFiguresError names the rows that are not measured."""
    rows = {row["name"]: row for row in document["rows"]}
    missing: list[str] = []

    def ours(name: str) -> float:
        value = rows.get(name, {}).get("ours")
        if value is None:
            missing.append(name)
            return float("nan")
        return float(value)

    found = Figures(
        copy_cpu_ms=ours("small objects: CPU of a copy"),
        verify_cpu_ms=ours("verify --level content: CPU of a copy"),
        byte_cpu_ns=1e9 * ours("large objects: client CPU") / LARGE_BYTES,
        plan_seconds_a_million=ours("plan: a million rows"),
        plan_bytes_a_copy=ours("plan: bytes of a copy"),
        open_receipt_bytes=ours("ledger: PostgreSQL, an open receipt"),
        sealed_batch_bytes=ours("ledger: a sealed batch"),
        sealed_receipt_bytes=ours("ledger: a sealed receipt"),
        user_bytes=ours("ledger: a user"),
        receipts_a_second=ours("ledger: PostgreSQL, receipts a second"),
    )
    if missing:
        raise MissingFiguresError(f"not measured: {', '.join(missing)}; `make bench` measures them")
    return found


@dataclass(frozen=True, slots=True)
class Sizing:
    """What it comes to."""

    objects_a_second: float
    copies_a_second: float
    read_bytes_a_second: float
    written_bytes_a_second: float
    copying_cores: float
    verifying_cores: float
    ledger_share: float
    """Of the receipts a second that one writer to the ledger commits, at the programme's pace."""
    ledger_bytes: float
    open_bytes: float
    """Of the ledger, receipts of batches under way: two a core."""
    seal_bytes: float
    plans: float
    plan_bytes: float
    plan_hours: float
    """Of planning, over all plans, on two cores."""
    get_dollars: float
    put_dollars: float
    egress_dollars: float
    core_dollars: float
    kept_dollars: float
    """Plans and seals, for the year."""

    @property
    def cores(self) -> float:
        return self.copying_cores + self.verifying_cores

    @property
    def dollars(self) -> float:
        return self.get_dollars + self.put_dollars + self.egress_dollars + self.core_dollars + self.kept_dollars


def size(programme: Programme, figures: Figures, prices: Prices = Prices()) -> Sizing:
    """The arithmetic, and nothing else."""
    objects_a_second = programme.objects / programme.seconds
    copies_a_second = programme.copies / programme.seconds
    busy = programme.share_of_time * programme.share_of_core
    bytes_ms = max(0, programme.object_bytes - _SMALL_BYTES) * figures.byte_cpu_ns / 1e6
    copying = copies_a_second * (figures.copy_cpu_ms + bytes_ms) / 1000 / busy
    verifying = copies_a_second * programme.verified_times * (figures.verify_cpu_ms + bytes_ms) / 1000 / busy
    open_copies = 2 * (copying + verifying) * _COPIES_A_BATCH
    plan_bytes = programme.copies * figures.plan_bytes_a_copy
    seal_bytes = programme.copies * figures.sealed_receipt_bytes
    gets = programme.objects + programme.copies * programme.verified_times
    months = programme.seconds / _YEAR_SECONDS * 12
    return Sizing(
        objects_a_second=objects_a_second,
        copies_a_second=copies_a_second,
        read_bytes_a_second=objects_a_second * programme.object_bytes,
        written_bytes_a_second=copies_a_second * programme.object_bytes,
        copying_cores=copying,
        verifying_cores=verifying,
        ledger_share=copies_a_second / programme.share_of_time / figures.receipts_a_second,
        ledger_bytes=programme.users * figures.user_bytes
        + programme.copies / _COPIES_A_BATCH * figures.sealed_batch_bytes
        + open_copies * figures.open_receipt_bytes,
        open_bytes=open_copies * figures.open_receipt_bytes,
        seal_bytes=seal_bytes,
        plans=programme.objects / programme.plan_rows,
        plan_bytes=plan_bytes,
        plan_hours=programme.objects / 1e6 * figures.plan_seconds_a_million / 3600,
        get_dollars=gets / 1000 * prices.get_thousand,
        put_dollars=programme.copies / 1000 * prices.put_thousand,
        egress_dollars=programme.objects * programme.object_bytes / 1e9 * prices.egress_gigabyte,
        core_dollars=(copying + verifying) * programme.seconds / 3600 * prices.core_hour,
        kept_dollars=(plan_bytes + seal_bytes) / 1e9 * prices.stored_gigabyte_month * months,
    )


def table(programme: Programme, sizing: Sizing) -> str:
    """The result as Markdown."""
    rows = (
        ("objects", f"{programme.objects:,}"),
        ("copies", f"{programme.copies:,}"),
        ("objects a second", f"{sizing.objects_a_second:,.0f}"),
        ("copies a second", f"{sizing.copies_a_second:,.0f}"),
        ("read from the sources", f"{sizing.read_bytes_a_second / 1e9:.2f} GB/s"),
        ("written to the targets", f"{sizing.written_bytes_a_second / 1e9:.2f} GB/s"),
        ("cores that copy", f"{sizing.copying_cores:.0f}"),
        ("cores that verify", f"{sizing.verifying_cores:.0f}"),
        ("of what one writer to the ledger commits", f"{sizing.ledger_share:.0%}"),
        ("ledger at the end", f"{sizing.ledger_bytes / _GIB:.0f} GiB"),
        ("of it, batches under way", f"{sizing.open_bytes / _GIB:.2f} GiB"),
        ("seals", f"{sizing.seal_bytes / _TB:.1f} TB"),
        ("plans", f"{sizing.plans:,.0f} of {programme.plan_rows:,} rows, {sizing.plan_bytes / _TB:.1f} TB"),
        ("planning, on two cores", f"{sizing.plan_hours:,.0f} h"),
        ("GET requests", f"{sizing.get_dollars:,.0f} $"),
        ("PUT requests", f"{sizing.put_dollars:,.0f} $"),
        ("bytes out of the sources", f"{sizing.egress_dollars:,.0f} $"),
        ("cores", f"{sizing.core_dollars:,.0f} $"),
        ("plans and seals kept", f"{sizing.kept_dollars:,.0f} $"),
        ("in all", f"{sizing.dollars:,.0f} $"),
    )
    return "\n".join(["| what | how much |", "| --- | ---: |", *(f"| {what} | {much} |" for what, much in rows)])


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _LATEST
    programme = Programme()
    try:
        figures = figures_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, MissingFiguresError) as error:
        sys.exit(f"bench.sizing: {path}: {error}")
    print(table(programme, size(programme, figures)))


if __name__ == "__main__":
    main()
