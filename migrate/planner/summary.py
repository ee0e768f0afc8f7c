"""What `migrate plan` and `migrate show` say of a plan, as values; the command line puts it into words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

OBJECTS_PER_SECOND = 450
BYTES_PER_SECOND = 100 * 10**6


_DIGITS = 12  # of a digest, in what is to be typed
UNPROBED = "unprobed"
"""The blocker that a probe answers: its acceptance costs tags and odd keys, so no hint has it ready to be pasted."""


@dataclass(frozen=True, slots=True)
class Share:
    """Users and copies of a country, of a site in a role, or of a wave. `size_bytes` counts every copy."""

    name: str
    users: int
    copies: int
    size_bytes: int
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Blocker:
    """What keeps `run` from starting: its kind, how many keys or users, and the digest that accepts just these."""

    kind: str
    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the plan's findings, or a key that one counts."""

    store: str
    user_id: str | None
    key: str | None
    detail: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The requests that a run comes to, without tags (what objects have tags is not known before), and its least duration.

    `seconds` is by the slower of both rates, for one worker process. Bytes are counted once for reading, and by copy for
    writing.
    """

    get_requests: int
    put_requests: int
    part_requests: int
    upload_requests: int  # begin and complete a multipart upload
    bytes_read: int
    bytes_written: int
    seconds: int


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan in numbers. `inputs`, `census`, `policies`, `reconciliation` and `closed` are as in `plan.json`.

    `listed` are findings of one kind, of a plan that is not kept, where they were asked for; else None.
    """

    digest: str
    name: str
    built_at: str
    users: dict[str, int]
    objects: int
    copies: int
    size_bytes: int
    batches: int
    by_country: tuple[Share, ...]
    by_site: tuple[Share, ...]
    by_wave: tuple[Share, ...]
    inputs: list[dict[str, Any]]
    census: dict[str, Any]
    policies: list[dict[str, Any]]
    reconciliation: dict[str, dict[str, int]]
    skew_seconds: dict[str, int]
    closed: dict[str, dict[str, int]]
    findings: dict[str, int]
    blockers: tuple[Blocker, ...]
    forecast: Forecast
    cutover: dict[str, Any]  # `unlistable_rules`, `users_too_large`
    listed: tuple[Listed, ...] | None = None


def summarise(
    document: Mapping[str, Any],
    *,
    objects_per_second: int = OBJECTS_PER_SECOND,
    bytes_per_second: int = BYTES_PER_SECOND,
) -> PlanSummary:
    """The summary of a plan from its `plan.json`, with the rates of one worker process."""
    totals = document["totals"]
    return PlanSummary(
        digest=document["digest"],
        name=document["name"],
        built_at=document["built_at"],
        users=totals["users"],
        objects=totals["objects"],
        copies=totals["copies"],
        size_bytes=totals["size_bytes"],
        batches=totals["batches"],
        by_country=tuple(_share(row, "country") for row in totals["by_country"]),
        by_site=tuple(_share(row, "site") for row in totals["by_site"]),
        by_wave=tuple(_share(row, "wave") for row in totals["by_wave"]),
        inputs=document["inputs"],
        census=document["census"],
        policies=document.get("policies", []),  # which plans of earlier versions do not have
        reconciliation=document["reconciliation"],
        skew_seconds=document["skew_seconds"],
        closed=document["placement"]["closed"],
        findings=document["findings"],
        blockers=tuple(Blocker(**blocker) for blocker in document["blockers"]),
        forecast=_forecast(document, objects_per_second, bytes_per_second),
        cutover=document.get("cutover") or {"unlistable_rules": [], "users_too_large": 0},
    )


def _share(row: Mapping[str, Any], name: str) -> Share:
    return Share(str(row[name]), row["users"], row["copies"], row["size_bytes"], row.get("role"))


def _forecast(document: Mapping[str, Any], objects_per_second: int, bytes_per_second: int) -> Forecast:
    counts, totals = document["forecast"], document["totals"]
    read, written = counts["bytes_read"], totals["size_bytes"]
    by_objects = -(-totals["copies"] // objects_per_second)
    by_bytes = -(-written // bytes_per_second)
    return Forecast(
        get_requests=counts["whole_objects"] + counts["parts_read"],
        put_requests=counts["whole_copies"],
        part_requests=counts["parts_written"],
        upload_requests=2 * counts["parted_copies"],
        bytes_read=read,
        bytes_written=written,
        seconds=max(by_objects, by_bytes),
    )


def accept_word(blocker: Blocker) -> str:
    """What `migrate run --accept` takes to accept just these keys or users."""
    return f"{blocker.kind}:{blocker.count}:{blocker.digest[:_DIGITS]}"


def how(blockers: Sequence[Blocker]) -> str:
    """What `ways_on` does, in words."""
    if any(blocker.kind == UNPROBED for blocker in blockers):
        return "probe the targets first, and plan again"
    return "decide them in the spec and plan again, or accept just these"


def ways_on(digest: str, blockers: Sequence[Blocker], *, given: Sequence[str] = ()) -> list[str]:
    """The commands that answer blockers: a probe of targets that nobody has probed, and planning again; else a run that accepts
    just these. `given` was accepted on the command line already."""
    if any(blocker.kind == UNPROBED for blocker in blockers):
        return ["migrate doctor SPEC", "migrate plan SPEC"]
    words = " ".join(f"--accept {word}" for word in (*given, *map(accept_word, blockers)))
    return [f"migrate run {digest[:_DIGITS]} {words}"]


def accept_words(blockers: Sequence[Blocker]) -> tuple[str, ...]:
    """What accepts all of them; nothing where accepting is no way on, since targets are to be probed."""
    return () if any(blocker.kind == UNPROBED for blocker in blockers) else tuple(map(accept_word, blockers))


def sources_seen(document: Mapping[str, Any], sources: Collection[str]) -> datetime:
    """When the sources were looked at for a plan; of several inventories, the oldest. What changed since it does not know."""
    return min(datetime.fromisoformat(row["as_of"]) for row in document["inputs"] if row["input"] in sources)
