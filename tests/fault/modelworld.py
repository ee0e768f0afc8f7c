"""The world of the model test: small, in memory, and known by heart. What is to come of it is said here, apart from the product.

There are two cohorts of users with sources of their own and the same targets. Each is one plan, built by the real planner from
live listings; plans are built once, since their sources are the same at the start of every example.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate.model import Attributes, Level, PlannedObject, Purpose
from migrate.planner.build import build_plan
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.summary import summarise
from migrate.spec import spec_from_data
from migrate.stores.base import Capabilities
from migrate.stores.door import Door, Visitor
from migrate.stores.memory import ALL_CAPABILITIES, MemoryPlace, place
from migrate.workspace import Workspace

TARGETS = ("dublin-1", "dublin-2", "hamar")
COHORTS = ({"ann": "IE", "bo": "NO", "cy": "DE"}, {"dag": "SE", "eve": "FR"})
PART_BYTES = 16  # of large objects, here
LARGE_BYTES = 40  # from here on an object is large
THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Beside = tuple[Attributes, tuple[tuple[str, str], ...]]


def spec_data(cohort: int) -> dict[str, Any]:
    return {
        "format": 1,
        "name": f"cohort-{cohort}",
        "sites": {
            "us": {"country": "US"},
            "singapore": {"country": "SG"},
            "dublin-1": {"country": "IE"},
            "dublin-2": {"country": "IE"},
            "hamar": {"country": "NO"},
        },
        "stores": {
            "us": {"site": "us", "role": "source", "url": f"memory:us-{cohort}"},
            "singapore": {
                "site": "singapore",
                "role": "backup",
                "backup_of": "us",
                "url": f"memory:singapore-{cohort}",
            },
            **{name: {"site": name, "role": "target", "url": f"memory:{name}"} for name in TARGETS},
        },
        "directory": {"path": f"users-{cohort}.csv", "as_of": datetime.now(UTC).isoformat()},
        "layout": {"rules": [{"name": "files", "pattern": "users/{user}/{rest}", "category": "restricted"}]},
        "placement": {
            "rules": [
                {"name": "nordic", "countries": ["NO", "SE"], "home": ["hamar"], "backup": ["dublin-1", "dublin-2"]},
                {"name": "others", "countries": ["*"], "home": ["dublin-1", "dublin-2"], "backup": list(TARGETS)},
            ]
        },
        "residency": {"target_countries": ["IE", "NO"], "worker_countries": ["IE"]},
        "batches": {"copies_max": 6},
        "waves": {"canary": "10%", "count": 1},
        "verify": {"level": "content"},
        "run": {"country": "IE", "concurrency": 3},
    }


def body_of(name: str, size: int) -> bytes:
    """Bytes that depend on the name."""
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


def lay_sources(cohort: int) -> None:
    """What the sources of a cohort hold at the start: plain, tagged, large and diverged objects, and one in the backup alone."""
    us, singapore = place(f"us-{cohort}"), place(f"singapore-{cohort}")
    for user in COHORTS[cohort]:
        for number in range(3):
            key = f"users/{user}/{number}"
            size = 45 if user in ("ann", "dag") and number == 1 else 5 + number
            attributes = Attributes(content_type="image/jpeg", metadata=(("n", str(number)),))
            tags = {"kind": "photo"} if number else {}
            for target in (us, singapore):
                target.seed(key, body_of(key, size), attributes=attributes, tags=tags, last_modified=THEN)
    user = next(iter(COHORTS[cohort]))
    singapore.seed(f"users/{user}/0", b"older", last_modified=THEN)
    singapore.seed(f"users/{user}/deleted", b"gone from the primary", last_modified=THEN)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One copy that a plan is to make, as the test says it, with the place that it has in the plan."""

    cohort: int
    user: str
    source: str  # the name of the place
    key: str
    store: str
    body: bytes
    number: int  # of its batch
    ordinal: int

    @property
    def at(self) -> tuple[str, str]:
        return self.store, self.key


@dataclass(frozen=True)
class CohortPlan:
    """A cohort's plan, and what it comes to."""

    plan: Plan
    copies: tuple[Wanted, ...]
    accept: tuple[str, ...]


@functools.cache
def plan_of(cohort: int, conditional: bool, root: Path) -> CohortPlan:
    """Plan a cohort in the workspace `root`, and hold the plan against what the test expects of it."""
    able: Capabilities = replace(ALL_CAPABILITIES, conditional_put=conditional)
    people = COHORTS[cohort]
    (root / f"users-{cohort}.csv").write_text(
        "user_id,country\n" + "".join(f"{user},{country}\n" for user, country in people.items()), encoding="utf-8"
    )
    spec = spec_from_data(spec_data(cohort), place="the model test")
    able_by_store = dict.fromkeys(TARGETS, able)
    visitor = Visitor("op", "host", "IE", Purpose.PLAN, None)
    workspace = Workspace(root)
    door = Door(spec, workspace, visitor, capabilities=able_by_store)
    plan = build_plan(
        spec,
        workspace,
        door,
        capabilities=able_by_store,
        now=lambda: datetime.now(UTC),
        on_progress=lambda stage, done: None,
    )
    assert isinstance(plan, Plan)
    assert plan.spec.verify.level is Level.CONTENT
    accept = tuple(f"{found.kind}:{found.count}:{found.digest[:12]}" for found in summarise(plan.document).blockers)
    copies = tuple(_wanted(cohort, plan))
    _check_plan(cohort, copies)
    return CohortPlan(plan, copies, accept)


def _wanted(cohort: int, plan: Plan) -> Iterator[Wanted]:
    reader = PlanReader(plan)
    for batch in plan.batches():
        planned: PlannedObject
        for planned in reader.objects(batch):
            held = place(f"us-{cohort}").find(planned.key)
            assert planned.store == "us"
            assert held is not None
            for copy in planned.copies:
                yield Wanted(
                    cohort,
                    planned.user_id,
                    f"us-{cohort}",
                    planned.target_key,
                    copy.store,
                    held.body,
                    batch.number,
                    copy.ordinal,
                )
    reader.close()


def _check_plan(cohort: int, copies: tuple[Wanted, ...]) -> None:
    """Each object of the primary goes to two sites under its own key, and to Hamar where its owner lives in the north."""
    by_key: dict[str, set[str]] = {}
    for wanted in copies:
        assert wanted.key.split("/")[1] == wanted.user
        by_key.setdefault(wanted.key, set()).add(wanted.store)
    assert len(copies) == 2 * len(by_key)
    assert set(by_key) == {f"users/{user}/{number}" for user in COHORTS[cohort] for number in range(3)}
    for key, stores in by_key.items():
        assert len(stores) == 2
        assert "hamar" in stores or COHORTS[cohort][key.split("/")[1]] not in ("NO", "SE")


class Oracle:
    """What may be where. Knows the plans' copies and what the test itself did to sources and targets; nothing of the ledger."""

    def __init__(self) -> None:
        self.copies: list[Wanted] = []
        self.by_place: dict[tuple[str, str], Wanted] = {}
        self.beside: dict[
            tuple[str, str], list[Beside]
        ] = {}  # by source and key: all that stood beside the bytes, so far
        self.lost: set[tuple[str, str]] = set()  # sources that are not what was planned any more
        self.sources: dict[tuple[str, str], bytes | None] = {}
        self.foreign: dict[tuple[str, str], bytes] = {}  # what the test laid at a target
        self.occupants: set[tuple[str, str]] = set()  # of these, what was there before we wrote
        self.extra_since: dict[tuple[str, str], int] = {}
        self.harmed: dict[tuple[str, str], int] = {}  # copies that the test broke, and when
        self.written: set[tuple[str, str]] = set()  # copies that were seen to be right
        self.moment = 0

    def add(self, found: CohortPlan) -> None:
        for wanted in found.copies:
            self.copies.append(wanted)
            self.by_place[wanted.at] = wanted
            held = place(wanted.source).find(wanted.key)
            assert held is not None
            self.beside[wanted.source, wanted.key] = [beside_of(held.info.attributes, held.tags)]
            self.sources[wanted.source, wanted.key] = held.body

    def is_right(self, at: tuple[str, str]) -> bool:
        """Whether the target holds the planned bytes, and beside them what stood beside the source's at some time."""
        wanted = self.by_place[at]
        held = place(wanted.store).find(wanted.key)
        return (
            held is not None
            and held.body == wanted.body
            and beside_of(held.info.attributes, held.tags) in self.beside[wanted.source, wanted.key]
        )

    def look(self) -> None:
        """Compare all places with what may be there (invariants 1, 2 and 7). Harm that was mended is forgotten."""
        for at in self.by_place:
            if self.is_right(at):
                self.written.add(at)
                self.harmed.pop(at, None)
                self.foreign.pop(at, None)
                assert at not in self.occupants, f"{at}: what somebody else had there was overwritten"
        for store in TARGETS:
            for key in keys_of(place(store)):
                at = (store, key)
                held = place(store).find(key)
                assert held is not None
                if at in self.foreign:
                    assert held.body == self.foreign[at], f"{at}: somebody else's object was changed"
                else:
                    assert at in self.by_place, f"{at} is no copy of any plan"
                    assert self.is_right(at), f"{at} is not what its source was"
        for at in self.occupants:
            assert place(at[0]).find(at[1]) is not None, f"{at}: what somebody else had there is gone"
        for (source, key), body in self.sources.items():
            held = place(source).find(key)
            assert (None if held is None else held.body) == body, f"{source} {key}: the source was written to"

    def extras(self, user: str) -> list[tuple[str, str]]:
        return [at for at in self.foreign if at not in self.by_place and at[1].startswith(f"users/{user}/")]


def keys_of(target: MemoryPlace) -> list[str]:
    found, after = [], ""
    while True:
        page, next_after = target.page("", after)
        found += [info.key for info in page]
        if next_after is None:
            return found
        after = next_after


def beside_of(attributes: Attributes, tags: dict[str, str]) -> Beside:
    return attributes, tuple(sorted(tags.items()))
