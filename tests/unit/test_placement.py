"""Rendezvous hashing with tickets: stable, weighted, and the same in SQL."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import Item, Person, make_world, spec_with

from migrate.placement import Lost, place, rule_for
from migrate.spec import PlacementRule, Spec

WEIGHTS = {"dublin-1": 1, "dublin-2": 2, "hamar": 1, "new": 3}


def rule(*home: str, backup: tuple[str, ...] = ()) -> PlacementRule:
    return PlacementRule(name="rule", countries=("*",), home=home, backup=backup)


@given(st.lists(st.text(alphabet="abcdefé", min_size=1), min_size=1, max_size=50, unique=True))
def test_adding_a_site_moves_only_the_users_that_it_wins(users: list[str]) -> None:
    """Whoever does not go to the new site stays where it was."""
    for user in users:
        before = place(user, "DE", [rule("dublin-1", "dublin-2")], WEIGHTS).home
        after = place(user, "DE", [rule("dublin-1", "new", "dublin-2")], WEIGHTS).home
        assert after in (before, "new")


def test_weights_are_shares() -> None:
    """A site of weight 2 gets about twice the users of one of weight 1."""
    homes = [place(f"user-{number}", "DE", [rule("dublin-1", "dublin-2")], WEIGHTS).home for number in range(3000)]
    assert 1850 < homes.count("dublin-2") < 2150


def test_a_backup_is_never_the_home_and_says_why() -> None:
    """The home is among the backup's alternatives with its reason; so is a closed site."""
    rules = [rule("dublin-1", "dublin-2", backup=("dublin-1", "dublin-2", "hamar"))]
    for number in range(200):
        decision = place(f"user-{number}", "DE", rules, WEIGHTS, closed={"hamar"})
        assert decision.complete
        assert decision.backup != decision.home
        reasons = {(other.kind, other.site): other.lost for other in decision.alternatives}
        assert reasons["backup", str(decision.home)] is Lost.IS_HOME
        assert reasons["backup", "hamar"] is Lost.CLOSED
        assert reasons["home", str(decision.backup)] is Lost.LOWER_SCORE


def test_no_rule_and_no_open_site_leave_the_decision_incomplete() -> None:
    """Nothing is guessed where nothing is said."""
    only = PlacementRule(name="r", countries=("NO",), home=("hamar",), backup=("dublin-1",))
    assert place("u", "DE", [only], WEIGHTS).rule is None
    assert not place("u", "NO", [only], WEIGHTS, closed={"hamar"}).complete
    assert not place("u", "NO", [only], WEIGHTS, closed={"dublin-1"}).complete
    assert rule_for("NO", [only]) is only


def in_turn(spec: Spec, sizes: dict[str, int]) -> dict[str, tuple[str | None, str | None]]:
    """What the definition says, user by user: a site closes at the first that does not fit, for all from there on."""
    weights = {name: site.weight for name, site in spec.sites.items()}
    room = {name: site.capacity for name, site in spec.sites.items()}
    used = dict.fromkeys(spec.sites, 0)
    closed: set[str] = set()
    placed = {}
    for user in sorted(sizes, key=lambda user: hashlib.sha256(user.encode()).digest()):
        while True:
            decision = place(user, "DE", spec.placement.rules, weights, closed)
            sites = [site for site in (decision.home, decision.backup) if site is not None]
            full = {site for site in sites if room[site] is not None and used[site] + sizes[user] > (room[site] or 0)}
            if not full:
                break
            closed |= full
        for site in sites:
            used[site] += sizes[user]
        placed[user] = (decision.home, decision.backup)
    return placed


@given(
    st.dictionaries(st.text(alphabet="abcdé-", min_size=1, max_size=6), st.integers(0, 40), min_size=1, max_size=25),
    st.integers(1, 500),
    st.integers(1, 500),
)
@settings(deadline=None, max_examples=20)
def test_sql_places_users_like_the_definition(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], first: int, second: int
) -> None:
    """With any capacities, the plan's homes and backups are those of the definition taken literally."""
    root = tmp_path_factory.mktemp("world")
    sites = {
        "us": {"country": "US"},
        "singapore": {"country": "SG"},
        "dublin-1": {"country": "IE", "capacity": first},
        "dublin-2": {"country": "IE", "weight": 2, "capacity": second},
        "hamar": {"country": "NO"},
    }
    rules = [
        {
            "name": "all",
            "countries": ["*"],
            "home": ["dublin-1", "dublin-2", "hamar"],
            "backup": ["dublin-1", "dublin-2", "hamar"],
        }
    ]
    spec = spec_with(sites=sites, placement={"rules": rules})
    wanted = in_turn(spec, sizes)
    world = make_world(
        root,
        [Person(user) for user in sizes],
        us=[Item(f"mail/{user}/x", size=size) for user, size in sizes.items()],
        singapore=[],
    )
    if any(home is None or backup is None for home, backup in wanted.values()):
        return
    plan = world.plan(spec)
    assert {user.user_id: (user.home, user.backup) for user in plan.users()} == wanted
