"""The imagined world of the demo: the same for the same seed, and with something of each kind."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from migrate.demo.people import HUGE_BYTES, PART_BYTES, Kind, Scope, Where, imagine, parts_of
from migrate.layout import compile_rules, match
from migrate.residency import Verdict, decide_scope
from migrate.spec import load_spec

SPEC = load_spec(Path(__file__).parents[2] / "plans" / "demo.toml")


def test_the_same_seed_gives_the_same_world() -> None:
    """People, objects and every byte follow from the seed; another seed gives others."""
    one, two, other = imagine(7), imagine(7), imagine(8)
    assert one == two
    assert one.things != other.things
    assert one.content(one.things[0]) == two.content(two.things[0])
    assert one.content(one.things[0]) != one.content(one.things[0], stale=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_each_kind_is_there(seed: int) -> None:
    """Every fate of a person, every kind of object, and every way in which two sources differ."""
    world = imagine(seed)
    assert set(Counter(person.scope for person in world.people)) == set(Scope)
    assert {(thing.kind) for thing in world.things} == set(Kind)
    assert {(thing.where) for thing in world.things} == set(Where)
    assert any(thing.size == 0 for thing in world.things)
    only = {thing.kind for thing in world.things if thing.where is Where.BACKUP_ONLY}
    assert {Kind.RESTRICTED, Kind.ALLOWABLE, Kind.EXCEPTION} <= only


def test_keys_are_their_own() -> None:
    """No two objects share a key, or a place at a target."""
    world = imagine(1)
    keys = [thing.key for thing in world.things]
    targets = [thing.target_key for thing in world.things if thing.target_key is not None]
    assert len(set(keys)) == len(keys)
    assert len(set(targets)) == len(targets)
    assert max(len(key.encode()) for key in keys) == 1024


def test_the_world_is_what_the_demo_spec_makes_of_it() -> None:
    """Scope, layout and target keys that the world expects are those of plans/demo.toml."""
    world = imagine(1)
    verdicts = {Scope.MOVES: Verdict.IN, Scope.HELD: Verdict.IN, Scope.STAYS: Verdict.OUT}
    for person in world.people:
        verdict = decide_scope(person.country, SPEC.scope.decisions).verdict
        assert verdict == verdicts.get(person.scope, verdict)
        if person.scope is Scope.REVIEW:
            assert verdict is Verdict.REVIEW or person.status not in SPEC.scope.statuses
    rules = compile_rules(SPEC.layout.rules)
    for thing in world.things:
        found = match(rules, "us", thing.key)
        if thing.kind is Kind.UNCLASSIFIED:
            assert found is None
        elif thing.user_id is not None:
            assert found is not None
            assert (found.user_id, found.target_key) == (thing.user_id, thing.target_key)
            assert found.rule.category is not None
            assert found.rule.category.value == thing.kind.value


def test_the_huge_object_comes_in_parts() -> None:
    """Its parts make up its size, and are made without holding it in memory."""
    world = imagine(1)
    huge = max(world.things, key=lambda thing: thing.size)
    assert huge.size == HUGE_BYTES
    sizes = [len(block) for block in world.blocks(huge)]
    assert sum(sizes) == HUGE_BYTES
    assert max(sizes) == PART_BYTES
    assert len(sizes) == parts_of(huge)


def test_a_small_object_is_one_block() -> None:
    """The blocks of an object are its content."""
    world = imagine(1)
    thing = world.things[0]
    assert hashlib.sha256(b"".join(world.blocks(thing))).digest() == hashlib.sha256(world.content(thing)).digest()
