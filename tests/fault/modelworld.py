"""The world of the model test: small, in memory, and known by heart. What is to come of it is said here, apart from the product.

There are two cohorts of users with sources of their own and the same targets. Each is one line of plans, built by the real
planner from live listings; the first plans are built once, since their sources are the same at the start of every example.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate.jobs.continuing import LineReader
from migrate.ledger import Ledger
from migrate.model import TOMBSTONES, Attributes, Level, PlannedObject, Purpose
from migrate.planner.build import build_plan
from migrate.planner.folder import Plan, PlanReader
from migrate.planner.summary import summarise
from migrate.spec import Spec, spec_from_data
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
Seen = tuple[int, int]
"""Of a source object as a plan has seen it: how often it had been written or deleted, and how often what stands beside it."""


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
    body: bytes | None  # None: what the line has left there is removed
    number: int  # of its batch
    ordinal: int
    plan: str  # its digest
    seen: Seen = (0, 0)

    @property
    def at(self) -> tuple[str, str]:
        return self.store, self.key

    @property
    def origin(self) -> tuple[str, str]:
        return self.source, self.key


@dataclass(frozen=True)
class CohortPlan:
    """A plan of a cohort's line, and what it comes to."""

    cohort: int
    plan: Plan
    copies: tuple[Wanted, ...]
    accept: tuple[str, ...]


@functools.cache
def plan_of(cohort: int, conditional: bool, root: Path) -> CohortPlan:
    """Plan a cohort in the workspace `root`, and hold the plan against what the test expects of it."""
    able: Capabilities = replace(ALL_CAPABILITIES, conditional_put=conditional)
    lay_directory(cohort, root)
    spec = spec_from_data(spec_data(cohort), place="the model test")
    found = _planned(cohort, spec, Workspace(root), dict.fromkeys(TARGETS, able))
    assert found.plan.spec.verify.level is Level.CONTENT
    _check_plan(cohort, found.copies)
    return found


def lay_directory(cohort: int, root: Path) -> None:
    people = COHORTS[cohort]
    (root / f"users-{cohort}.csv").write_text(
        "user_id,country\n" + "".join(f"{user},{country}\n" for user, country in people.items()), encoding="utf-8"
    )


def delta_of(before: CohortPlan, workspace: Workspace, ledger: Ledger, oracle: Oracle) -> CohortPlan:
    """Plan what has changed since `before`, as `migrate delta` does, and hold that against what the test expects of it. Raises
    what LineReader raises."""
    with closing(LineReader(before.plan, workspace, ledger)) as reader:
        found = _planned(before.cohort, before.plan.spec, workspace, before.plan.capabilities, reader, oracle)
    oracle.check_delta(found)
    return found


def _planned(
    cohort: int,
    spec: Spec,
    workspace: Workspace,
    able: Mapping[str, Capabilities],
    reader: LineReader | None = None,
    oracle: Oracle | None = None,
) -> CohortPlan:
    visitor = Visitor("op", "host", "IE", Purpose.PLAN, None)
    with closing(Door(spec, workspace, visitor, capabilities=able)) as door:
        plan = build_plan(
            spec,
            workspace,
            door,
            capabilities=able,
            now=lambda: datetime.now(UTC),
            on_progress=lambda stage, done: None,
            line=None if reader is None else lambda scratch: reader.line(scratch, door.open),
        )
    assert isinstance(plan, Plan)
    accept = tuple(f"{found.kind}:{found.count}:{found.digest[:12]}" for found in summarise(plan.document).blockers)
    return CohortPlan(cohort, plan, tuple(_wanted(cohort, plan, oracle)), accept)


def _wanted(cohort: int, plan: Plan, oracle: Oracle | None) -> Iterator[Wanted]:
    reader = PlanReader(plan)
    for batch in plan.batches():
        planned: PlannedObject
        for planned in reader.objects(batch):
            origin = f"us-{cohort}", planned.key
            held = place(origin[0]).find(planned.key)
            assert planned.store == "us"
            assert (held is None) == (planned.flag in TOMBSTONES)
            for copy in planned.copies:
                yield Wanted(
                    cohort,
                    planned.user_id,
                    *origin,
                    copy.store,
                    None if held is None else held.body,
                    batch.number,
                    copy.ordinal,
                    plan.digest,
                    (0, 0) if oracle is None else oracle.seen(origin),
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
        self.versions: dict[
            tuple[str, str], list[Wanted]
        ] = {}  # by target and key: what each plan of the line wants there
        self.reached: dict[tuple[str, str], int] = {}  # the newest of these that was there at any time
        self.current: list[str] = []  # by cohort, the plan that no other continues
        self.beside: dict[
            tuple[str, str], list[Beside]
        ] = {}  # by source and key: all that stood beside the bytes, so far
        self.writings: Counter[tuple[str, str]] = (
            Counter()
        )  # by source and key: how often the object was written or deleted
        self.sources: dict[tuple[str, str], bytes | None] = {}
        self.foreign: dict[tuple[str, str], bytes] = {}  # what the test laid at a target
        self.occupants: set[tuple[str, str]] = set()  # of these, what was there before we wrote
        self.extra_since: dict[tuple[str, str], int] = {}
        self.harmed: dict[tuple[str, str], int] = {}  # copies that the test broke, and when
        self.written: set[tuple[str, str]] = set()  # places where a copy was seen to be right
        self.forgotten: set[str] = set()  # users whose deletion was asked for
        self.moment = 0

    @property
    def copies(self) -> list[Wanted]:
        """The newest word on each place."""
        return [versions[-1] for versions in self.versions.values()]

    def begin(self, found: CohortPlan) -> None:
        """A cohort's first plan is there, or a delta of its line has begun."""
        if found.cohort == len(self.current):
            self.current.append("")
            for origin in dict.fromkeys(wanted.origin for wanted in found.copies):
                self.lay(origin)
        self.current[found.cohort] = found.plan.digest
        for wanted in found.copies:
            self.versions.setdefault(wanted.at, []).append(wanted)

    def lay(self, origin: tuple[str, str]) -> None:
        """Take down what a source holds by now."""
        held = place(origin[0]).find(origin[1])
        self.sources[origin] = None if held is None else held.body
        if held is not None:
            self.beside.setdefault(origin, []).append(beside_of(held.info.attributes, held.tags))

    def seen(self, origin: tuple[str, str]) -> Seen:
        return self.writings[origin], len(self.beside[origin]) - 1

    def is_lost(self, wanted: Wanted) -> bool:
        """Whether the source is not what was planned any more."""
        return self.writings[wanted.origin] != wanted.seen[0]

    def is_newest(self, wanted: Wanted) -> bool:
        """Whether the newest plan of its line has planned it; else that one keeps it, and looks at it no more."""
        return wanted.plan == self.current[wanted.cohort]

    def is_there(self, wanted: Wanted) -> bool:
        """Whether the target holds the planned bytes, and beside them what stood beside the source's at some time since. Tags are
        read after the rest: of a source that was written again in between, with the same bytes, they are the later ones."""
        held = place(wanted.store).find(wanted.key)
        if held is None or wanted.body is None:
            return held is None and wanted.body is None
        beside = self.beside[wanted.origin][wanted.seen[1] :]
        attributes, tags = beside_of(held.info.attributes, held.tags)
        return held.body == wanted.body and any(
            found == attributes and any(later == tags for _, later in beside[number:])
            for number, (found, _) in enumerate(beside)
        )

    def standing(self, at: tuple[str, str]) -> int | None:
        """Which of the versions is there, the newest that it can be; None where none is."""
        found = [number for number, wanted in enumerate(self.versions[at]) if self.is_there(wanted)]
        return max(found, default=None)

    def is_right(self, wanted: Wanted) -> bool:
        """Whether its place holds it, or what a newer plan wants there."""
        number = self.standing(wanted.at)
        return number is not None and number >= self.versions[wanted.at].index(wanted)

    def look(self) -> None:
        """Compare all places with what may be there (invariants 1, 2 and 7). Harm that was mended is forgotten."""
        for at in self.versions:
            number = self.standing(at)
            if number is not None:
                self.written.add(at)
                self.harmed.pop(at, None)
                self.foreign.pop(at, None)
                assert at not in self.occupants, f"{at}: what somebody else had there was overwritten"
                assert number >= self.reached.get(at, 0), f"{at}: an older plan's copy came back"
                self.reached[at] = number
        for store in TARGETS:
            for key in keys_of(place(store)):
                at = (store, key)
                held = place(store).find(key)
                assert held is not None
                if at in self.foreign:
                    assert held.body == self.foreign[at], f"{at}: somebody else's object was changed"
                else:
                    assert at in self.versions, f"{at} is no copy of any plan"
                    assert self.standing(at) is not None, f"{at} is not what its source was"
        for at in self.occupants:
            assert place(at[0]).find(at[1]) is not None, f"{at}: what somebody else had there is gone"
        for (source, key), body in self.sources.items():
            held = place(source).find(key)
            assert (None if held is None else held.body) == body, f"{source} {key}: the source was written to"

    def extras(self, user: str) -> list[tuple[str, str]]:
        return [at for at in self.foreign if at not in self.versions and at[1].startswith(f"users/{user}/")]

    def newest_of(self, origin: tuple[str, str]) -> Wanted | None:
        """The newest word of the line on an object; None where no plan has it."""
        source, key = origin
        return next((found for found in self.copies if found.origin == (source, key)), None)

    def has_changed(self, cohort: int) -> bool:
        """Whether a source of the cohort is not what the newest plan of the line that names it has seen."""
        return any(self._is_changed(origin) for origin in self.followed(cohort))

    def followed(self, cohort: int) -> list[tuple[str, str]]:
        """The objects of a cohort's sources, but for those of who is forgotten."""
        of_cohort = (origin for origin in self.sources if origin[0] == f"us-{cohort}")
        return [origin for origin in of_cohort if user_of(origin[1]) not in self.forgotten]

    def _is_changed(self, origin: tuple[str, str]) -> bool:
        newest = self.newest_of(origin)
        return self.sources[origin] is not None if newest is None else newest.seen != self.seen(origin)

    def check_delta(self, found: CohortPlan) -> None:
        """What changed is in a delta, and goes where all of the user's goes. Of who is forgotten nothing is."""
        planned: dict[tuple[str, str], set[str]] = {}
        for wanted in found.copies:
            planned.setdefault(wanted.origin, set()).add(wanted.store)
            assert wanted.user not in self.forgotten
            assert wanted.body == self.sources[wanted.origin]
        for origin, stores in planned.items():
            assert stores == self.stores_of(user_of(origin[1])), f"{origin} would go elsewhere"
        for origin in self.followed(found.cohort):
            if self._is_changed(origin):
                assert origin in planned, f"{origin} has changed, and is not in the delta"

    def stores_of(self, user: str) -> set[str]:
        return {store for store, key in self.versions if key.startswith(f"users/{user}/")}

    def check_mirror(self, cohort: int, users: Container[str] | None = None) -> None:
        """Each object that a source has, of all users or of some, is where its user belongs, as it is, and what the source has no
        more is not; but for what a delta keeps and the test has broken since, which nobody has looked at again."""
        for source, key in self.followed(cohort):
            if users is not None and user_of(key) not in users:
                continue
            body = self.sources[source, key]
            for store in self.stores_of(user_of(key)):
                at, held = (store, key), place(store).find(key)
                if at in self.harmed and at in self.versions and not self.is_newest(self.versions[at][-1]):
                    continue
                assert (None if held is None else held.body) == body, f"{at} is not as its source"
                if held is not None:
                    now = self.beside[source, key][-1]
                    assert beside_of(held.info.attributes, held.tags) == now, f"{at} has not what is beside its source"

    def check_gone(self, user: str, occupied: set[tuple[str, str]]) -> None:
        """Of who was erased the targets have what somebody else has laid there, and what a copy took for somebody else's."""
        for store in TARGETS:
            for key in keys_of(place(store)):
                if user_of(key) == user:
                    assert (store, key) in self.foreign or (store, key) in occupied, f"{(store, key)} is left of {user}"


def user_of(key: str) -> str:
    return key.split("/")[1]


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
