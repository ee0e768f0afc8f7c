"""Ways round the residency guard, and what was edited: refused with 77 or 5, and no byte goes where the plan has none.

A plan's files, the ledger's rows and the sealed receipts are edited one at a time, in a world that was copied in part or whole.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from proxy import RecordingProxy, recording
from s3world import credentials, look, on_s3
from servers import S3Server
from smallworld import SmallWorld, build, planned

TARGETS = ("dublin-1", "dublin-2", "hamar")
INTEGRITY, REFUSED = 5, 77


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SmallWorld]:
    """A world that is planned, one whose first wave is copied, and one that is copied and verified."""
    worlds = {}
    for stage in ("planned", "begun", "verified"):
        world = build(
            tmp_path_factory.mktemp("world") / stage, users=6, per_user=2, copies_max=6, odd=False, large=False
        )
        planned(world)
        if stage == "begun":
            assert world.migrate("run").code == 75
        if stage == "verified":
            assert world.migrate("run", "--wave", "all").code == 0
            assert world.migrate("verify").code == 0
        worlds[stage] = world
    return worlds


def copy_of(templates: dict[str, SmallWorld], stage: str, root: Path) -> SmallWorld:
    template = templates[stage]
    shutil.copytree(template.root, root / "w", symlinks=True)
    return SmallWorld(root / "w", template.users, dict(template.objects))


# edits


def plan_of(world: SmallWorld) -> Path:
    (folder,) = (world.root / ".migrate" / "plans").glob("*/plan.json")
    return folder.parent


def edit_document(change: Callable[[dict[str, Any]], object]) -> Callable[[SmallWorld], None]:
    def edit(world: SmallWorld) -> None:
        path = plan_of(world) / "plan.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def rewrite(path: Path, select: str) -> None:
    """Put a Parquet file in place of another: `select` reads the old one as `old`."""
    new = path.with_suffix(".new")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE VIEW old AS FROM read_parquet('{path}', hive_partitioning = false)")
        connection.execute(f"COPY ({select}) TO '{new}' (FORMAT parquet)")
    new.replace(path)


def edit_table(pattern: str, select: str) -> Callable[[SmallWorld], None]:
    def edit(world: SmallWorld) -> None:
        for path in sorted(plan_of(world).glob(pattern)):
            rewrite(path, select)

    return edit


def flip_a_bit(world: SmallWorld) -> None:
    path = min(plan_of(world).glob("objects*"))
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def lose_copies(world: SmallWorld) -> None:
    min(plan_of(world).glob("objects*")).unlink()


def take_from_another_plan(pattern: str) -> Callable[[SmallWorld], None]:
    """Files out of the plan of the same world with other batches."""

    def edit(world: SmallWorld) -> None:
        ours = plan_of(world)
        spec = world.root / "plans" / "small.toml"
        spec.write_text(spec.read_text().replace("copies_max = 6", "copies_max = 100"))
        planned(world)
        (other,) = (path.parent for path in ours.parent.glob("*/plan.json") if path.parent != ours)
        for path in other.glob(pattern):
            shutil.copyfile(path, ours / path.name)
        shutil.rmtree(other)

    return edit


def link_to_another_plan(world: SmallWorld) -> None:
    """The plan's folder is a link to one of another content."""
    ours = plan_of(world)
    away = world.root / "elsewhere"
    ours.rename(away)
    edit_document(lambda found: found["spec"]["stores"]["hamar"].update(url="file:stores/us"))
    document = json.loads((away / "plan.json").read_text())
    document["spec"]["stores"]["hamar"]["url"] = "file:elsewhere-too"
    (away / "plan.json").write_text(json.dumps(document))
    ours.symlink_to(away)


def spec_key(*path: str, value: object) -> Callable[[SmallWorld], None]:
    def change(document: dict[str, Any]) -> None:
        found = document["spec"]
        for name in path[:-1]:
            found = found[name]
        assert found[path[-1]] != value, "the edit changes something"
        found[path[-1]] = value

    return edit_document(change)


def exchange_files(document: dict[str, Any]) -> None:
    document["files"]["users"], document["files"]["findings"] = (
        document["files"]["findings"],
        document["files"]["users"],
    )


BY_ORDER = "ORDER BY batch, ordinal"
EDITS: dict[str, Callable[[SmallWorld], None]] = {
    "store-elsewhere": spec_key("stores", "hamar", "url", value="file:elsewhere"),
    "store-at-another-site": spec_key("stores", "hamar", "site", value="dublin-1"),
    "site-in-another-country": spec_key("sites", "hamar", "country", value="IE"),
    "target-country-let-in": spec_key("residency", "target_countries", value=["IE", "NO", "US"]),
    "worker-country-let-in": spec_key("residency", "worker_countries", value=["IE", "US"]),
    "source-and-target-change-roles": spec_key("stores", "us", "role", value="target"),
    "layout": spec_key(
        "layout", "rules", value=[{"name": "x", "pattern": "users/{user}/{rest}", "category": "allowable"}]
    ),
    "store-renamed": edit_document(
        lambda found: found["spec"]["stores"].update(oslo=found["spec"]["stores"].pop("hamar"))
    ),
    "capabilities": edit_document(lambda found: found["capabilities"].update(hamar={})),
    "no-blockers": edit_document(lambda found: found.update(blockers=[{"kind": "orphan", "count": 0, "digest": "0"}])),
    "totals": edit_document(lambda found: found["totals"].update(copies=found["totals"]["copies"] - 1)),
    "files-exchanged": edit_document(exchange_files),
    "digest-of-batches": edit_document(lambda found: found["digests"].update(batches="0" * 64)),
    "digest": edit_document(lambda found: found.update(digest="0" * 64)),
    "another-store": edit_table(
        "objects*",
        "SELECT * REPLACE (if(home_store = 'hamar', 'us', home_store) AS home_store, "
        f"if(backup_store = 'hamar', 'us', backup_store) AS backup_store) FROM old {BY_ORDER}",
    ),
    "another-key": edit_table("objects*", f"SELECT * REPLACE (target_key || '.x' AS target_key) FROM old {BY_ORDER}"),
    "another-user": edit_table("objects*", f"SELECT * REPLACE ('u000' AS user_id) FROM old {BY_ORDER}"),
    "another-source": edit_table("objects*", f"SELECT * REPLACE ('singapore' AS store) FROM old {BY_ORDER}"),
    "rows-of-batches-exchanged": edit_table(
        "objects*",
        "WITH last AS (SELECT max(batch) AS last FROM old) "
        "SELECT old.* REPLACE (if(batch >= last - 1, 2 * last - 1 - batch, batch) AS batch) FROM old, last",
    ),
    "copies-in-another-order": edit_table("objects*", "SELECT * REPLACE (-ordinal AS ordinal) FROM old"),
    "a-bit-of-the-copies": flip_a_bit,
    "copies-lost": lose_copies,
    "copies-of-another-plan": take_from_another_plan("objects*"),
    "batches-of-another-plan": take_from_another_plan("batches*"),
    "all-of-another-plan": take_from_another_plan("*"),
    "folder-is-a-link": link_to_another_plan,
    "a-batch-in-another-wave": edit_table("batches*", "SELECT * REPLACE (0 AS wave) FROM old ORDER BY number"),
    "a-batch-with-another-digest": edit_table(
        "batches*", "SELECT * REPLACE (unhex(repeat('00', 32)) AS digest) FROM old ORDER BY number"
    ),
}


# a batch is digested when it is leased: those before it are as they were planned, and may be copied by then
LATE = frozenset(
    {
        "another-store",
        "rows-of-batches-exchanged",
        "a-bit-of-the-copies",
        "copies-lost",
        "copies-of-another-plan",
    }
)


@pytest.mark.parametrize("stage", ["planned", "begun"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_plan_brings_no_byte_elsewhere(
    name: str, stage: str, templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """Before its first run and after it, an edit of any file of a plan is exit 5; nothing but untouched batches is copied
    (Invariants 6 and 7)."""
    world = copy_of(templates, stage, tmp_path)
    before = world.at_targets()
    EDITS[name](world)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == INTEGRITY, (answer.out, answer.err)
    assert "Traceback" not in answer.err
    found = world.at_targets()
    if name in LATE:
        assert found.items() <= templates["verified"].at_targets().items()
    else:
        assert found == before
    assert not (world.root / "elsewhere" / "users").exists()


def test_an_untouched_plan_copies_all(templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """The twin: the copied world, written anew as the edits write it, runs to its end."""
    world = copy_of(templates, "begun", tmp_path)
    edit_document(lambda found: None)(world)
    edit_table("objects*", f"FROM old {BY_ORDER}")(world)
    edit_table("batches*", "FROM old ORDER BY number")(world)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    world.assert_all_there()


@pytest.mark.parametrize(
    ("pattern", "select", "words"),
    [
        ("users*", "SELECT * REPLACE ('hamar' AS home) FROM old", ("run", "--wave", "all")),
        ("users*", "SELECT * REPLACE ('NO' AS country_given) FROM old", ("explain", "u002")),
        ("users*", "SELECT * REPLACE (0 AS objects) FROM old WHERE user_id <> 'u001'", ("explain", "u002")),
        ("findings*", "SELECT * FROM old LIMIT 0", ("show", "--list", "unbacked")),
        ("findings*", "SELECT * REPLACE ('u000' AS user_id) FROM old", ("explain", "u002")),
        ("objects*", f"SELECT * REPLACE ('allowable' AS category) FROM old {BY_ORDER}", ("explain", "u002")),
    ],
)
def test_who_reads_an_edited_table_is_told(pattern: str, select: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Exit 5 for each reader of users, findings and copies; the untouched twin is read (Invariant 6)."""
    world = build(tmp_path, users=6, per_user=2, copies_max=6, odd=False, large=False)
    world.put_source("users/u002/alone.jpg", b"not in the backup", backup=False)
    planned(world)
    assert world.migrate(*words, *(["--dry-run"] if words[0] == "run" else [])).code == 0
    edit_table(pattern, select)(world)
    answer = world.migrate(*words)
    assert answer.code == INTEGRITY, (answer.out, answer.err)
    assert world.at_targets() == {}


def test_users_who_were_taken_out_of_a_plan_do_not_hide_strays(tmp_path: Path) -> None:
    """Where no prefix shows the user, the look for EXTRA objects goes by the plan's users: edited, it is exit 5."""
    world = build(tmp_path, users=4, per_user=1, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace("users/{user}/{rest}", "{kind}/{user}/{rest}"))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    home = next(name for name, key in world.at_targets() if "/u001/" in key)
    world.put(home, "users/u001/stray", b"?", world.objects["users/u001/photo-0000.jpg"][1], {})
    edit_table("users*", "SELECT * FROM old WHERE user_id <> 'u001'")(world)
    assert world.migrate("verify").code == INTEGRITY


# the ledger


def sql(world: SmallWorld, *statements: str) -> None:
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    try:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            changed = connection.execute(statement).rowcount
            assert changed > 0 or statement.startswith("DROP"), f"it changes nothing: {statement}"
        connection.commit()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET home = 'us', backup = 'singapore'",
        "UPDATE users SET home = CASE home WHEN 'hamar' THEN 'dublin-1' ELSE 'hamar' END",
        "UPDATE users SET home = backup, backup = home",
        "UPDATE users SET country = 'US'",
    ],
)
def test_an_edited_user_of_the_ledger_decides_no_target(
    statement: str, templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """Targets come from the plan alone: what is at the targets in the end is what an untouched ledger brings there."""
    world = copy_of(templates, "begun", tmp_path)
    sql(world, statement)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == 0, answer.err
    assert world.at_targets() == templates["verified"].at_targets()
    world.assert_all_there()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET wave = 0 WHERE wave > 0",
        "UPDATE batches SET wave = 0",
        "UPDATE batches SET digest = randomblob(32) WHERE state = 'pending'",
        "UPDATE batches SET key_from = CAST('users/z' AS BLOB)",
        "UPDATE batches SET size_bytes = size_bytes + 1 WHERE state = 'pending'",
        "UPDATE plans SET copies = copies - 1",
        "UPDATE plans SET verify_level = 'listing'",
    ],
)
def test_an_edited_batch_or_plan_of_the_ledger_is_found(
    statement: str, templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """Exit 5, and whatever was copied by then lies where the plan has it."""
    world = copy_of(templates, "begun", tmp_path)
    sql(world, statement)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == INTEGRITY, answer.err
    wanted = templates["verified"].at_targets()
    assert world.at_targets().items() <= wanted.items()


def test_plan_and_ledger_that_were_edited_as_one_are_found(templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """Copies with another target, and their digest in the ledger: the plan's own table of batches says otherwise: exit 5."""
    world = copy_of(templates, "begun", tmp_path)
    before = world.at_targets()
    EDITS["another-store"](world)
    from migrate.planner.digest import OBJECTS

    digests = {}
    for path in sorted(plan_of(world).glob("objects*")):
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            digests.update(
                connection.execute(
                    f"SELECT batch, sha256(string_agg({OBJECTS.canonical}, '' ORDER BY ordinal)) "
                    f"FROM read_parquet('{path}', hive_partitioning = false) GROUP BY batch"
                ).fetchall()
            )
    sql(
        world,
        *(f"UPDATE batches SET digest = x'{digest}' WHERE number = {number}" for number, digest in digests.items()),
    )
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == INTEGRITY, answer.err
    assert world.at_targets() == before


COUNTERS = [
    "UPDATE batches SET copies = copies - 1 WHERE number = 1",
    "UPDATE batches SET copied = copied - 1, drifted = drifted + 1 WHERE number = 1",
    "UPDATE batches SET copied = copied - 1 WHERE number = 1",
    "UPDATE batches SET done_bytes = done_bytes - 1 WHERE number = 1",
    "UPDATE users SET good = good - 1 WHERE user_id = 'u001'",
    "UPDATE users SET good = good - 1, other = other + 1 WHERE user_id = 'u001'",
    "UPDATE plans SET size_bytes = size_bytes + 1",
    "DELETE FROM batches WHERE number = 1",
    "UPDATE batch_counts SET copies = copies - 1 WHERE state = 'done' AND wave = 1",
    "UPDATE batch_counts SET copied = copied - 1, drifted = drifted + 1 WHERE state = 'done' AND wave = 1",
    "UPDATE batch_counts SET done_bytes = done_bytes - 1 WHERE state = 'done' AND wave = 1",
    "UPDATE user_counts SET good = good - 1 WHERE state = 'verified' AND wave = 1",
]


@pytest.mark.parametrize("statement", COUNTERS)
def test_an_edited_counter_is_found(statement: str, templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """Exit 5 from status, run and verify alike: planned is no longer the sum of the outcomes (Invariant 3)."""
    world = copy_of(templates, "verified", tmp_path)
    sql(world, statement)
    for words in (("status",), ("run", "--wave", "all"), ("verify",)):
        assert world.migrate(*words).code == INTEGRITY, words


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE batch_counts SET batches = batches + 1 WHERE state = 'done' AND wave = 1"],
        ["UPDATE batch_counts SET objects = objects + 1 WHERE state = 'done' AND wave = 1"],
        [
            "DROP TRIGGER batches_change",
            "UPDATE batches SET copied = copied - 1, drifted = drifted + 1 WHERE number = 1",
        ],
        ["DROP TRIGGER batches_go", "DELETE FROM batches WHERE number = 1"],
    ],
)
def test_counters_that_are_not_the_sums_over_the_batches_are_found(
    statements: list[str], templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """Exit 5 from run and verify, although the counters agree with each other (Invariant 3)."""
    world = copy_of(templates, "verified", tmp_path)
    sql(world, *statements)
    for words in (("run", "--wave", "all"), ("verify",)):
        assert world.migrate(*words).code == INTEGRITY, words


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE check_counts SET missing = 0 WHERE state = 'done'"],
        ["UPDATE check_counts SET checks = 0 WHERE state = 'pending'"],
        ["DROP TRIGGER checks_change", "UPDATE checks SET missing = 0, matched = matched + missing WHERE missing > 0"],
    ],
)
def test_counters_that_are_not_the_sums_over_the_checks_are_found(
    statements: list[str], templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """A verification that goes on would end as its counters say: 5, where an untouched one ends with 3 again (Invariant 3)."""
    world = copy_of(templates, "begun", tmp_path)
    store, key = min(world.at_targets())
    world.store(store).delete(key)
    for _ in range(2):
        assert world.migrate("verify", "--wave", "all").code == 3
    sql(world, *statements)
    assert world.migrate("verify", "--wave", "all").code == INTEGRITY


SEALS = {
    "etag": "SELECT * REPLACE ('0' AS etag) FROM old ORDER BY ordinal",
    "digest": "SELECT * REPLACE (unhex(repeat('00', 32)) AS sha256) FROM old ORDER BY ordinal",
    "a-row-less": "SELECT * FROM old WHERE ordinal > 0 ORDER BY ordinal",
    "rows-exchanged": "SELECT * REPLACE (1 - ordinal AS ordinal) FROM old WHERE ordinal < 2 "
    "UNION ALL SELECT * FROM old WHERE ordinal >= 2",
}


@pytest.mark.parametrize("name", SEALS)
def test_edited_receipts_are_found(name: str, templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """A sealed file with other rows is exit 5; the same rows, written anew, are the twin that passes (Invariant 8)."""
    world = copy_of(templates, "verified", tmp_path)
    seal = min((world.root / ".migrate" / "seals").rglob("receipts-*"))
    rewrite(seal, "FROM old ORDER BY ordinal")
    assert world.migrate("verify", "--wave", "all").code == 0
    rewrite(seal, SEALS[name])
    assert world.migrate("verify", "--wave", "all").code == INTEGRITY


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE seals SET digest = randomblob(32) WHERE sequence = 1",
        "UPDATE seals SET rows = rows + 1 WHERE sequence = 1",
        "UPDATE seals SET chain = randomblob(32) WHERE sequence = 1",
        "UPDATE seals SET number = number + 1 WHERE sequence = 1",
        "DELETE FROM seals WHERE sequence = 1",
        "DELETE FROM seals",
    ],
)
def test_an_edited_chain_of_seals_is_found(statement: str, templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """Each link covers the one before: exit 5 for a seal that was changed, exchanged or taken out."""
    world = copy_of(templates, "verified", tmp_path)
    sql(world, statement)
    assert world.migrate("verify", "--wave", "all").code == INTEGRITY


def test_a_value_that_does_not_fit_is_damage_and_not_shown(templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """SQLite quotes a text that it cannot decode, a user's id perhaps: exit 5, without it (Invariant 10)."""
    world = copy_of(templates, "begun", tmp_path)
    sql(world, "UPDATE runs SET operator = CAST(x'63616e617279ff' AS TEXT)")
    answer = world.migrate("status")
    assert answer.code == INTEGRITY, answer.err
    assert "is damaged" in answer.err
    assert "canary" not in answer.err


FORGED = (
    "INSERT INTO copies (plan_id, number, ordinal, outcome, sha256, part_bytes, attributes, etag, evidence, run_id, at) "
    "SELECT plan_id, number, 0, 'c', randomblob(32), 0, randomblob(32), CAST('t0' AS BLOB), 'm', 1, 1 "
    "FROM batches WHERE number = 2"
)


def test_an_open_row_that_is_forged_is_not_counted(templates: dict[str, SmallWorld], tmp_path: Path) -> None:
    """A receipt that no counter knows: the batch cannot end, exit 5 (Invariant 3)."""
    world = copy_of(templates, "begun", tmp_path)
    sql(world, FORGED)
    assert world.migrate("run", "--wave", "all").code == INTEGRITY


def test_an_open_row_that_is_forged_with_its_counters_is_found(
    templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """The run believes its ledger, and does not copy; the verification reads the target again: MISSING, and a repair mends it."""
    world = copy_of(templates, "begun", tmp_path)
    size = min(len(body) for body, _, _ in world.objects.values())
    sql(world, FORGED, f"UPDATE batches SET copied = 1, done_bytes = {size} WHERE number = 2")
    assert world.migrate("run", "--wave", "all").code == 0
    forged = templates["verified"].at_targets().keys() - world.at_targets().keys()
    assert len(forged) == 1
    answer = world.migrate("verify", "--json")
    assert answer.code == 3
    verdicts = answer.json["pass"]["verdicts"]
    assert (verdicts["match"], verdicts["missing"]) == (2 * len(world.objects) - 1, 1)
    assert world.migrate("verify", "--repair").code == 3
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    world.assert_all_there()


# the guard


@pytest.mark.parametrize(
    "words", [("plan",), ("doctor",), ("run", "--wave", "all"), ("verify",)], ids=lambda words: words[0]
)
@pytest.mark.parametrize("country", ["US", "", "no"])
def test_a_worker_elsewhere_is_refused_by_every_command(
    words: tuple[str, ...],
    country: str,
    templates: dict[str, SmallWorld],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """77 for a country that policy does not allow, and for none; one that is let in is the twin (Invariant 7)."""
    world = copy_of(templates, "verified" if words[0] == "verify" else "planned", tmp_path)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace('country = "IE"\nconcurrency', "concurrency"))
    planned_spec = [str(spec)] if words[0] in ("plan", "doctor") else []
    if not planned_spec and not country:
        # a plan that says where it is run from is one, whatever the file says now; so plan without, from where it is allowed
        monkeypatch.setenv("MIGRATE_COUNTRY", "IE")
        planned(world)
    before = world.at_targets()
    monkeypatch.setenv("MIGRATE_COUNTRY", country)
    answer = world.migrate(*words, *planned_spec)
    assert answer.code == REFUSED, answer.err
    assert world.at_targets() == before
    monkeypatch.setenv("MIGRATE_COUNTRY", "IE")
    assert world.migrate(*words, *planned_spec).code == 0


def put_a_link_to(elsewhere: str) -> Callable[[SmallWorld], None]:
    def change(world: SmallWorld) -> None:
        folder = world.root / "stores" / "hamar"
        shutil.rmtree(folder)
        folder.symlink_to(world.root / elsewhere)

    return change


def put_a_link_inside(world: SmallWorld) -> None:
    for name in TARGETS:
        (world.root / "stores" / name / "users").symlink_to(world.root / "elsewhere")


@pytest.mark.parametrize(
    "change",
    [put_a_link_to("stores/us"), put_a_link_to("stores"), put_a_link_to(".migrate"), put_a_link_inside],
    ids=["to-a-source", "above-a-source", "to-the-workspace", "inside"],
)
def test_a_link_leads_no_byte_elsewhere(
    change: Callable[[SmallWorld], None], templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """77 for a target's folder that has become a link to another's, and for a link below it (Invariant 7)."""
    world = copy_of(templates, "planned", tmp_path)
    (world.root / "elsewhere").mkdir()
    source = world.store("us")
    before = {info.key for page in source.list() for info in page}
    change(world)
    answer = world.migrate("run", "--wave", "all")
    assert answer.code == REFUSED, answer.err
    assert list((world.root / "elsewhere").iterdir()) == []
    assert {info.key for page in source.list() for info in page} == before


def test_stores_that_change_places_do_not_take_each_others_bytes(
    templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """Two stores of the spec exchange their folders after planning: the run goes by the plan, as if nothing was."""
    world = copy_of(templates, "planned", tmp_path)
    spec = world.root / "plans" / "small.toml"
    text = spec.read_text()
    text = (
        text.replace("stores/hamar", "stores/x").replace("stores/us", "stores/hamar").replace("stores/x", "stores/us")
    )
    spec.write_text(text.replace('["IE", "NO"]', '["IE", "NO", "US"]'))
    assert world.migrate("run", "--wave", "all").code == 0
    world.assert_all_there()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('target_countries = ["IE", "NO"]', 'target_countries = ["IE"]', 78),
        ('[sites.hamar]\ncountry = "NO"', '[sites.hamar]\ncountry = "US"', 78),
        ('url = "file:stores/hamar"', 'url = "file:stores/us"', 78),
        ('url = "file:stores/hamar"', 'url = "file:stores/us/below"', 78),
        ('url = "file:stores/hamar"', 'url = "file:stores/../stores/us"', 78),
        ('url = "file:stores/hamar"', 'url = "file:.migrate/seals"', REFUSED),
    ],
)
def test_a_target_elsewhere_is_not_planned(
    old: str, new: str, code: int, templates: dict[str, SmallWorld], tmp_path: Path
) -> None:
    """A target in a forbidden country or on a source's folder, whatever it is called: no plan (Invariant 7)."""
    world = copy_of(templates, "planned", tmp_path)
    before = plan_of(world)
    spec = world.root / "plans" / "small.toml"
    assert old in spec.read_text()
    spec.write_text(spec.read_text().replace(old, new))
    answer = world.migrate("plan", str(spec))
    assert answer.code == code, answer.err
    assert plan_of(world) == before


# S3


@pytest.fixture
def s3_world(tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    return build(tmp_path, users=3, per_user=0, odd=False, large=False)


def trapped(proxy: RecordingProxy) -> list[str]:
    return [f"{seen.method} {seen.target}" for seen in proxy.seen]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, s3_world: SmallWorld, moto_server: S3Server) -> None:
    """A server that says that the bucket is elsewhere: 77 when copying, verifying, probing and planning (Invariant 7)."""
    spec = str(s3_world.root / "plans" / "small.toml")
    with recording(moto_server.endpoint) as door, recording(moto_server.endpoint) as trap:
        buckets = on_s3(s3_world, moto_server, source_endpoint=door.endpoint, target_endpoint=door.endpoint, per_user=1)
        assert s3_world.migrate("doctor", spec).code == 0  # the short way for small objects is taken, too
        planned(s3_world)
        for words in (("run", "--wave", "all"), ("verify",), ("doctor", spec), ("plan", spec)):
            door.redirect = (status, trap.endpoint)
            answer = s3_world.migrate(*words)
            assert answer.code == REFUSED, (words, answer.out, answer.err)
            assert "ap-southeast-1" in answer.out + answer.err
            door.redirect = None
            if words[0] == "run":
                assert not any(look(moto_server, buckets[name]) for name in TARGETS)
                assert s3_world.migrate(*words).code == 0
        assert trapped(trap) == []


def test_the_environment_leads_nobody_elsewhere(
    s3_world: SmallWorld, moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS's variables and a proxy's name another endpoint, other keys, another region: nothing goes there (Invariant 7)."""
    buckets = on_s3(s3_world, moto_server, per_user=1)
    spec = str(s3_world.root / "plans" / "small.toml")
    config = tmp_path / "aws-config"
    with recording(moto_server.endpoint) as trap, recording(moto_server.endpoint) as proxy:
        config.write_text(f"[default]\nendpoint_url = {trap.endpoint}\nregion = ap-southeast-1\n")
        elsewhere = {
            "AWS_ENDPOINT_URL": trap.endpoint,
            "AWS_ENDPOINT_URL_S3": trap.endpoint,
            "AWS_ENDPOINT": trap.endpoint,
            "AWS_PROXY_URL": proxy.endpoint,
            "AWS_ACCESS_KEY_ID": "another",
            "AWS_SECRET_ACCESS_KEY": "another",
            "AWS_SESSION_TOKEN": "another",
            "AWS_REGION": "ap-southeast-1",
            "AWS_DEFAULT_REGION": "ap-southeast-1",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_CONFIG_FILE": str(config),
            "HTTP_PROXY": proxy.endpoint,
            "http_proxy": proxy.endpoint,
            "HTTPS_PROXY": proxy.endpoint,
            "https_proxy": proxy.endpoint,
            "ALL_PROXY": proxy.endpoint,
            "all_proxy": proxy.endpoint,
        }
        for words in (("doctor", spec), ("plan", spec), ("run", "--wave", "all", "--workers", "2"), ("verify",)):
            process = s3_world.start(*words, **elsewhere)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, (words, out.decode(), err.decode())
        assert trapped(trap) == []
        assert trapped(proxy) == []
        # the twin: a client that heeds the environment falls into the trap
        import boto3

        for name, value in elsewhere.items():
            if "proxy" not in name.lower():
                monkeypatch.setenv(name, value)
        boto3.client("s3").list_buckets()
        assert trapped(trap) == ["GET /"]
    sources = look(moto_server, buckets["us"])
    assert sum(len(look(moto_server, buckets[name])) for name in TARGETS) == 2 * len(sources)
