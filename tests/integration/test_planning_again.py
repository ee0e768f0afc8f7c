"""A plan that takes another's place leaves no copies where nothing looks for them, or is not run."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from smallworld import Answer, SmallWorld, build, planned

from migrate.ledger import Ledger


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Planned with a site that closes, run and verified; then as many users came again as there were."""
    world = build(tmp_path, users=20, per_user=2, odd=False, large=False)
    respell(world, '[sites.dublin-1]\ncountry = "IE"', '[sites.dublin-1]\ncountry = "IE"\ncapacity = "2500B"')
    assert world.migrate("doctor", str(spec_of(world))).code == 0
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    new = [f"n{number:03d}" for number in range(20)]
    with (world.root / "users.csv").open("a", encoding="utf-8") as directory:
        directory.writelines(f"{user},IE\n" for user in new)
    for user in new:
        world.put_source(f"users/{user}/photo.jpg", b"x" * 250)
    world.users.update(dict.fromkeys(new, "IE"))
    world.ledger = f"sqlite:///{world.root}/.migrate/ledger-2.sqlite"
    return world


def spec_of(world: SmallWorld) -> Path:
    return world.root / "plans" / "small.toml"


def respell(world: SmallWorld, old: str, new: str) -> None:
    text = spec_of(world).read_text(encoding="utf-8")
    assert old in text
    spec_of(world).write_text(text.replace(old, new), encoding="utf-8")


def begun(world: SmallWorld) -> str:
    """The folder's name of the one plan that was begun."""
    (folder,) = (world.root / ".migrate/seals").iterdir()
    return folder.name


def archive(world: SmallWorld, name: str, *parts: str) -> None:
    for part in parts or ("plans", "seals"):
        target = world.root / "archive" / part
        target.mkdir(parents=True, exist_ok=True)
        (world.root / ".migrate" / part / name).rename(target / name)


def strays(world: SmallWorld, digest: str) -> list[tuple[str, str]]:
    """Site and key of what stands where the plan places nobody."""
    users = world.root / ".migrate/plans" / digest[:16] / "users-*.parquet"
    places = {user: sites for user, *sites in duckdb.execute(f"SELECT user_id, home, backup FROM '{users}'").fetchall()}
    return [(site, key) for site, key in world.at_targets() if site not in places[key.split("/")[1]]]


def test_a_plan_that_moves_users_from_where_they_were_copied_is_not_run(world: SmallWorld) -> None:
    """Whoever comes shifts the turns, and a site that closes loses others. `plan`, `show` and the dry run say so; nothing is
    registered. What stands there is removed and the old plan archived: then it runs, and each key stands at two sites."""
    told = world.migrate("plan", str(spec_of(world)))
    assert told.code == 0
    digest = world.migrate("show", "--json").json["digest"]
    left = strays(world, digest)
    lost = {key.split("/")[1] for _, key in left}
    assert lost
    assert f"places {len(lost)} user" in told.out
    assert f"copies to {', '.join(sorted({site for site, _ in left}))} would stay" in told.out
    before = world.at_targets()
    for words in (("show",), ("run", "--dry-run"), ("run",), ("run", "--wave", "all")):
        answer = world.migrate(*words)
        assert answer.code == (0 if words == ("show",) else 77)
        assert f"places {len(lost)} user" in answer.out + answer.err
        assert "Traceback" not in answer.err
    counted = world.migrate("diff", begun(world), digest, "--json").json
    assert counted["users_moved"] >= len(lost)
    assert world.at_targets() == before
    with closing(Ledger.open(world.ledger or "", create=False)) as ledger:
        assert ledger.plans() == []

    for site, key in left:
        world.store(site).delete(key)
    archive(world, begun(world))
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert set(Counter(key for _, key in world.at_targets()).values()) == {2}
    assert strays(world, digest) == []


def test_a_plan_that_moves_nobody_is_run(world: SmallWorld) -> None:
    """The sound twin: who came is placed, and where a site has all the room it had for those before, nobody else moves."""
    digest, answer = capacity_that_moves_nobody(world)
    assert "elsewhere than" not in answer.out
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert set(Counter(key for _, key in world.at_targets()).values()) == {2}
    assert strays(world, digest) == []


def capacity_that_moves_nobody(world: SmallWorld) -> tuple[str, Answer]:
    """As the refusal says: the capacity at which the site closes where it did."""
    old = begun(world)
    for capacity in range(2500, 8000, 250):
        spec = spec_of(world)
        spec.write_text(re.sub(r'capacity = "\d+B"', f'capacity = "{capacity}B"', spec.read_text()))
        answer = world.migrate("plan", str(spec))
        digest = world.migrate("show", "--json").json["digest"]
        if world.migrate("diff", old, digest, "--json").json["users_moved"] == 0:
            return digest, answer
    raise AssertionError("no capacity keeps who was placed")


def test_a_plan_that_was_begun_and_cannot_be_read_lets_no_other_begin(world: SmallWorld) -> None:
    """Fail closed (invariant 4): nobody can say where it has copied its users to. Archived whole, it stands in no way."""
    capacity_that_moves_nobody(world)
    name = begun(world)
    archive(world, name, "plans")
    refused = world.migrate("run", "--dry-run")
    assert refused.code == 77
    assert "cannot be compared" in refused.out
    assert f".migrate/seals/{name}" in refused.out
    archive(world, name, "seals")
    assert world.migrate("run", "--wave", "all", "--dry-run").code == 0


def test_a_dry_planning_says_who_asks_where_users_stand(world: SmallWorld) -> None:
    """It asks nobody itself, and claims nothing."""
    spec = str(spec_of(world))
    assert "`migrate run --dry-run`" in world.migrate("plan", spec, "--dry-run").err
    assert "taken_elsewhere" not in world.migrate("plan", spec, "--dry-run", "--json").json
    assert world.migrate("plan", spec, "--json").json["taken_elsewhere"]


def test_who_only_looks_digests_no_users(world: SmallWorld) -> None:
    """`show` asks a few of many: that a row is edited is found by the run, before anything is registered (invariant 6)."""
    world.ledger = None
    digest = planned(world)
    (users,) = (world.root / ".migrate/plans" / digest[:16]).glob("users-*.parquet")
    duckdb.execute(
        f"COPY (SELECT * REPLACE (CASE WHEN state = 'planned' THEN wave + 1 END AS wave) FROM '{users}') "
        f"TO '{users}.new' (FORMAT parquet)"
    )
    Path(f"{users}.new").replace(users)
    archive(world, begun(world))
    assert "already in another plan" in world.migrate("show").out
    assert world.migrate("run").code == 5
