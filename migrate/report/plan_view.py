"""What `plan`, `show`, `explain` and `diff` say of a plan: rows of texts and plain documents, from the planner's values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from migrate.model import LEAVING, MOVED, STAND_IN, CensusClass, Policy, Role, UserInfo
from migrate.planner.diff import PlanDiff
from migrate.planner.explain import Explanation
from migrate.planner.summary import Listed, PlanSummary, Share, accept_word
from migrate.spec import Spec, spec_time
from migrate.stores.base import Capabilities
from migrate.units import format_duration, format_size

DIGEST_SHOWN = 12

# What a finding means for the operator. A kind that is not here is shown without words: `test_cli_plans` names all there are.
FINDINGS: dict[str, str] = {
    "unclassified": "keys that no layout rule matches; they stay where they are",
    "review": "users whose country or status nobody has decided; they do not move",
    "claimed": "users whom the directory has by now, and whose keys were copied to every site as orphans'; what lies at other "
    "sites than theirs stays there until somebody removes it (`migrate sweep` names it)",
    "vanished": "users whom the plan before has copied and the directory does not have any more; what was copied of them stays",
    "backup_only": "keys that only a backup holds: deleted at the primary, or lost there",
    "unprobed": "copies to a store that nobody has probed as it is: run `migrate doctor SPEC` and plan again, "
    "or objects with tags, metadata or odd keys are quarantined there",
    "nothing_owned": "source stores without a key of anybody who moves: empty, another place, or another layout",
    "orphan": "keys of users whom the directory does not have; undecided, they stay where they are",
    "diverged": "keys that differ between primary and backup; the primary's are copied",
    "incomparable": "keys whose ETags cannot be compared between primary and backup; the primary's are copied",
    "unbacked": "keys that the backup does not hold; copied from the primary",
    "noncurrent": "versions beyond the current one; they do not move",
    "delete_marker": "delete markers; they do not move",
    "open_upload": "multipart uploads that were begun at a source and not ended; they do not move",
    "no_tags": "copies to a store that keeps no tags; an object that has some is quarantined",
    "no_metadata": "copies to a store that keeps no user metadata; an object that has some is quarantined",
    "archived": "objects in an archive class; restore them first, or they are quarantined",
    "customer_key": "objects under a customer's key (SSE-C); they cannot be read and are quarantined",
    "object_lock": "objects under a lock; the lock does not move",
    "too_large": "objects larger than S3's multipart uploads reach; they are quarantined",
    "key_too_long": "keys that are too long at the target; they are quarantined",
    "odd_key": "keys that the target store may not hold under their own name",
}

POLICIES: dict[str | None, str] = {
    Policy.COPY: "copied to every site that placement names",
    Policy.KEEP: "kept at the source for now",
    Policy.EXCLUDE: "left at the source",
    None: "blocks a run until the spec decides",
}


def summary_document(summary: PlanSummary, unprobed: Sequence[str] = ()) -> dict[str, Any]:
    """A plan in numbers, as plain data. No user and no key, but for those that were asked for."""
    document = asdict(replace(summary, listed=None))
    del document["listed"]
    if summary.listed is not None:
        document["listed"] = listed_document(summary.listed)
    document["blockers"] = [{**asdict(blocker), "accept": accept_word(blocker)} for blocker in summary.blockers]
    document["unprobed_stores"] = list(unprobed)
    return document


def listed_document(rows: Sequence[Listed]) -> list[dict[str, Any]]:
    """Findings of one kind, as plain data."""
    return [
        {"store": row.store, "user": row.user_id, "key": row.key, "detail": row.detail, "count": row.count}
        for row in rows
    ]


def share_rows(shares: Sequence[Share]) -> list[tuple[str, ...]]:
    """Name, users, copies and bytes of each, and of all where there are several."""
    rows = [_share(share.name, [share]) for share in shares]
    return [*rows, _share("all", shares)] if len(shares) > 1 else rows


def site_rows(shares: Sequence[Share], spec: Spec) -> list[tuple[str, ...]]:
    """Site, country, role, users, copies, bytes. A user has a row at its home and one at its backup, so there is no sum."""
    return [
        (share.name, spec.sites[share.name].country, str(share.role), *_share(share.name, [share])[1:])
        for share in shares
    ]


def _share(name: str, shares: Sequence[Share]) -> tuple[str, ...]:
    return (
        name,
        f"{sum(share.users for share in shares):,}",
        f"{sum(share.copies for share in shares):,}",
        format_size(sum(share.size_bytes for share in shares)),
    )


def census_rows(census: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Store, keys listed, and of these in each class: the classes add up to what was listed (invariant 3)."""
    return [
        (store, f"{counts['listed']:,}", *(f"{counts['classes'][kind.value]:,}" for kind in CensusClass))
        for store, counts in census.items()
    ]


def inputs_line(summary: PlanSummary, spec: Spec) -> str:
    """What the plan was made from, and which time each shows: a listing may be an earlier attempt's."""
    return ", ".join(
        f"{found['input']} of {spec_time(datetime.fromisoformat(found['as_of']), spec)}" for found in summary.inputs
    )


def left_out_lines(summary: PlanSummary) -> list[str]:
    """What inventories list beside the keys of the census, so that no row of theirs is unaccounted for (invariant 3)."""
    return [
        f"the inventory of {found['input']} lists {found['left_out']:,} more, which are no objects of the store: "
        "outside its prefix, or the prefix itself"
        for found in summary.inputs
        if found.get("left_out")
    ]


def policy_rows(policies: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What becomes of shared objects, by layout rule, and of orphans: the policy, its reason, and of how many keys."""
    return [
        (
            row["rule"] or "orphans",
            row["policy"] or "undecided",
            f"{row['objects']:,}",
            format_size(row["size_bytes"]),
            row["reason"] or POLICIES[row["policy"]],
        )
        for row in policies
    ]


def reconciliation_rows(reconciliation: Mapping[str, Mapping[str, int]]) -> list[tuple[str, ...]]:
    """How the keys of planned users stand in the backups beside their source: a row a kind, and in it a number a backup."""
    kinds = sorted({kind for counts in reconciliation.values() for kind in counts})
    return [
        (kind.replace("_", " "), *(f"{counts.get(kind, 0):,}" for counts in reconciliation.values())) for kind in kinds
    ]


def finding_rows(findings: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Kind, how many, and what it means."""
    return [(kind, f"{count:,}", FINDINGS.get(kind, "")) for kind, count in sorted(findings.items())]


def cutover_lines(summary: PlanSummary) -> list[str]:
    """Who cannot be cut over by this plan, said while there is time to change it."""
    lines = []
    rules, users = summary.cutover["unlistable_rules"], summary.cutover["users_too_large"]
    if rules:
        lines.append(
            f"nobody can be cut over: keys of {', '.join(rules)} cannot be listed by user (the pattern does not begin with one)"
        )
    if users:
        lines.append(f"{users:,} users have more objects than may be listed in a freeze (cutover.objects_max)")
    return lines


def closed_lines(summary: PlanSummary) -> list[str]:
    """Which sites take no more users, and from which one on."""
    return [
        f"{site} is full: from the {closing['turn']:,}th user in the order of turns, with {format_size(closing['bytes_placed'])}"
        for site, closing in sorted(summary.closed.items())
    ]


def skew_lines(summary: PlanSummary) -> list[str]:
    """How far the inventories of a backup and its source are apart in time."""
    return [
        f"the inventory of {backup} is {format_duration(abs(seconds))} {'younger' if seconds > 0 else 'older'} than its source's"
        for backup, seconds in sorted(summary.skew_seconds.items())
        if seconds
    ]


def forecast_lines(summary: PlanSummary) -> tuple[str, str]:
    """What is read and written, in requests and bytes; and how long that takes at least."""
    forecast = summary.forecast
    parts = ""
    if forecast.part_requests:
        parts = f" and {forecast.part_requests:,} parts of {forecast.upload_requests // 2:,} uploads"
    reads = f"{forecast.get_requests:,} GET ({format_size(forecast.bytes_read)})"
    writes = f"{forecast.put_requests:,} PUT{parts} ({format_size(forecast.bytes_written)})"
    return f"{reads}, {writes}", f"{format_duration(forecast.seconds)} or more with one worker"


def unprobed_stores(spec: Spec, capabilities: Mapping[str, Capabilities]) -> list[str]:
    """The S3 stores that nobody has probed as they are now: planning assumes the least of them. A folder needs no probe."""
    return [
        name
        for name, store in sorted(spec.by_role(Role.SOURCE, Role.BACKUP, Role.TARGET).items())
        if store.scheme == "s3" and name not in capabilities
    ]


# one user


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    return asdict(explanation)


def alternative_rows(explanation: Explanation) -> list[tuple[str, str, str]]:
    """What was chosen and what lost, with the reason."""
    user = explanation.user
    chosen = [(kind, site, "chosen") for kind, site in (("home", user.home), ("backup", user.backup)) if site]
    lost = [(other.kind, other.site, other.lost.value) for other in explanation.alternatives]
    return sorted([*chosen, *lost], key=lambda row: (row[0] != "home", row[2] != "chosen"))


def state_words(user: UserInfo) -> str:
    """Why a user who is in scope by residence, or may be, does not move, and what would change it; empty for all others."""
    if user.state == LEAVING:
        return "was to move, and is out of scope by now: what was copied is removed"
    if user.state == STAND_IN:
        return "no person: shared objects and orphans that are copied to every site belong to it"
    if user.state == MOVED:
        return "lives at the new home already, or is on the way there: the sources count no more"
    if user.state == "held":
        return "is on hold in the directory: moves with a later plan, when that is lifted"
    if user.state != "review":
        return ""
    rule = user.scope_rule.rpartition("/")[2]
    why = {
        "scope.statuses": "has a status that is not among scope.statuses",
        "unknown": "has a country of residence that is no code of ISO 3166-1",
        "no-country": "has no country of residence",
    }.get(rule, "lives where scope.decisions says review")
    return f"{why}: mend the directory or the spec and plan again, or accept that they stay"


# two plans


def value_text(value: Any) -> str:
    """A spec's value as a person reads it; a dash where there is none."""
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def diff_document(found: PlanDiff) -> dict[str, Any]:
    return asdict(found)


def diff_rows(found: PlanDiff) -> list[tuple[str, str, str]]:
    """What changed, how many, and their bytes. Only what did."""
    counts: list[tuple[str, int, str]] = [
        ("users added", found.users_added, ""),
        ("users removed", found.users_removed, ""),
        ("users in another state", found.users_state_changed, ""),
        ("users with another home or backup", found.users_moved, ""),
        ("users in another wave", found.users_wave_changed, ""),
    ]
    for what, change in (
        ("copies added", found.copies_added),
        ("copies removed", found.copies_removed),
        ("copies changed", found.copies_changed),
    ):
        counts.append((what, change.copies, format_size(change.size_bytes)))
    return [(what, f"{count:,}", size) for what, count, size in counts if count]
