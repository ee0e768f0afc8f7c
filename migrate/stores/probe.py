"""What `migrate doctor` asks of a store: is it there, what can it do, is it where the spec says, does its clock agree.

A target is tried out under a scratch prefix (`probe_target`). A source, a backup or a reports store is only ever read: GET, HEAD
and LIST. A check says what was found and how to mend it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from migrate.errors import ExitCode, StoreError, worst
from migrate.model import ObjectInfo, Role
from migrate.regions import REGION_COUNTRIES
from migrate.stores.base import Capabilities, Store
from migrate.stores.probe_checks import (
    Check,
    Checks,
    CheckStatus,
    LocalQuestions,
    Questions,
    Refusals,
    StoreDetails,
)
from migrate.stores.probe_target import TargetTrial

__all__ = [
    "Check",
    "CheckStatus",
    "LocalQuestions",
    "ProbeReport",
    "Questions",
    "Refusals",
    "StoreDetails",
    "probe",
]

SKEW_FAIL_SECONDS = 300  # S3 refuses requests from 15 minutes on (RequestTimeTooSkewed)
SKEW_WARN_SECONDS = 60
_FIRST_BYTES = 1024
REACH = "reach"


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All checks of one store, and what it was found to do."""

    store: str
    checks: tuple[Check, ...]
    capabilities: Capabilities

    @property
    def is_reached(self) -> bool:
        """Whether the store gave an answer at all."""
        return not any(check.name == REACH and check.status is CheckStatus.FAIL for check in self.checks)

    @property
    def exit(self) -> ExitCode:
        """0, or the worst of the failed checks: 69 for what does not work, 77 for what policy forbids."""
        return worst(check.exit for check in self.checks)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def probe(
    store: Store,
    role: Role,
    questions: Questions,
    *,
    country: str,
    clock: Callable[[], datetime] = _utc_now,
    token: Callable[[], str] = lambda: secrets.token_hex(8),
    is_stopping: Callable[[], bool] = lambda: False,
) -> ProbeReport:
    """Ask everything. `store` and `questions` come from the door; `country` is that of the store's site.

    Raises nothing for what a store does or does not do: the report says it. InterruptedRun where `is_stopping` says so, between
    two steps and after what was written is gone again. With a target, `clock` and `token` name the scratch prefix.
    """
    checks = Checks()
    first = _reach(store, checks)
    if checks.any_failed:
        return ProbeReport(store.name, tuple(checks.found), Capabilities())
    details = _ask(questions, checks, clock, country)
    if role is Role.TARGET and worst(check.exit for check in checks.found) is ExitCode.REFUSED:
        found = Capabilities()  # nothing is written to a place where no data may be
    elif role is Role.TARGET:
        found = TargetTrial(store, questions, checks, started=clock(), token=token(), is_stopping=is_stopping).run()
    else:
        found = _read(store, first, checks)
    if details is not None and details.object_lock is not None:
        how = "is configured: each PUT goes with its Content-MD5" if details.object_lock else "is not configured"
        checks.ok("object lock", how)
        # S3 API reference, PutObject: required for an object with a retention period, which the bucket may give to each
        found = replace(found, object_lock=details.object_lock, small_put=found.small_put and not details.object_lock)
    return ProbeReport(store.name, tuple(checks.found), found)


def _reach(store: Store, checks: Checks) -> ObjectInfo | None:
    """List one page; its first object."""
    with checks.needed(REACH, "Look at the endpoint, the bucket or folder, and the credentials (ListBucket)."):
        page = next(store.list(), [])
        checks.ok(REACH, f"lists {len(page)} objects on its first page" if page else "can be listed, and is empty")
        return page[0] if page else None
    return None


def _ask(questions: Questions, checks: Checks, clock: Callable[[], datetime], country: str) -> StoreDetails | None:
    """What the server says of itself, judged."""
    details = None
    with checks.needed("server", "Look at the endpoint and the credentials."):
        details = questions.details(clock)
    if details is None:
        return None
    _judge_region(details, country, checks)
    _judge_clock(details.clock_skew_seconds, checks)
    if details.versioning is not None:
        checks.ok("versioning", "is on" if details.versioning else "is off")
    return details


def _judge_region(details: StoreDetails, country: str, checks: Checks) -> None:
    region, found = details.region, REGION_COUNTRIES.get(details.region or "")
    if not details.is_aws:
        said = "does not name its region" if region is None else f"calls its region {region!r}, by a name of its own"
        fix = f"Have the provider's word for it that the data stay in {country}."
        checks.warn("region", f"the server {said}: in which country it is, cannot be seen", fix)
    elif found == country:
        checks.ok("region", f"the server says {region}, which is in {found}")
    elif found is not None:
        fix = "Correct the site's country in the spec, or take a bucket that is there."
        checks.fail("region", f"the server says {region}, which is in {found}, not {country}", fix, ExitCode.REFUSED)
    else:
        said = "does not name its region" if region is None else f"says {region!r}, which is not known here"
        checks.warn("region", f"the server {said}", "Allow GetBucketLocation, or use a newer version of migrate.")


def _judge_clock(skew: float | None, checks: Checks) -> None:
    if skew is None:
        return
    finding = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    fix = "Set the clock by NTP; S3 refuses requests that are 15 minutes off."
    if abs(skew) > SKEW_FAIL_SECONDS:
        checks.fail("clock", finding, fix)
    elif abs(skew) > SKEW_WARN_SECONDS:
        checks.warn("clock", finding, fix)
    else:
        checks.ok("clock", "agrees with the server's")


def _read(store: Store, first: ObjectInfo | None, checks: Checks) -> Capabilities:
    """What can be found out about a store that is only read."""
    found = Capabilities()
    if first is None:
        fix = "Correct the store's `url`, unless it is to be empty: of an empty source nothing moves, and a run is blocked."
        checks.warn("read", "it holds no object, so that nothing could be read", fix)
        return found
    with checks.needed("read", "Allow GetObject."):
        info = store.head(first.key)
        length = min(info.size, _FIRST_BYTES)
        with store.get(first.key, if_match=info.etag, start=0 if length else None, length=length or None) as download:
            got = len(download.read())
        if got != length:
            raise StoreError(store.name, "GET", f"{got} bytes came instead of {length}")
        checks.ok("read", "an object's headers and first bytes were read")
        found = replace(found, etag_is_md5=info.etag_md5 is not None, metadata=True)
    with checks.wanted("tags", "Allow GetObjectTagging, or objects with tags cannot be copied from here."):
        store.get_tags(first.key)
        checks.ok("tags", "can be read")
        found = replace(found, tags=True)
    return replace(found, versions=_lists_versions(store, first.key, checks))


def _lists_versions(store: Store, key: str, checks: Checks) -> bool:
    try:
        next(iter(store.list_versions(key)), None)
    except StoreError:
        checks.ok("versions", "cannot be listed: noncurrent versions will not be counted")
        return False
    checks.ok("versions", "can be listed")
    return True
