"""The spec's sections, as frozen values: what each key is called, what it means, and what one section can see of itself.

What lies between sections is `checks`' business. What decides who, what and where is part of a plan's digest (`deciding`);
limits, the time zone and references to secrets are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from migrate.model import Category, Level, Policy, Role, stand_in_id
from migrate.spec.places import check_endpoint, check_url
from migrate.spec.routing import Routing
from migrate.spec.values import (
    DECIDED,
    TIME_OF_DAY,
    Country,
    Name,
    PlacedCountry,
    Ppm,
    Rate,
    Reference,
    Seconds,
    Section,
    Size,
)


class Site(Section):
    """A place under one jurisdiction."""

    country: Country
    """The country whose law the site is under."""
    weight: int = Field(default=1, ge=1, le=64)
    """Its share among the sites that a placement rule offers, in whole tickets."""
    capacity: Size | None = None
    """How many bytes of new copies it takes. Without it: no limit."""


class InventorySource(Section):
    """Where the list of a store's objects comes from."""

    kind: Literal["live", "s3-inventory", "listing"] = "live"
    """`live` lists the store; `s3-inventory` reads a `manifest.json`; `listing` reads one Parquet or CSV file."""
    path: str | None = None
    """The manifest or listing: a path (from the workspace), or `store:NAME/KEY` in a store of this spec."""
    as_of: AwareDatetime | None = None
    """The time that a `listing` shows. An S3 Inventory and a live listing bring their own."""
    max_age: Seconds = 48 * 3600
    """How old it may be when a plan is built."""
    checksummed: bool = False
    """Whether `PATH.sha256` stands beside a `listing`, as `sha256sum` writes it; it must match."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.kind == "live") == (self.path is not None):
            raise ValueError("`path` goes with kind s3-inventory or listing, and only there")
        if (self.kind == "listing") != (self.as_of is not None):
            raise ValueError("`as_of` goes with kind listing, and is required there")
        if self.checksummed and self.kind != "listing":
            raise ValueError("`checksummed` goes with kind listing: the other kinds prove themselves")
        return self


class StoreSpec(Section):
    """Data at a site: an S3 bucket and prefix, or a folder."""

    site: Name
    """The site that it is at."""
    role: Role
    """`source` is the authority, `backup` a second source, `target` takes copies, `reports` holds inventories alone."""
    url: Annotated[str, AfterValidator(check_url)]
    """`s3://BUCKET/PREFIX/` or `file:FOLDER` (from the workspace)."""
    endpoint: Annotated[str, AfterValidator(check_endpoint)] | None = None
    """The S3 endpoint's URL: `https://HOST` or `https://HOST:PORT`. Without it: AWS's of the region."""
    region: str | None = None
    """The region to sign for. An AWS region in another country than the site's is refused."""
    credentials: Reference | None = None
    """Who we are at this store. `profile:NAME` is a profile of the AWS configuration. `env:PREFIX` reads PREFIX_ACCESS_KEY_ID,
    PREFIX_SECRET_ACCESS_KEY and, for temporary keys, PREFIX_SESSION_TOKEN. `file:PATH` (from the workspace) is TOML with
    `access_key_id`, `secret_access_key` and, for temporary keys, `session_token`, readable by its owner alone (`chmod 600`)."""
    kms_key: str | None = None
    """The KMS key for what is written, by its ARN, in the bucket's region. Aliases and multi-region keys (`mrk-`) are refused."""
    backup_of: Name | None = None
    """For a backup: the source store that it is the backup of."""
    receives: tuple[Name, ...] | None = None
    """For a target: the source stores whose objects it takes. Without it: all."""
    concurrency_max: int = Field(default=128, ge=1, le=1024)
    """Requests in flight at most, over all processes of a run; each has the same share of them. A store that asks for less gets
    less."""
    timeout: Seconds = 60
    """How long one small request may take. Bodies get time by their size on top."""
    inventory: InventorySource = InventorySource()
    """For a source or a backup: where the list of its objects comes from."""

    @property
    def scheme(self) -> str:
        return self.url.split(":", 1)[0]


class DirectoryColumns(Section):
    """The names of the directory's columns."""

    user: str = "user_id"
    """The user's id, as it stands in keys: one path segment, so without a `/`."""
    country: str = "country"
    """The country of residence. Anything may stand there: what is no country's code puts the user in review."""
    hold: str | None = None
    """Whether the user is under a legal hold: planned, and not moved. Without it: nobody is."""
    status: str | None = None
    """What `scope.statuses` is about. Without it: all are as if `active`."""


class Directory(Section):
    """The table of users."""

    path: str
    """CSV or Parquet: a path (from the workspace), or `store:NAME/KEY`."""
    columns: DirectoryColumns = DirectoryColumns()
    """What its columns are called."""
    as_of: AwareDatetime
    """The time that it shows: set it with each export."""
    max_age: Seconds = 48 * 3600
    """How old it may be when a plan is built."""
    checksummed: bool = False
    """Whether `PATH.sha256` stands beside it, as `sha256sum` writes it; it must match. A CSV cut at a line's end does not."""


Reason = Annotated[str, Field(min_length=1, max_length=500)]


def _demand_reason(policy: Policy | None, reason: str | None) -> None:
    if policy is Policy.EXCLUDE and (reason is None or not reason.strip()):
        raise ValueError(
            "policy `exclude` needs a `reason`: whoever signs for the plan reads why these objects stay behind"
        )
    if policy is not Policy.EXCLUDE and reason is not None:
        raise ValueError("`reason` goes with policy `exclude`, and only there")


_PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")


def _shares_a_segment(pattern: str) -> bool:
    """Whether two placeholders stand in one path segment. `a-b-c` is no word on where `{user}-{name}` is to be cut."""
    return any(len(_PLACEHOLDER.findall(segment)) > 1 for segment in pattern.split("/"))


class LayoutRule(Section):
    """Which keys belong to whom.

    `{user}` and other `{names}` stand for one path segment or a part of it, `{rest}` at the end for all that is left. A segment
    holds one placeholder at most, so that a key can be read in one way only.
    """

    name: Name
    """What plans and findings call it."""
    pattern: str
    """The whole key, relative to the store's prefix, such as `users/{user}/videos/{rest}`."""
    category: Category | None = None
    """Required unless the rule is for shared objects."""
    shared: bool = False
    """The keys belong to no single user."""
    policy: Policy | None = None
    """For a shared rule: `copy` to every site that a placement rule names, `keep` at the source for now, or `exclude` for good.
    Without it: `keep`."""
    reason: Reason | None = None
    """Why they are excluded. Goes with `exclude`, and is required there."""
    target: str | None = None
    """The key at the target, from the same placeholders. Without it: the same key."""
    stores: tuple[Name, ...] | None = None
    """The source stores that the rule is for. Without it: all."""

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        names = _PLACEHOLDER.findall(self.pattern)
        rest = "{rest}" in self.pattern
        if "{" in _PLACEHOLDER.sub("", self.pattern) or "}" in _PLACEHOLDER.sub("", self.pattern) or "" in names:
            raise ValueError("a pattern holds literal text and {names} of lower-case letters")
        if len(set(names)) != len(names):
            raise ValueError("a placeholder stands in a pattern once")
        if _shares_a_segment(self.pattern):
            raise ValueError("a path segment holds one placeholder: with two, a key could be read in more than one way")
        if rest and not self.pattern.endswith("{rest}"):
            raise ValueError("{rest} stands at the end")
        if self.shared == ("user" in names):
            raise ValueError("a rule names {user}, unless it is shared")
        if self.shared == (self.category is not None):
            raise ValueError("a rule has a category, unless it is shared")
        if self.policy is not None and not self.shared:
            raise ValueError("`policy` goes with shared = true: where users' objects go is decided by placement")
        _demand_reason(self.policy, self.reason)
        if self.target is not None:
            used = _PLACEHOLDER.findall(self.target)
            if sorted(used) != sorted(names):
                raise ValueError(
                    "`target` uses each placeholder of the pattern once: without one, two keys would become one"
                )
            if _shares_a_segment(self.target) or (rest and not self.target.endswith("{rest}")):
                raise ValueError("`target` has one placeholder in a path segment, and {rest} at the end")
        return self

    @property
    def target_pattern(self) -> str:
        return self.target or self.pattern

    @property
    def shared_policy(self) -> Policy | None:
        """What becomes of the rule's objects where they are shared; None where they are users'."""
        return (self.policy or Policy.KEEP) if self.shared else None


class Orphans(Section):
    """What becomes of keys of users whom the directory does not have. Undecided, they block `run`."""

    policy: Policy | None = None
    """`copy` to every site that a placement rule names, `keep` at the source for now, or `exclude` for good. A delta does not
    apply it to users whom its line has copied."""
    reason: Reason | None = None
    """Why they are excluded. Goes with `exclude`, and is required there."""

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        _demand_reason(self.policy, self.reason)
        return self


class Layout(Section):
    """The rules, tried in order: the first that matches decides."""

    rules: tuple[LayoutRule, ...] = Field(min_length=1)
    """In the order in which they are tried."""


class Scope(Section):
    """Which users move: residents of the countries of a policy, with the decisions that it leaves open."""

    policy: Literal["eea-uk-1"] = "eea-uk-1"
    """The policy and its version: 38 codes of EU, EEA, the United Kingdom and EU territories."""
    decisions: dict[Annotated[str, Field(pattern=DECIDED)], Literal["in", "out", "review"]] = Field(default={})
    """CH, GI, JE, GG, IM and SJ are in no list: decide each that the directory holds, or planning stops."""
    statuses: tuple[str, ...] = ("active",)
    """The directory's statuses that move. A user with another goes to review."""


class PlacementRule(Section):
    """Where residents of some countries go. The first rule that names the country decides."""

    name: Name
    """What plans and `migrate explain` call it."""
    countries: tuple[PlacedCountry, ...] = Field(min_length=1)
    """Codes of the scope's policy, the six that are decided among them, or `*` for all that no earlier rule names."""
    home: tuple[Name, ...] = Field(min_length=1)
    """Sites to choose from, by weight."""
    backup: tuple[Name, ...] = ()
    """Sites for the second copy, by weight, never the home itself. Empty: no second copy."""


class Placement(Section):
    """Where users go: decided anew by each plan, from its own spec and directory.

    What one plan has copied, a later one must not leave behind: a run that would is refused (77).
    """

    rules: tuple[PlacementRule, ...] = Field(min_length=1)
    """In the order in which they are tried."""


class Residency(Section):
    """Where data of users in scope may be, and from where it may be handled."""

    target_countries: tuple[Country, ...] = Field(min_length=1)
    """Countries that a target store may be in."""
    worker_countries: tuple[Country, ...] = Field(min_length=1)
    """Countries that a worker may run in: the bytes pass through it."""


class Reconcile(Section):
    """What to do with keys that only the backup holds: they may have been deleted at the primary."""

    backup_only: dict[Category, Literal["block", "copy", "exclude"]] = Field(default={})
    """By category. What is not named blocks `run`."""


class Waves(Section):
    """Users move in waves: a canary first, then the others by size, the small ones first."""

    canary: Ppm = 10_000
    """Share of the users in wave 0, written with its `%`, chosen by the SHA-256 of their ids."""
    count: int = Field(default=4, ge=1, le=10_000)
    """How many waves follow, of about as many users each."""


class Batches(Section):
    """The bounds of a unit of leasing."""

    copies_max: int = Field(default=2_000, ge=2, le=100_000)
    """Copies in a batch at most. A user with more is split over several."""
    bytes_max: Size = 4 * 2**30
    """Bytes in a batch at most, but for a single object that is larger."""


class Copying(Section):
    """How an object is sent. Part of the plan: all workers must send the same parts."""

    multipart_from: Size = 32 * 2**20
    """Objects of this size and more go up in parts."""
    part_bytes: Size = 16 * 2**20
    """The size of a part, where the source's own parts cannot be told from its ETag."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not 5 * 2**20 <= self.part_bytes <= 64 * 2**20:
            raise ValueError("part_bytes lies between 5MiB (S3's least part) and 64MiB (memory)")
        if not 5 * 2**20 <= self.multipart_from <= 64 * 2**20:
            raise ValueError("multipart_from lies between 5MiB and 64MiB: smaller objects are held in memory whole")
        return self


class RunLimits(Section):
    """Limits of a run, over all its processes; only `concurrency` is each one's own. The command line can set tighter or wider
    ones."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes on this machine; at most as many as the least `concurrency_max` of a store."""
    concurrency: int = Field(default=128, ge=1, le=1024)
    """Objects in flight a process, at most. The tool finds the level below that goes fastest by itself."""
    bytes_in_flight: Size = 128 * 2**20
    """Bodies in memory, over all processes."""
    limit_bytes: Rate | None = None
    """Bytes a second read from the sources, such as 200MB/s."""
    max_failures: int | None = Field(default=None, ge=1)
    """Stop when so many copies were quarantined in this run."""
    time_limit: Seconds | None = None
    """How long a run or verification works before it leaves the rest for later; `--for` on the command line."""
    until: str | None = Field(default=None, pattern=TIME_OF_DAY)
    """The time of day at which it stops, in `time_zone`; `--until` on the command line."""
    country: Country | None = None
    """Where the workers run. MIGRATE_COUNTRY in the environment goes before it."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.time_limit is not None and self.until is not None:
            raise ValueError("time_limit and until say the same thing twice: keep one")
        return self


class Verification(Section):
    """What is proof enough."""

    level: Level = Level.CONTENT
    """What a user needs to go on. A deeper check serves, a shallower one does not."""


class Cutover(Section):
    """What a user's cutover may cost, and what comes after it. Outside of a plan's digest."""

    lag_max: Seconds = 86_400
    """How old what the newest plan knows of the sources may be. Older: a delta comes first."""
    objects_max: int = Field(default=50_000, ge=1)
    """Source objects that a user may have: their prefixes are listed while they are frozen, a second for about 5,000."""
    late_bytes_max: Size = 256 * 2**20
    """Bytes that may have changed since the newest plan and are copied while the user is frozen. More: a delta comes first."""
    late_objects_max: int = Field(default=1_000, ge=1)
    """The same by number: objects that are copied or removed while the user is frozen."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Users who are moved at once."""
    max_failures: int = Field(default=5, ge=1)
    """A wave halts when so many users failed; `--max-failures` on the command line."""
    observe: Seconds = 14 * 86_400
    """How long a user is observed after the flip. Until then the sources stand, and the user can be taken back."""


class Privacy(Section):
    """How logs speak of persons."""

    pseudonym_key: Reference = "file:.migrate/pseudonym.key"
    """The key of the HMAC that stands for users and keys in logs: `file:PATH`, or `env:NAME`, the variable that holds it.
    `migrate init` makes one."""


class Spec(Section):
    """One migration."""

    format: Literal[1] = Field(description="The version of this file's format.")
    name: Name
    """What plans and files of this migration are called."""
    time_zone: str = "UTC"
    """IANA name, for times that are shown and for `--until`."""
    sites: dict[Name, Site] = Field(min_length=1)
    """The places, by name."""
    stores: dict[Name, StoreSpec] = Field(min_length=1)
    """The stores, by name."""
    directory: Directory
    layout: Layout
    orphans: Orphans = Orphans()
    scope: Scope = Scope()
    placement: Placement
    residency: Residency
    reconcile: Reconcile = Reconcile()
    waves: Waves = Waves()
    batches: Batches = Batches()
    copying: Copying = Copying()
    run: RunLimits = RunLimits()
    verify: Verification = Verification()
    routing: Routing = Routing()
    cutover: Cutover = Cutover()
    privacy: Privacy = Privacy()

    def by_role(self, *roles: Role) -> dict[str, StoreSpec]:
        return {name: store for name, store in self.stores.items() if store.role in roles}

    def source_of(self, name: str) -> str:
        """The source store whose objects a store holds: of a backup that which it is a backup of, else itself."""
        return self.stores[name].backup_of or name

    def target_store(self, site: str, source: str) -> str:
        """The store at `site` that takes what comes from the source store `source`. The spec has exactly one."""
        return next(
            name
            for name, store in self.by_role(Role.TARGET).items()
            if store.site == site and (store.receives is None or source in store.receives)
        )

    @property
    def stand_ins(self) -> dict[str, tuple[str, str | None]]:
        """By id, who the objects belong to that are copied to every site: one for each two of the sites that placement names, so
        that an object is read once for two. Empty where nothing is copied so."""
        policies = {self.orphans.policy, *(rule.shared_policy for rule in self.layout.rules)}
        if Policy.COPY not in policies:
            return {}
        sites = sorted({site for rule in self.placement.rules for site in (*rule.home, *rule.backup)})
        pairs = [(sites[place], *sites[place + 1 : place + 2]) for place in range(0, len(sites), 2)]
        return {
            stand_in_id(self.name, number): (pair[0], pair[1] if len(pair) > 1 else None)
            for number, pair in enumerate(pairs, 1)
        }

    @property
    def default_home(self) -> str | None:
        """The site where a user lives whose route says nothing: the one that is named, or the only one of source stores."""
        sites = {store.site for store in self.by_role(Role.SOURCE).values()}
        return self.routing.default_home or (sites.pop() if len(sites) == 1 else None)

    def deciding(self) -> dict[str, Any]:
        """What of this spec decides, as plain data."""
        return deciding(self.model_dump(mode="json"))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


_NOT_DECIDING = {"run", "routing", "cutover", "privacy", "time_zone"}
_NOT_DECIDING_OF_A_STORE = {"credentials", "concurrency_max", "timeout"}


def deciding(written: Mapping[str, Any]) -> dict[str, Any]:
    """What decides who, what and where, of a spec as a plan keeps it: the part under the plan's digest.

    A key is in unless it is named here, so that a new one cannot be forgotten. Nothing is added: a key that came later is not in
    the plans from before it, and their digests stay what they are.
    """
    found = {key: value for key, value in written.items() if key not in _NOT_DECIDING}
    found["directory"] = _without_age(written["directory"])
    found["stores"] = {
        name: {key: value for key, value in store.items() if key not in _NOT_DECIDING_OF_A_STORE}
        | {"inventory": _without_age(store["inventory"])}
        for name, store in written["stores"].items()
    }
    return found


def _without_age(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "max_age"}


def spec_time(value: datetime, spec: Spec) -> str:
    """A time as the operator reads it: in the spec's zone, with its offset."""
    return value.astimezone(spec.zone).isoformat(timespec="seconds")
