"""Scope: the policy's lists, and what is in none of them."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import residency
from migrate.residency import UNKNOWN, ScopeDecision, Verdict, decide_scope, scope_table

CONNECTION = duckdb.connect(":memory:")


def test_thirty_eight_codes_are_in_scope() -> None:
    """EU 27, EEA 3, the United Kingdom, and 7 EU territories."""
    found = {code for code in residency.ISO_COUNTRIES if decide_scope(code, {}).verdict is Verdict.IN}
    assert len(found) == 38
    assert {"DE", "IS", "GB", "RE"} <= found
    assert len(residency.ISO_COUNTRIES) == 249


@pytest.mark.parametrize(("alias", "code"), [("EL", "GR"), ("uk", "GB"), ("De", "DE")])
def test_aliases_and_case_lead_to_the_iso_code(alias: str, code: str) -> None:
    """Greece and the United Kingdom as the EU writes them; case does not matter."""
    assert decide_scope(alias, {}) == decide_scope(code, {})
    assert decide_scope(alias, {}).country == code


@pytest.mark.parametrize("code", ["CH", "GI", "JE", "GG", "IM", "SJ"])
def test_six_codes_wait_for_a_decision(code: str) -> None:
    """Without a decision they are undecided; with one they follow it."""
    assert decide_scope(code, {}).verdict is Verdict.UNDECIDED
    for decision in ("in", "out", "review"):
        assert decide_scope(code.lower(), {code: decision}) == ScopeDecision(
            code, Verdict(decision), f"eea-uk-1/decision-{code.lower()}"
        )


@pytest.mark.parametrize("given", [None, "", " ", "XX", "ZZ", "EU", "XK", "D", "DEU", "Germany", "ſE", " DE"])
def test_what_is_no_assigned_code_goes_to_review(given: str | None) -> None:
    """Unknown, empty and reserved codes are never silently out of scope."""
    assert decide_scope(given, {}).verdict is Verdict.REVIEW


def test_a_known_code_outside_the_policy_is_out() -> None:
    """The United States are known, and not in scope."""
    assert decide_scope("us", {}) == ScopeDecision("US", Verdict.OUT, "eea-uk-1/outside")


@given(st.one_of(st.none(), st.text(max_size=4), st.sampled_from(sorted(residency.ISO_COUNTRIES | {"EL", "UK", "ch"}))))
@settings(deadline=None, max_examples=100)
def test_sql_decides_like_the_function(given_code: str | None) -> None:
    """The table that SQL joins, and its folding, give the function's verdicts."""
    if given_code is not None and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in given_code):
        return
    decisions = {"CH": "in", "SJ": "review"}
    folded = CONNECTION.execute(
        f"SELECT {residency.FOLD_SQL} FROM (SELECT CAST(? AS VARCHAR) AS country_given)", [given_code]
    )
    code = folded.fetchall()[0][0]
    table = {row[0]: ScopeDecision(row[1], Verdict(row[2]), row[3]) for row in scope_table(decisions)}
    assert table.get(code, UNKNOWN) == decide_scope(given_code, decisions)
