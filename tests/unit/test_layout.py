"""The layout rules: Python and DuckDB read them alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import layout
from migrate.layout import compile_rules, literal_prefix, match, origins
from migrate.model import Category
from migrate.spec import LayoutRule
from migrate.stores.base import Capabilities
from migrate.stores.keys import ODD_KEYS, odd_kinds, odd_pattern
from migrate.stores.memory_place import ALL_CAPABILITIES

CONNECTION = duckdb.connect(":memory:")
RULES = compile_rules(
    [
        LayoutRule(name="photos", pattern="users/{user}/photos/{rest}", category=Category.RESTRICTED),
        LayoutRule(
            name="dated",
            pattern="logs/{year}/{month}/{user}.log",
            target="{user}/logs/{month}/{year}",
            category=Category.ALLOWABLE,
        ),
        LayoutRule(name="odd", pattern="a.b+(c)[d]|^$\\*?/{user}/é{rest}", category=Category.EXCEPTION),
        LayoutRule(name="only-us", pattern="x/{user}/{rest}", stores=("us",), category=Category.ALLOWABLE),
        LayoutRule(name="static", pattern="static/{rest}", shared=True),
        LayoutRule(
            name="loose", pattern="{user}.d/{name}/{rest}", target="{name}/{user}/{rest}", category=Category.ALLOWABLE
        ),
    ]
)
PIECES = st.sampled_from(
    [
        "users/",
        "photos/",
        "logs/",
        "2024/05/",
        ".log",
        "a.b+(c)[d]|^$\\*?/",
        "é",
        "x/",
        "static/",
        "-",
        "/",
        "\n",
        "'",
        "u1",
    ]
)
KEYS = st.one_of(
    st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=7).map("".join),
    st.tuples(st.text(max_size=5), st.text(max_size=5)).map(lambda pair: f"users/{pair[0]}/photos/{pair[1]}"),
    st.tuples(st.text(max_size=5), st.text(max_size=5)).map(lambda pair: f"a.b+(c)[d]|^$\\*?/{pair[0]}/é{pair[1]}"),
).filter(lambda key: not any("\ud800" <= letter <= "\udfff" for letter in key) and "\0" not in key)


def by_sql(store: str, keys: list[str]) -> list[tuple[int | None, str | None, str]]:
    return CONNECTION.execute(
        f"""
        WITH ruled AS (SELECT unnest(?) AS key, generate_subscripts(?, 1) AS place),
        numbered AS (SELECT *, {layout.rule_sql(RULES, store)} AS rule FROM ruled)
        SELECT rule, {layout.user_sql(RULES)}, {layout.target_key_sql(RULES)} FROM numbered ORDER BY place
        """,
        [keys, keys],
    ).fetchall()


@given(st.lists(KEYS, min_size=1, max_size=20), st.sampled_from(["us", "asia"]))
@settings(deadline=None, max_examples=100)
def test_duckdb_and_python_match_alike(keys: list[str], store: str) -> None:
    """Rule, user and target key of any key are the same by SQL and by the pure function."""
    for key, (number, user_id, target_key) in zip(keys, by_sql(store, keys), strict=True):
        found = match(RULES, store, key)
        if found is None:
            assert number is None
        else:
            assert number is not None
            assert (RULES[number], user_id) == (found.rule, found.user_id)
            assert found.target_key is None or target_key == found.target_key


def test_the_rest_takes_newlines_and_nothing_at_all() -> None:
    """A folder's marker and a key with a newline belong to their user."""
    for rest in ("", "a\nb", "\n", "a//b/"):
        found = match(RULES, "us", f"users/anna/photos/{rest}")
        assert found is not None
        assert (found.user_id, found.target_key) == ("anna", f"users/anna/photos/{rest}")


def test_a_placeholder_is_one_segment_and_never_empty() -> None:
    """No slash in a user id, and no empty one."""
    assert match(RULES, "us", "users//photos/x") is None
    assert match(RULES, "us", "users/a/b/photos/x") is None


def test_the_first_rule_decides_and_stores_limit_rules() -> None:
    """A rule for one store leaves the keys of others to the rules after it."""
    both = compile_rules(
        [
            LayoutRule(name="one", pattern="x/{user}/{rest}", stores=("us",), category=Category.ALLOWABLE),
            LayoutRule(name="two", pattern="x/{user}/{rest}", category=Category.RESTRICTED),
        ]
    )
    names = [found.rule.name for store in ("us", "asia") if (found := match(both, store, "x/u/k"))]
    assert names == ["one", "two"]


def test_a_target_is_filled_from_the_placeholders() -> None:
    """The key at the target has each placeholder where the rule's target puts it."""
    found = match(RULES, "us", "logs/2024/05/u1.log")
    assert found is not None
    assert found.target_key == "u1/logs/05/2024"


@pytest.mark.parametrize(("number", "prefix"), [(0, "users/u1/"), (1, "u1/"), (3, "x/u1/"), (5, None)])
def test_a_literal_prefix_ends_after_the_user(number: int, prefix: str | None) -> None:
    """Only where nothing but text comes before the user and a slash after it."""
    assert literal_prefix(RULES[number], "u1") == prefix


@given(st.lists(KEYS.filter(bool), min_size=1, max_size=20))
@settings(deadline=None, max_examples=100)
def test_odd_keys_are_the_same_ones_in_sql(keys: list[str]) -> None:
    """Planning calls odd what the stores call odd, kind by kind."""
    for kind in ODD_KEYS:
        rows = CONNECTION.execute(
            "SELECT key, regexp_matches(key, ?) FROM (SELECT unnest(?) AS key)", [odd_pattern([kind]), keys]
        )
        assert all(found == (kind in odd_kinds(key)) for key, found in rows.fetchall())


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ("a/b", []),
        ("a.b/..c/...", []),
        ("a//b", ["empty_segments"]),
        ("/lead", ["empty_segments"]),
        ("trail/", ["trailing_slashes"]),
        ("trail/\n", ["line_breaks"]),
        ("a/../b", ["dot_segments"]),
        (".", ["dot_segments"]),
        ("carriage\rreturn", ["line_breaks"]),
        ("tab\tstop", ["control_characters"]),
        ("\x85 \ufffe", ["control_characters"]),
        ("//", ["empty_segments", "trailing_slashes"]),
        ("a/./\n", ["dot_segments", "line_breaks"]),
    ],
)
def test_a_key_is_odd_in_one_way_or_in_several(key: str, kinds: list[str]) -> None:
    """Each way is a capability of its own."""
    assert odd_kinds(key) == kinds
    assert Capabilities(**dict.fromkeys(kinds, True)).takes_key(key)
    assert all(not replace(ALL_CAPABILITIES, **{kind: False}).takes_key(key) for kind in kinds)


@given(st.lists(st.text(max_size=6), min_size=2, max_size=20))
@settings(deadline=None, max_examples=100)
def test_duckdb_orders_text_by_its_utf8_bytes(texts: list[str]) -> None:
    """Batches of a split user are bounded by keys in byte order, as stores list them."""
    given_texts = [text for text in texts if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)]
    rows = CONNECTION.execute(
        "SELECT t FROM (SELECT unnest(CAST(? AS VARCHAR[])) AS t) ORDER BY t", [given_texts]
    ).fetchall()
    assert all(one[0].encode() <= two[0].encode() for one, two in pairwise(rows))


def test_the_source_of_a_target_key_is_told_only_where_there_is_one() -> None:
    """The parts go back to their places; two stores are two, and a key that another rule reads first is none."""

    def rule(name: str, pattern: str, target: str) -> LayoutRule:
        return LayoutRule(name=name, pattern=pattern, target=target, category=Category.RESTRICTED)

    photos = rule("photos", "users/{user}/{rest}", "eu/{user}/{rest}")
    rules = compile_rules([photos, rule("mail", "mail/{year}/{user}/{rest}", "mail/{user}/{year}/{rest}")])
    found = origins(rules, "eu/anna/a/b", ["us"])
    assert [(source, key, read.user_id) for source, key, read in found] == [("us", "users/anna/a/b", "anna")]
    found = origins(rules, "mail/anna/2024/x", ["us"])
    assert [(source, key, read.user_id) for source, key, read in found] == [("us", "mail/2024/anna/x", "anna")]
    assert len(origins(rules, "eu/anna/a", ["us", "more"])) == 2
    assert origins(rules, "nobody/knows", ["us"]) == []
    first = rule("first", "users/{user}/{rest}", "other/{user}/{rest}")
    assert origins(compile_rules([first, photos]), "eu/anna/a", ["us"]) == []  # such a key would have gone elsewhere
