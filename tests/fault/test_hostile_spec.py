"""A hostile spec through the real command line: refused by file and key. Never a plan of it.

Tried: unknown keys, wrong types, forbidden and unknown places, one place twice, keys of another region, patterns that overlap or
try to back-track, numbers out of any range.

Every refusal names the file and the key, has a remedy, leaves no plan and no crash report, repeats no user's id (design,
invariant 10), and is harmless on a terminal.
"""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pytest
from commands import SPEC, Run, build_workspace, fill, runner
from hostile import Case, Change, assert_refused, named, spec_of

from migrate.errors import ExitCode
from migrate.layout import compile_rules, match
from migrate.planner.folder import Plan
from migrate.spec import LayoutRule


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return runner(capsys, tmp_path)


def written(content: bytes | str) -> Change:
    def change(root: Path) -> None:
        spec_of(root).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def spec(old: str, new: str) -> Change:
    assert old in SPEC
    return written(SPEC.replace(old, new))


def with_section(text: str) -> Change:
    return written(SPEC + text)


def at_hamar(text: str) -> Change:
    return spec('url = "file:stores/hamar"', text)


S3 = (
    'url = "s3://bucket/", credentials = "env:X", endpoint = "https://s3.eu-west-1.amazonaws.com", region = "eu-west-1"'
)
KEY = "arn:aws:kms:{}:123456789012:key/1"
PATTERN = 'pattern = "users/{user}/{rest}"'

SPECS = [
    Case("an unknown key", with_section("\n[run.more]\nx = 1\n"), ("plans/small.toml: run.more: unknown key",)),
    Case(
        "a key of a hostile name",
        with_section('\n"\\u001b[2J[red]" = 1\n'),
        ("small.toml: run.\\x1b[2J[red]: unknown key",),
    ),
    Case("a wrong type", with_section('\n[batches]\ncopies_max = "many"\n'), ("small.toml: batches.copies_max: ",)),
    Case("a table for a text", spec('path = "users.csv"', "path = { x = 1 }"), ("small.toml: directory.path: ",)),
    Case("a text for a table", spec('us = { country = "US" }', 'us = "US"'), ("small.toml: sites.us: ",)),
    Case(
        "a target in a forbidden country",
        spec('hamar = { country = "NO" }', 'hamar = { country = "US" }'),
        ("small.toml: stores.hamar.site: ", "residency.target_countries"),
    ),
    Case(
        "a country that is none",
        spec('hamar = { country = "NO" }', 'hamar = { country = "ZZ" }'),
        ("small.toml: sites.hamar.country: ",),
    ),
    Case("two stores at one place", at_hamar('url = "file:./stores/../stores/dublin-1"'), ("two stores are at",)),
    Case(
        "two stores on one bucket",
        written(
            SPEC.replace("file:stores/hamar", "file:stores/x")
            .replace('url = "file:stores/dublin-1"', S3)
            .replace('url = "file:stores/x"', S3)
        ),
        ("two stores are at s3://bucket/",),
    ),
    Case(
        "a store inside another",
        at_hamar('url = "file:stores/us/users"'),
        ("'us' and 'hamar' one lies inside the other",),
    ),
    Case(
        "source and target the same",
        at_hamar('url = "file:stores/us"'),
        ("two stores are at file:stores/us: 'us' and 'hamar'",),
    ),
    Case(
        "a KMS key in another region",
        spec('url = "file:stores/dublin-1"', f'{S3}, kms_key = "{KEY.format("us-east-1")}"'),
        ("dublin-1: the KMS key's region us-east-1 is in US, and the spec's site is in IE",),
        ExitCode.REFUSED,
    ),
    Case(
        "a bucket in another country",
        at_hamar(S3),
        ("hamar: the ", "eu-west-1 is in IE, and the spec's site is in NO"),
        ExitCode.REFUSED,
    ),
    Case(
        "a KMS key of many regions",
        at_hamar(f'{S3}, kms_key = "arn:aws:kms:eu-west-1:1:key/mrk-1"'),
        ("stores.hamar.kms_key: ", "mrk-"),
    ),
    Case(
        "a pattern of two in one segment",
        spec(PATTERN, 'pattern = "{a}-{user}/{rest}"'),
        ("small.toml: layout.rules.0 (all): ",),
    ),
    Case(
        "a pattern that would back-track",
        spec(PATTERN, f'pattern = "{"-".join("{" + name + "}" for name in "abcdefghij")}-{{user}}/{{rest}}"'),
        ("small.toml: layout.rules.0 (all): ",),
    ),
    Case(
        "two placeholders side by side",
        spec(PATTERN, 'pattern = "users/{user}{rest}"'),
        ("small.toml: layout.rules.0 (all): ",),
    ),
    Case(
        "a pattern without a user",
        spec(PATTERN, 'pattern = "users/{rest}"'),
        ("layout.rules.0 (all): a rule names {user}",),
    ),
    Case(
        "a pattern with a NUL in a folder",
        spec("file:stores/us", "file:stores/\\u0000us"),
        ("small.toml: stores.us.url: ",),
    ),
    Case(
        "a prefix that climbs",
        at_hamar('url = "s3://bucket/../x/", credentials = "env:X"'),
        ("small.toml: stores.hamar.url: ",),
    ),
    Case(
        "an endpoint that is none",
        at_hamar(S3.replace("https://s3.eu-west-1.amazonaws.com", "http://[::1")),
        ("small.toml: stores.hamar.endpoint: ",),
    ),
    Case(
        "a port out of range",
        at_hamar(S3.replace("https://s3.eu-west-1.amazonaws.com", "http://h:99999")),
        ("small.toml: stores.hamar.endpoint: ",),
    ),
    Case(
        "a duration beyond the calendar",
        spec('"36500d"', '"999999999d"'),
        ("small.toml: directory.max_age: ", "at most 36500d"),
    ),
    Case(
        "a number beyond all counting",
        spec('"36500d"', "9" * 30),
        ("small.toml: directory.max_age: ", "at most 36500d"),
    ),
    Case("a number of 5,000 digits", spec('"36500d"', "9" * 5000), ("small.toml is TOML that no spec needs",)),
    Case(
        "a size beyond all counting",
        spec('{ country = "IE" }', '{ country = "IE", capacity = "999999999999999PB" }'),
        ("sites.dublin-1.capacity: ", "at most 8191PiB"),
    ),
    Case(
        "an endless array",
        with_section(f"\nx = {'[' * 5000}{']' * 5000}\n"),
        ("small.toml is TOML that no spec needs",),
    ),
    Case("a cut file", with_section('\n[batches]\ncopies_max = "'), ("small.toml is not TOML", "line ")),
    Case("Latin-1", written(SPEC.encode() + b"# \xf6\n"), ("small.toml cannot be read",)),
    Case(
        "a time zone that leaves its folder",
        spec('name = "small"', 'name = "small"\ntime_zone = "../../etc/passwd"'),
        ("small.toml: time_zone: no such",),
    ),
    Case("a directory of a name too long", spec("users.csv", "x" * 5000), ("cannot be read: File name too long",)),
    Case("a directory of a name with a NUL", spec("users.csv", "us\\u0000ers.csv"), ("us\\x00ers.csv: no such file",)),
    Case(
        "a directory that has not come yet",
        spec("2026-11-01T00:00:00Z", "9999-12-31T23:59:59-23:59"),
        ("users.csv: its time, 9999-12-31", "has not come yet"),
    ),
    Case(
        "a directory of the year 1",
        spec('2026-11-01T00:00:00Z\nmax_age = "36500d"', "0001-01-01T00:00:00+23:59"),
        ("users.csv: too old",),
    ),
]


@named(SPECS)
def test_a_hostile_spec_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """The file and the key of the spec are told, with what to do; nothing is planned of it."""
    monkeypatch.setenv("X_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("X_SECRET_ACCESS_KEY", "secret")
    path = build_workspace(tmp_path)
    case.change(tmp_path)
    assert_refused(tmp_path, run("plan", str(path)), case.code, *case.says)


def test_of_patterns_that_overlap_the_first_decides(run: Run, tmp_path: Path) -> None:
    """Each key is in one class and under one rule, whichever others would take it as well (invariant 3)."""
    rules = [
        '[[layout.rules]]\nname = "first"\npattern = "users/{user}/1.jpg"\ncategory = "allowable"\n',
        '[[layout.rules]]\nname = "again"\npattern = "users/{user}/1.jpg"\ncategory = "exception"\n',
        '[[layout.rules]]\nname = "shared"\npattern = "users/{any}/{rest}"\nshared = true\n',
        '[[layout.rules]]\nname = "late"\npattern = "{rest}"\nshared = true\n',
    ]
    path = build_workspace(tmp_path, users={"anna": "IE"})
    path.write_text(SPEC.replace("[[layout.rules]]", "".join(rules[:2]) + "[[layout.rules]]", 1) + "".join(rules[2:]))
    done = run("plan", str(path), "--json")
    assert done.code == 0, done.err
    assert done.answer["census"]["us"]["classes"] == {
        "owned": 3, "out-of-scope": 0, "shared": 1, "orphan": 0, "unclassified": 0,
    }  # fmt: skip
    plan = Plan.open(Path(done.answer["folder"]))
    found = duckdb.execute(
        f"SELECT rule, count(DISTINCT key) FROM {plan.relation('objects')} GROUP BY ALL ORDER BY ALL"
    )
    assert found.fetchall() == [("all", 2), ("first", 1)]


def test_no_key_makes_a_pattern_back_track(run: Run, tmp_path: Path) -> None:
    """The worst that a spec can say, on keys made for it: linear in Python's engine as in DuckDB's."""
    depth = 60
    pattern = "".join(f"a{{x{chr(97 + n // 26)}{chr(97 + n % 26)}}}a/" for n in range(depth)) + "{user}/end/{rest}"
    rule = LayoutRule.model_validate({"name": "deep", "pattern": pattern, "category": "restricted"})
    keys = ["aaaaaaaaaaa/" * depth + f"u/en{number}" for number in range(200)]
    began = time.monotonic()
    assert all(match(compile_rules([rule]), "us", key) is None for key in [*keys, "a" * 1024, "a/" * 512])
    path = build_workspace(tmp_path)
    path.write_text(SPEC.replace("users/{user}/{rest}", pattern))
    fill(tmp_path, "us", keys)
    done = run("plan", str(path), "--json")
    assert time.monotonic() - began < 60
    assert done.code == 0, done.err
    assert done.answer["census"]["us"]["classes"]["unclassified"] == 200 + 10
