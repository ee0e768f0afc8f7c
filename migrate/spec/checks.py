"""What no section of a spec can see alone: names that lead nowhere, two stores at one place, sites that nobody serves."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from migrate.model import Role
from migrate.spec.places import place_of
from migrate.spec.sections import Spec, StoreSpec


def find_problems(spec: Spec) -> list[str]:
    """What is wrong between the sections of a spec, a line each. A line begins with its place."""
    problems: list[str] = []
    try:
        ZoneInfo(spec.time_zone)
    except (KeyError, ValueError, OSError):
        problems.append(f"time_zone: no such time zone: {spec.time_zone!r}")
    sources = spec.by_role(Role.SOURCE)
    if not sources:
        problems.append("stores: no store has the role source")
    for name, store in spec.stores.items():
        problems += [f"stores.{name}.{line}" for line in _store_problems(spec, store)]
    problems += _placement_problems(spec)
    problems += _receiving_problems(spec)
    problems += [f"routing.{line}" for line in _routing_problems(spec)]
    for index, rule in enumerate(spec.layout.rules):
        for source in rule.stores or ():
            if source not in sources:
                problems.append(f"layout.rules.{index} ({rule.name}).stores: {source!r} is no source store")
    names = [rule.name for rule in spec.layout.rules]
    problems += [
        f"layout.rules: the name {name!r} stands twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    return problems + _place_problems(spec)


def _place_problems(spec: Spec) -> list[str]:
    """Two stores at one place, or one inside another: what is written to one would be listed in the other."""
    problems = []
    stores = [(name, store) for name, store in spec.stores.items() if store.role is not Role.REPORTS]
    for index, (name, store) in enumerate(stores):
        for other_name, other in stores[:index]:
            one, two = sorted((place_of(store.url, store.endpoint), place_of(other.url, other.endpoint)), key=len)
            if one == two:
                problems.append(f"stores: two stores are at {other.url}: {other_name!r} and {name!r}")
            elif two[: len(one)] == one:
                problems.append(f"stores: of {other_name!r} and {name!r} one lies inside the other")
    return problems


def _store_problems(spec: Spec, store: StoreSpec) -> list[str]:
    problems = []
    if store.site not in spec.sites:
        problems.append(f"site: no site {store.site!r}")
    elif store.role is Role.TARGET and spec.sites[store.site].country not in spec.residency.target_countries:
        problems.append(
            f"site: {store.site!r} is in {spec.sites[store.site].country}, which residency.target_countries does not allow"
        )
    if (store.role is Role.BACKUP) != (store.backup_of is not None):
        problems.append("backup_of: goes with role backup, and is required there")
    elif store.backup_of is not None and store.backup_of not in spec.by_role(Role.SOURCE):
        problems.append(f"backup_of: {store.backup_of!r} is no source store")
    if store.receives is not None:
        if store.role is not Role.TARGET:
            problems.append("receives: goes with role target")
        problems += [
            f"receives: {name!r} is no source store" for name in store.receives if name not in spec.by_role(Role.SOURCE)
        ]
    if store.scheme == "s3" and store.credentials is None:
        problems.append("credentials: required for an s3 store: env:PREFIX, profile:NAME or file:PATH")
    if store.scheme != "s3":
        for key in ("endpoint", "region", "credentials", "kms_key"):
            if getattr(store, key) is not None:
                problems.append(f"{key}: goes with an s3 url")
    if store.kms_key is not None and ":key/" not in store.kms_key:
        problems.append("kms_key: the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID: an alias may stand for any key")
    if store.kms_key is not None and ("mrk-" in store.kms_key or store.role is not Role.TARGET):
        problems.append("kms_key: a single-region key of a target store; a multi-region key (mrk-) leaves the country")
    return problems


def _placement_problems(spec: Spec) -> list[str]:
    problems = []
    target_sites = {store.site for store in spec.by_role(Role.TARGET).values()}
    for index, rule in enumerate(spec.placement.rules):
        for key, sites in (("home", rule.home), ("backup", rule.backup)):
            problems += [
                f"placement.rules.{index} ({rule.name}).{key}: {site!r} has no target store"
                for site in sites
                if site not in target_sites
            ]
        if rule.backup and any(set(rule.backup) <= {home} for home in rule.home):
            problems.append(f"placement.rules.{index} ({rule.name}).backup: for some home no other site is left")
    names = [rule.name for rule in spec.placement.rules]
    problems += [
        f"placement.rules: the name {name!r} stands twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    return problems


def _receiving_problems(spec: Spec) -> list[str]:
    problems = []
    targets = spec.by_role(Role.TARGET)
    placed = {site for rule in spec.placement.rules for site in (*rule.home, *rule.backup)}
    for site in sorted(placed & {store.site for store in targets.values()}):
        for source in spec.by_role(Role.SOURCE):
            takers = [
                name
                for name, store in targets.items()
                if store.site == site and (store.receives is None or source in store.receives)
            ]
            if len(takers) != 1:
                found = "none" if not takers else " and ".join(takers)
                problems.append(f"stores: at site {site!r} exactly one target store receives {source!r}; found {found}")
    return problems


def _routing_problems(spec: Spec) -> list[str]:
    problems = []
    routing = spec.routing
    for kind in ("sql", "http", "command"):
        is_there = getattr(routing, kind) is not None
        if is_there and routing.kind != kind:
            problems.append(f"{kind}: goes with kind {kind}")
        elif not is_there and routing.kind == kind:
            problems.append(f"{kind}: is required with kind {kind}")
    if routing.drain_seconds >= routing.freeze_seconds_max:
        problems.append("drain_seconds: is shorter than freeze_seconds_max, or a freeze is over before it stands")
    if routing.default_home is not None and routing.default_home not in spec.sites:
        problems.append(f"default_home: no site {routing.default_home!r}")
    if routing.sql is not None:
        columns = [name for name in routing.sql.columns.model_dump().values() if name is not None]
        problems += [
            f"sql.columns: two of them are called {name!r}"
            for name in sorted({n for n in columns if columns.count(n) > 1})
        ]
    return problems
