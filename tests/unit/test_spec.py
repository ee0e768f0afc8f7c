"""The spec's checks: all problems at once, each with its place, and no secret in any of them."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import ExitCode, SpecError
from migrate.layout import compile_rules
from migrate.model import is_stand_in
from migrate.residency import POLICY_CODES
from migrate.spec import Spec, load_spec, parse_spec, spec_from_data

MINIMAL = """
format = 1
name = "small"

[sites.us]
country = "US"
[sites.singapore]
country = "SG"
[sites.dublin-1]
country = "IE"
[sites.hamar]
country = "NO"

[stores.us]
site = "us"
role = "source"
url = "s3://bucket-us/data/"
region = "us-east-1"
credentials = "profile:us"
[stores.singapore]
site = "singapore"
role = "backup"
backup_of = "us"
url = "file:stores/singapore"
[stores.dublin-1]
site = "dublin-1"
role = "target"
url = "s3://bucket-dublin/"
credentials = "env:DUBLIN"
[stores.hamar]
site = "hamar"
role = "target"
url = "file:stores/hamar"

[directory]
path = "users.csv"
as_of = 2026-11-01T00:00:00Z

[[layout.rules]]
name = "all"
pattern = "users/{user}/{rest}"
category = "restricted"

[[placement.rules]]
name = "everyone"
countries = ["*"]
home = ["dublin-1"]
backup = ["hamar"]

[residency]
target_countries = ["IE", "NO"]
worker_countries = ["IE"]
"""

Change = Callable[[dict[str, Any]], object]


def data() -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads(MINIMAL))


def problems(*changes: Change) -> tuple[str, ...]:
    changed = data()
    for change in changes:
        change(changed)
    with pytest.raises(SpecError) as caught:
        spec_from_data(changed, place="small.toml")
    assert caught.value.exit_code is ExitCode.BAD_SPEC
    assert str(len(caught.value.problems)) in caught.value.what
    return caught.value.problems


def put(path: str, value: object) -> Change:
    def change(target: dict[str, Any]) -> None:
        *steps, last = path.split("/")
        node: Any = target
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        node[last] = value

    return change


def drop(path: str) -> Change:
    def change(target: dict[str, Any]) -> None:
        *steps, last = path.split("/")
        node: Any = target
        for step in steps:
            node = node[step]
        del node[last]

    return change


def more_rules(*rules: dict[str, Any]) -> Change:
    return lambda target: target["layout"]["rules"].extend(rules)


def test_a_small_spec_is_read() -> None:
    """What is left out has its default."""
    spec = parse_spec(MINIMAL, place="small.toml")
    assert spec.time_zone == "UTC"
    assert spec.target_store("hamar", "us") == "hamar"


def test_all_problems_are_told_at_once() -> None:
    """Six faults in six sections give six lines, each with the file and the key."""
    found = problems(
        put("sites/hamar/country", "Norway"),
        put("stores/us/rolle", "source"),
        put("directory/as_of", "yesterday"),
        put("layout/rules/0/category", "secret"),
        put("waves/canary", "one percent"),
        put("run/workers", 0),
    )
    assert len(found) == 6
    for place in (
        "sites.hamar.country",
        "stores.us.rolle",
        "directory.as_of",
        "layout.rules.0",
        "waves.canary",
        "run.workers",
    ):
        assert any(line.startswith(f"small.toml: {place}") for line in found), place


def test_problems_between_sections_are_told_at_once() -> None:
    """What no section can see alone is collected as well."""
    found = problems(
        put("stores/us/site", "mars"),
        put("stores/singapore/backup_of", "moon"),
        put("placement/rules/0/home", ["us"]),
        put("time_zone", "Europe/Hamar"),
    )
    text = "\n".join(found)
    for part in (
        "no site 'mars'",
        "'moon' is no source",
        "'us' has no target store",
        "no such time zone: 'Europe/Hamar'",
    ):
        assert part in text


def test_problems_of_routing_are_told_at_once() -> None:
    """In its keys: a secret that is none, a hook that is not encrypted. Between them: sections of other kinds, times, names."""
    found = problems(
        put("routing", {"kind": "http", "drain_seconds": "soon", "sql": {"url": "postgresql://op:hush@db/x"}}),
        put("routing/http", {"url": "http://hook.example/x", "key": "profile:me", "attempts": 99}),
        put("routing/command", {"argv": []}),
    )
    assert {line.split(": ")[1] for line in found} == {
        "routing.drain_seconds",
        "routing.sql.url",
        "routing.http.url",
        "routing.http.key",
        "routing.http.attempts",
        "routing.command.argv",
    }
    assert "hush" not in "".join(found)
    columns = {"user": "x", "home": "x"}
    found = problems(
        put("routing", {"kind": "http", "drain_seconds": "60s", "default_home": "mars"}),
        put("routing/sql", {"url": "env:DB", "columns": columns}),
        put("routing/command", {"argv": ["x"]}),
    )
    assert [line.split(": ")[1] for line in found] == [
        "routing.sql",
        "routing.http",
        "routing.command",
        "routing.drain_seconds",
        "routing.default_home",
        "routing.sql.columns",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/x",
        "https://",
        "https://u:p@h/x",
        "https://h/x?y",
        "https://h/x#y",
        "https://h:x/",
        "https://h/ x",
        "http://h/",
    ],
)
def test_a_hook_s_url_is_understood_or_refused(url: str) -> None:
    """https, or http to this machine alone; no user, query or fragment."""
    for given, count in (
        (url, 1),
        ("https://h.example:8443/a/b", 0),
        ("http://127.0.0.1:80/", 0),
        ("http://[::1]/", 0),
    ):
        section = {"kind": "http", "http": {"url": given, "key": "env:KEY"}}
        if count:
            (line,) = problems(put("routing", section))
            assert line.startswith("small.toml: routing.http.url: ")
        else:
            data = tomllib.loads(MINIMAL)
            put("routing", section)(data)
            assert spec_from_data(data, place="x").routing.http is not None


def test_an_unknown_key_is_refused_with_its_place() -> None:
    """A typing error never passes for a default."""
    assert problems(put("stores/us/inventory/maxage", "2h")) == ("small.toml: stores.us.inventory.maxage: unknown key",)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put("stores/dublin-1/credentials", "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI"), "by reference"),
        (put("stores/dublin-1/secret_access_key", "wJalrXUtnFEMI"), "unknown key"),
        (put("stores/dublin-1/endpoint", "https://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI@s3.example"), "endpoint"),
        (put("privacy/pseudonym_key", "wJalrXUtnFEMI"), "by reference"),
    ],
)
def test_a_secret_in_the_spec_is_refused_and_not_repeated(change: Change, complaint: str) -> None:
    """Invariant 10: a secret is named by reference, and the message about one that is not does not hold it."""
    found = problems(change)
    assert complaint in found[0]
    assert "AKIA" not in "".join(found)
    assert "wJalr" not in "".join(found)


def test_a_secret_beside_a_toml_error_is_not_repeated() -> None:
    """Invariant 10: the parser names the line and the column, and not what stands there."""
    with pytest.raises(SpecError) as caught:
        parse_spec('credentials = "wJalrXUtnFEMI\nx = 1', place="small.toml")
    assert "wJalr" not in caught.value.what + "".join(caught.value.problems)
    assert "line 1" in caught.value.problems[0]


def at_aws(endpoint: str) -> Change:
    """The target at the source's bucket, by way of `endpoint`."""

    def change(target: dict[str, Any]) -> None:
        put("stores/dublin-1/url", "s3://bucket-us/data")(target)
        put("stores/dublin-1/endpoint", endpoint)(target)

    return change


CASES: list[tuple[str, Change, str]] = [
    (
        "a target in a forbidden country",
        put("residency/target_countries", ["IE"]),
        "residency.target_countries does not allow",
    ),
    ("a multi-region key", put("stores/dublin-1/kms_key", "arn:aws:kms:eu-west-1:1:key/mrk-1"), "mrk-"),
    ("an alias of a key", put("stores/dublin-1/kms_key", "arn:aws:kms:eu-west-1:1:alias/a"), "an alias may stand"),
    ("a key for a source", put("stores/us/kms_key", "arn:aws:kms:us-east-1:1:key/1"), "of a target store"),
    ("one place twice", put("stores/singapore/url", "file:stores/hamar"), "two stores are at file:stores"),
    ("one folder, written in two ways", put("stores/singapore/url", "file:./stores/x/../hamar/"), "two stores are at"),
    ("one folder inside another", put("stores/singapore/url", "file:stores/hamar/inner"), "one lies inside the other"),
    ("one bucket holding another store", put("stores/dublin-1/url", "s3://bucket-us"), "one lies inside the other"),
    (
        "one bucket of AWS's",
        at_aws("https://s3.dualstack.eu-west-1.amazonaws.com"),
        "two stores are at s3://bucket-us/data",
    ),
    ("one bucket of AWS's, unencrypted", at_aws("http://s3.us-east-1.amazonaws.com.:80/"), "two stores are at"),
    ("a bucket's own host", at_aws("https://bucket-us.s3.amazonaws.com"), "stores.dublin-1.endpoint: of AWS's hosts"),
    ("an endpoint with a path", at_aws("https://s3.example/x"), "stores.dublin-1.endpoint: an endpoint is"),
    ("a bucket with a question", put("stores/us/url", "s3://bucket-us?x/"), "stores.us.url: a bucket's name"),
    ("a backup of nothing", drop("stores/singapore/backup_of"), "backup_of: goes with role backup"),
    ("a source that is a backup", put("stores/us/backup_of", "singapore"), "backup_of: goes with role backup"),
    ("a backup of a target", put("stores/singapore/backup_of", "hamar"), "'hamar' is no source store"),
    ("a source that receives", put("stores/us/receives", ["us"]), "receives: goes with role target"),
    ("receiving from a target", put("stores/hamar/receives", ["dublin-1"]), "'dublin-1' is no source store"),
    ("no credentials", drop("stores/us/credentials"), "credentials: required"),
    ("credentials of a folder", put("stores/hamar/credentials", "env:X"), "credentials: goes with an s3 url"),
    ("no source", put("stores/us/role", "reports"), "no store has the role source"),
    ("an unknown time zone", put("time_zone", "Mars/Olympus"), "no such time zone"),
    ("a time zone that leaves its folder", put("time_zone", "../etc/passwd"), "no such time zone"),
    ("a backup that can only be home", put("placement/rules/0/backup", ["dublin-1"]), "no other site is left"),
    ("a rule for an unknown store", put("layout/rules/0/stores", ["hamar"]), "'hamar' is no source store"),
    ("a time without an offset", put("directory/as_of", "2026-11-01T00:00:00"), "a time has an offset"),
    ("a time that is none", put("directory/as_of", "yesterday"), "such as 2026-11-22T00:00:00Z"),
    ("a name in capitals", put("stores/us/site", "US"), "stores.us.site: a name has lower-case letters"),
    ("a country in words", put("sites/us/country", "Ireland"), "two capital letters, such as IE"),
    ("an hour that is none", put("run/until", "25:00"), "run.until: a time of day is written HH:MM"),
    ("a rate without its time", put("run/limit_bytes", "200MB"), "run.limit_bytes: a rate is a size a second"),
    ("a key left out", drop("directory/path"), "directory.path: is required"),
    ("a format of the future", put("format", 2), "format"),
    ("a live inventory with a path", put("stores/us/inventory/path", "x.csv"), "`path` goes with"),
    (
        "a checksum of a live listing",
        put("stores/us/inventory/checksummed", True),
        "`checksummed` goes with kind listing",
    ),
    ("a listing without a time", put("stores/us/inventory", {"kind": "listing", "path": "x.csv"}), "`as_of` goes with"),
    ("a part below S3's least", put("copying/part_bytes", "4MiB"), "5MiB"),
    ("a canary over all", put("waves/canary", "101%"), "at most 100%"),
    ("an age without end", put("directory/max_age", "999999999d"), "directory.max_age: a duration is at most 36500d"),
    ("a capacity beyond counting", put("sites/hamar/capacity", "9300PB"), "sites.hamar.capacity: a size is at most"),
    ("a capacity of many digits", put("sites/hamar/capacity", 10**40), "sites.hamar.capacity: a size is at most"),
    ("a country of three letters", put("sites/us/country", "USA"), "sites.us.country"),
    ("a country that is none", put("sites/us/country", "XX"), "sites.us.country: 'XX' is no country's code"),
    (
        "Greece as the EU writes it",
        put("sites/us/country", "EL"),
        "sites.us.country: EL is no code of ISO 3166-1: write GR",
    ),
    (
        "a target country that is none",
        put("residency/target_countries", ["IE", "NO", "EU"]),
        "target_countries.2: 'EU' is no",
    ),
    (
        "a worker in UK",
        put("residency/worker_countries", ["UK"]),
        "worker_countries.0: UK is no code of ISO 3166-1: write GB",
    ),
    ("a run in a country that is none", put("run/country", "ZZ"), "run.country: 'ZZ' is no country's code"),
    ("a rule for UK", put("placement/rules/0/countries", ["FR", "UK"]), ").countries.1: UK is no code"),
    (
        "a rule for nobody",
        put("placement/rules/0/countries", ["US"]),
        "countries.0: US is in no list of the scope's policy",
    ),
    ("a decision that is none", put("scope/decisions", {"CH": "maybe"}), "scope.decisions.CH"),
    ("a decision on a listed code", put("scope/decisions", {"IE": "out"}), "decisions are on CH, GG"),
    ("a wrong type", put("batches/copies_max", "many"), "batches.copies_max"),
    ("a truth value for a size", put("batches/bytes_max", True), "a size is a number"),
]


@pytest.mark.parametrize(("change", "complaint"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_spec_is_refused_for(change: Change, complaint: str) -> None:
    """One fault, and a message that names it and its place."""
    found = problems(change)
    assert any(complaint in line for line in found), found
    assert all(line.startswith("small.toml: ") for line in found)
    assert "pattern '" not in "".join(found)  # no regular expression is shown to people


def test_a_share_without_its_unit_is_refused() -> None:
    """`canary = 1` is read as one in a hundred, and would be one in a million. In `plan.json` it is a number all the same."""
    for number in ("1", "0.01"):
        with pytest.raises(SpecError) as refused:
            parse_spec(MINIMAL + f"[waves]\ncanary = {number}\n", place="small.toml")
        assert refused.value.problems == ("small.toml: waves.canary: a share is a number with %, such as 1% or 0.5%",)
    assert parse_spec(MINIMAL + '[waves]\ncanary = "1%"\n', place="small.toml").waves.canary == 10_000


def test_a_rule_is_named_beside_its_number() -> None:
    """Who counts from 0 in a long file? Both by what one section sees and by what stands between sections."""
    (one,) = problems(more_rules({"name": "letters", "pattern": "{user}/{user}", "category": "restricted"}))
    assert re.search(r"layout\.rules\.\d+ \(letters\): a placeholder stands in a pattern once", one)
    (other,) = problems(put("layout/rules/0/stores", ["hamar"]))
    assert re.search(r"layout\.rules\.0 \([a-z]+\)\.stores: 'hamar' is no source store", other)


RULES: list[tuple[str, dict[str, Any], str]] = [
    ("no user and not shared", {"pattern": "a/{rest}", "category": "restricted"}, "names {user}, unless it is shared"),
    ("shared with a user", {"pattern": "a/{user}/{rest}", "shared": True}, "names {user}, unless it is shared"),
    ("no category", {"pattern": "a/{user}/{rest}"}, "has a category"),
    ("rest in the middle", {"pattern": "a/{rest}/{user}", "category": "restricted"}, "{rest} stands at the end"),
    ("a brace left open", {"pattern": "a/{user/{rest}", "category": "restricted"}, "literal text and {names}"),
    ("one name twice", {"pattern": "{user}/{user}", "category": "restricted"}, "stands in a pattern once"),
    ("no text between", {"pattern": "{user}{rest}", "category": "restricted"}, "one placeholder"),
    ("a user id cut by a dash", {"pattern": "{user}-{part}/{rest}", "category": "restricted"}, "one placeholder"),
    ("a user id cut by the rest", {"pattern": "u/{user}-{rest}", "category": "restricted"}, "one placeholder"),
    ("two parts beside the user", {"pattern": "{year}-{month}/{user}", "category": "restricted"}, "one placeholder"),
    ("two parts of a shared key", {"pattern": "static/{name}.{kind}", "shared": True}, "one placeholder"),
    (
        "a target that joins two parts",
        {"pattern": "m/{year}/{user}/{rest}", "target": "u/{user}-{year}/{rest}", "category": "restricted"},
        "`target` has one placeholder in a path segment",
    ),
    (
        "a target that joins a part and the rest",
        {"pattern": "m/{user}/{rest}", "target": "u/{user}.{rest}", "category": "restricted"},
        "`target` has one placeholder in a path segment",
    ),
    (
        "a target that loses a part",
        {"pattern": "m/{year}/{user}/{rest}", "target": "u/{user}/{rest}", "category": "restricted"},
        "each placeholder of the pattern once",
    ),
    (
        "a policy for users' objects",
        {"pattern": "a/{user}/{rest}", "category": "restricted", "policy": "copy"},
        "`policy` goes with shared = true",
    ),
    ("no such policy", {"pattern": "a/{rest}", "shared": True, "policy": "move"}, "copy"),
    ("excluded without a reason", {"pattern": "a/{rest}", "shared": True, "policy": "exclude"}, "needs a `reason`"),
    (
        "excluded for a blank",
        {"pattern": "a/{rest}", "shared": True, "policy": "exclude", "reason": " "},
        "needs a `reason`",
    ),
    (
        "a reason to copy",
        {"pattern": "a/{rest}", "shared": True, "policy": "copy", "reason": "x"},
        "`reason` goes with",
    ),
    ("a reason for nothing", {"pattern": "a/{rest}", "shared": True, "reason": "x"}, "`reason` goes with"),
]


@pytest.mark.parametrize(("rule", "complaint"), [case[1:] for case in RULES], ids=[case[0] for case in RULES])
def test_a_layout_rule_is_refused_for(rule: dict[str, Any], complaint: str) -> None:
    """A pattern that could give a key to the wrong user, or two keys one target, is no pattern."""
    found = problems(more_rules({"name": "more", **rule}))
    assert any(complaint in line and "layout.rules.1" in line for line in found), found


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("logs/{day}/{user}.log", "u/{user}/logs/{day}"),
        ("p-{user}/x{rest}", "u/{user}/{rest}"),
        ("{user}", "u-{user}.x"),
    ],
)
def test_one_placeholder_a_segment_is_enough(pattern: str, target: str) -> None:
    """The twins of the refused: text before and after a placeholder leaves no choice."""
    changed = data()
    more_rules({"name": "more", "pattern": pattern, "target": target, "category": "restricted"})(changed)
    assert spec_from_data(changed, place="x").layout.rules[1].target == target


@pytest.mark.parametrize(
    ("orphans", "complaint"),
    [
        ({"policy": "exclude"}, "needs a `reason`"),
        ({"policy": "keep", "reason": "x"}, "`reason` goes with"),
        ({"reason": "x"}, "`reason` goes with"),
        ({"policy": "drop"}, "copy"),
    ],
)
def test_a_policy_for_orphans_is_refused_for(orphans: dict[str, str], complaint: str) -> None:
    """The same rules as for a shared rule's policy; the line begins with the section."""
    (found,) = problems(put("orphans", orphans))
    assert found.startswith("small.toml: orphans")
    assert complaint in found


def test_stand_ins_take_the_sites_in_pairs_where_something_is_copied_to_all() -> None:
    """Each site that placement names once, the last one alone where they are odd; nobody where nothing is copied so."""
    changed = data()
    sites = sorted(
        {site for rule in changed["placement"]["rules"] for site in (*rule["home"], *rule.get("backup", ()))}
    )
    assert spec_from_data(changed, place="x").stand_ins == {}
    for section in ({"policy": "keep"}, {"policy": "exclude", "reason": "x"}):
        put("orphans", section)(changed)
        assert spec_from_data(changed, place="x").stand_ins == {}
    put("orphans", {"policy": "copy"})(changed)
    found = spec_from_data(changed, place="x").stand_ins
    assert [site for pair in found.values() for site in pair if site is not None] == sites
    assert len(found) == -(-len(sites) // 2)
    assert all(is_stand_in(user_id) and "/" in user_id for user_id in found)


def test_a_rule_name_stands_once() -> None:
    """Findings name the rule, so there is one of a name."""
    assert problems(more_rules({"name": "all", "pattern": "b/{user}", "category": "restricted"})) == (
        "small.toml: layout.rules: the name 'all' stands twice",
    )


def test_all_codes_of_the_policy_may_be_placed() -> None:
    """The 38, the six that are decided, and the star: the twin of the refused."""
    changed = data()
    put("placement/rules/0/countries", [*sorted(POLICY_CODES), "*"])(changed)
    assert len(spec_from_data(changed, place="x").placement.rules[0].countries) == 38 + 6 + 1


def test_overlapping_patterns_are_no_problem() -> None:
    """The first that matches decides, so a special case may stand before the general one."""
    changed = data()
    changed["layout"]["rules"].insert(
        0, {"name": "videos", "pattern": "users/{user}/videos/{rest}", "category": "exception"}
    )
    rules = compile_rules(spec_from_data(changed, place="x").layout.rules)
    assert [rule.name for rule in rules] == ["videos", "all"]


@pytest.mark.parametrize("receives", [None, ["us"]])
def test_two_stores_of_a_site_must_not_both_receive_a_source(receives: list[str] | None) -> None:
    """A copy has one target store at a site, not two and not a choice."""
    second = {"site": "hamar", "role": "target", "url": "file:stores/hamar-2"} | (
        {"receives": receives} if receives else {}
    )
    (line,) = problems(put("stores/hamar-2", second))
    assert "exactly one target store receives 'us'; found hamar and hamar-2" in line


def test_a_store_that_receives_nothing_of_a_source_leaves_a_gap() -> None:
    """A site of a placement rule takes every source's objects."""
    (line,) = problems(
        put("stores/eu", {"site": "us", "role": "source", "url": "file:stores/eu"}),
        put("stores/hamar/receives", ["us"]),
    )
    assert "exactly one target store receives 'eu'; found none" in line


def test_the_deciding_part_leaves_out_what_may_change_while_a_plan_runs() -> None:
    """Limits, the time zone and references to secrets are not under the plan's digest; all else is, in sections and in stores."""
    spec = parse_spec(MINIMAL, place="x")
    deciding = spec.deciding()
    assert set(Spec.model_fields) - set(deciding) == {"run", "routing", "cutover", "privacy", "time_zone"}
    assert set(type(spec.directory).model_fields) - set(deciding["directory"]) == {"max_age"}
    for name, store in spec.stores.items():
        assert set(type(store).model_fields) - set(deciding["stores"][name]) == {
            "credentials",
            "concurrency_max",
            "timeout",
        }
        assert set(type(store.inventory).model_fields) - set(deciding["stores"][name]["inventory"]) == {"max_age"}


OUTSIDE: list[Change] = [
    put("stores/us/credentials", "env:NEW"),
    put("stores/us/timeout", "5s"),
    put("stores/us/concurrency_max", 3),
    put("stores/us/inventory/max_age", "1h"),
    put("directory/max_age", "1h"),
    put("run/workers", 3),
    put("routing", {"drain_seconds": "3s"}),
]
INSIDE: list[Change] = [
    put("stores/dublin-1/url", "s3://bucket-other/"),
    put("stores/dublin-1/endpoint", "https://s3.example"),
    put("stores/dublin-1/region", "eu-west-1"),
    put("stores/dublin-1/kms_key", "arn:aws:kms:eu-west-1:1:key/1"),
    put("stores/dublin-1/receives", ["us"]),
    put("sites/hamar/weight", 2),
    put("verify/level", "both-ends"),
    put("copying/part_bytes", "8MiB"),
]


@pytest.mark.parametrize(("changes", "same"), [(OUTSIDE, True), (INSIDE, False)])
def test_only_what_decides_changes_the_deciding_part(changes: list[Change], same: bool) -> None:
    """A credential that is rotated makes no other plan; another endpoint does."""
    before = parse_spec(MINIMAL, place="x").deciding()
    for change in changes:
        changed = data()
        change(changed)
        assert (spec_from_data(changed, place="x").deciding() == before) is same


def test_a_spec_is_frozen() -> None:
    """A plan's spec cannot be changed by who reads it."""
    spec = parse_spec(MINIMAL, place="x")
    with pytest.raises(Exception, match="frozen"):
        spec.name = "other"  # type: ignore[misc]


def test_a_spec_goes_through_plan_json_unchanged() -> None:
    """What plan.json keeps of a spec reads back as the same spec."""
    spec = parse_spec(MINIMAL, place="x")
    assert spec_from_data(spec.model_dump(mode="json"), place="plan.json", is_kept=True) == spec


def test_a_number_that_no_integer_holds_is_a_spec_error() -> None:
    """Python reads 4,300 digits at most, and says so by a ValueError of its own."""
    with pytest.raises(SpecError, match="TOML that no spec needs"):
        parse_spec(MINIMAL.replace("format = 1", "format = " + "9" * 5000), place="x")


def test_a_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    """It names the command that writes one."""
    with pytest.raises(SpecError, match="no spec at") as caught:
        load_spec(tmp_path / "none.toml")
    assert "migrate init" in caught.value.remedy


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name = ", b""])
def test_a_file_that_is_no_spec_is_a_spec_error(tmp_path: Path, content: bytes) -> None:
    """Not UTF-8, not TOML, or empty: never another kind of error."""
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_spec(path)


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    """A path that cannot be read as a file is told so."""
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)
