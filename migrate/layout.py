"""Which key belongs to whom, by the spec's layout rules: compiled once, for Python and for DuckDB alike. Pure.

A rule becomes one regular expression that both engines read the same way (RE2's subset; DuckDB has RE2). `{rest}` takes what is
left, newlines included and possibly nothing (a folder's marker); any other placeholder takes what a path segment leaves it, never
nothing, and the spec lets a segment hold one: so a key is read in one way.
The first rule that matches decides. A backup has the layout of the source that it is the backup of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from migrate.model import Category, Policy
from migrate.spec import LayoutRule
from migrate.sql import literal

_SPLIT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A layout rule, ready to be matched. `policy` is for shared objects. `pieces` and `target` alternate literal text and
    placeholder names."""

    name: str
    category: Category | None
    policy: Policy | None
    stores: frozenset[str] | None
    pieces: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Whether its keys belong to no single user; then `policy` says what becomes of them."""
        return self.policy is not None

    def applies_to(self, store: str) -> bool:
        return self.stores is None or store in self.stores

    @property
    def keeps_keys(self) -> bool:
        """True where the key at the target is the key at the source."""
        return self.pieces == self.target

    def regex(self, *captured: str) -> str:
        """The regular expression for a whole key, with groups for the placeholders in `captured`."""
        parts = [
            _literal(piece) if index % 2 == 0 else _group(piece, piece in captured)
            for index, piece in enumerate(self.pieces)
        ]
        return rf"(?s:{''.join(parts)})"


def _literal(text: str) -> str:
    """`text` as RE2 and `re` both read it: anything but letters, digits and a few marks by its code point."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "/_-")
        else rf"\{char}"
        if char in ".+*?()[]|^$\\"
        else char
        for char in text
    )


def _group(name: str, captured: bool) -> str:
    body = ".*" if name == "rest" else "[^/]+"
    return f"({body})" if captured else f"(?:{body})"


@dataclass(frozen=True, slots=True)
class LayoutMatch:
    """What a rule says of a key. For a shared key there is no user."""

    rule: CompiledRule
    user_id: str | None
    target_key: str


def compile_rules(rules: Sequence[LayoutRule]) -> tuple[CompiledRule, ...]:
    """The spec's rules, in their order."""
    return tuple(
        CompiledRule(
            name=rule.name,
            category=rule.category,
            policy=rule.shared_policy,
            stores=None if rule.stores is None else frozenset(rule.stores),
            pieces=tuple(_SPLIT.split(rule.pattern)),
            target=tuple(_SPLIT.split(rule.target_pattern)),
        )
        for rule in rules
    )


def match(rules: Sequence[CompiledRule], store: str, key: str) -> LayoutMatch | None:
    """The first rule for the source store `store` that matches `key`; None: the key is unclassified."""
    for rule in rules:
        if not rule.applies_to(store):
            continue
        names = rule.pieces[1::2]
        found = re.fullmatch(rule.regex(*names), key)
        if found is None:
            continue
        values = dict(zip(names, found.groups(), strict=True))
        return LayoutMatch(rule, values.get("user"), _fill(rule.target, values))
    return None


def _fill(pieces: Sequence[str], values: dict[str, str]) -> str:
    return "".join(piece if index % 2 == 0 else values[piece] for index, piece in enumerate(pieces))


def origins(
    rules: Sequence[CompiledRule], target_key: str, sources: Iterable[str]
) -> list[tuple[str, str, LayoutMatch]]:
    """The source stores and keys whose target key this is, by a user's rule, with how they are read there. A target has each
    placeholder of its pattern, so that a rule gives a store one key at most."""
    found = []
    for rule, read in zip(rules, at_targets(rules), strict=True):
        names = read.pieces[1::2]
        captured = None if rule.shared else re.fullmatch(read.regex(*names), target_key)
        if captured is None:
            continue
        key = _fill(rule.pieces, dict(zip(names, captured.groups(), strict=True)))
        for source in sources:
            there = match(rules, source, key) if rule.applies_to(source) else None
            if there is not None and there.rule is rule and there.target_key == target_key:
                found.append((source, key, there))
    return found


def literal_prefix(rule: CompiledRule, user_id: str) -> str | None:
    """What all of the user's target keys under the rule begin with, up to the `/` after the id; None where a listing by
    prefix cannot find just these."""
    pieces = rule.target
    if len(pieces) < 3 or pieces[1] != "user" or not pieces[2].startswith("/"):
        return None
    return f"{pieces[0]}{user_id}/"


def at_source(rules: Sequence[CompiledRule], source: str) -> tuple[CompiledRule, ...]:
    """The rules as a source store's listing, or its backup's, is read by them: the target keys are the keys there."""
    return tuple(replace(rule, target=rule.pieces) for rule in rules if rule.applies_to(source))


def unlistable_rules(rules: Sequence[CompiledRule], sources: Iterable[str]) -> list[str]:
    """The rules whose keys at a source cannot be listed by user, by name."""
    return sorted(
        {
            rule.name
            for source in sources
            for rule in at_source(rules, source)
            if not rule.shared and literal_prefix(rule, "user") is None
        }
    )


def at_targets(rules: Sequence[CompiledRule]) -> tuple[CompiledRule, ...]:
    """The rules as a target's listing is read by them, for every store: a key does not tell which source it came from."""
    return tuple(replace(rule, pieces=rule.target, stores=None) for rule in rules)


def is_for_all(rules: Sequence[CompiledRule], store: str, target_key: str) -> bool:
    """Whether a key at a target is by a shared rule whose objects are copied to every site, also where it lies among a user's."""
    found = match(at_targets(rules), store, target_key)
    return found is not None and found.rule.policy is Policy.COPY


def has_loose_rules(rules: Sequence[CompiledRule]) -> bool:
    """Whether some rule's target keys cannot be listed by user."""
    return any(not rule.shared and literal_prefix(rule, "user") is None for rule in rules)


def rule_sql(rules: Sequence[CompiledRule], store: str, key: str = "key") -> str:
    """A SQL expression: the index of the first rule for `store` that matches the column `key`, or NULL."""
    cases = []
    for index, rule in enumerate(rules):
        if rule.applies_to(store):
            quick = f"starts_with({key}, {literal(rule.pieces[0])}) AND " if rule.pieces[0] else ""
            cases.append(f"WHEN {quick}regexp_full_match({key}, {literal(rule.regex())}) THEN {index}")
    return f"CAST(CASE {' '.join(cases)} END AS SMALLINT)" if cases else "CAST(NULL AS SMALLINT)"


def user_sql(rules: Sequence[CompiledRule], rule: str = "rule", key: str = "key") -> str:
    """A SQL expression: the user id in the column `key`, whose rule's index is in the column `rule`."""
    cases = [
        f"WHEN {index} THEN {_capture_sql(compiled, 'user', key)}"
        for index, compiled in enumerate(rules)
        if not compiled.shared
    ]
    return f"CASE {rule} {' '.join(cases)} END" if cases else "CAST(NULL AS VARCHAR)"


def target_key_sql(rules: Sequence[CompiledRule], rule: str = "rule", key: str = "key") -> str:
    """A SQL expression: the key at the target."""
    cases = []
    for index, compiled in enumerate(rules):
        if compiled.keeps_keys:
            continue
        parts = [
            literal(piece) if place % 2 == 0 else _capture_sql(compiled, piece, key)
            for place, piece in enumerate(compiled.target)
            if piece
        ]
        cases.append(f"WHEN {index} THEN {' || '.join(parts)}")
    return f"CASE {rule} {' '.join(cases)} ELSE {key} END" if cases else key


def _capture_sql(rule: CompiledRule, name: str, key: str) -> str:
    whole = rf"\A{rule.regex(name)}\z"
    return f"regexp_extract({key}, {literal(whole)}, 1)"
