"""A plan that takes another's place leaves no copies where nothing looks for them, or is not run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from kept import made_once
from smallworld import Answer, SmallWorld, build, planned

from migrate.ledger import Ledger
from migrate.planner.folder import Plan
from migrate.stopping import Stopping


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Planned with a site that closes, run and verified; then as many users came again as there were. Another ledger is named."""
    world = grown(tmp_path, None)
    world.ledger = f"sqlite:///{world.root}/.migrate/ledger-2.sqlite"
    return world


@made_once
def grown(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=20, per_user=2, odd=False, large=False)
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


@dataclass
class TwoPlans:
    """The second is to run on a ledger of its own."""

    world: SmallWorld
    first: str
    second: str
    ledger: str

    def run_second(self) -> Answer:
        return self.world.migrate("--ledger", self.ledger, "run", self.second, "--wave", "all")


def _interrupt(_point: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def two_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoPlans:
    """Two plans that place the same users elsewhere. The first was registered, and its run ended before it was begun."""
    world = build(tmp_path, users=10, per_user=1, odd=False, large=False)
    first = planned(world)
    with monkeypatch.context() as patch:
        patch.setattr("migrate.jobs.copying.pause_at", _interrupt)
        assert world.migrate("run").code == 130
    with closing(Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite", create=False)) as ledger:
        assert [row.entry.digest for row in ledger.plans()] == [first]
    respell(world, 'home = ["hamar"]\nbackup = ["dublin-1", "dublin-2"]', 'home = ["dublin-1"]\nbackup = ["dublin-2"]')
    return TwoPlans(world, first, planned(world), f"sqlite:///{world.root}/.migrate/ledger-2.sqlite")


def test_a_plan_that_was_registered_and_not_begun_is_asked_again(two_plans: TwoPlans) -> None:
    """What another plan has copied in between would be left behind by it just the same: it is foreseen, and refused."""
    world, first = two_plans.world, two_plans.first
    answer = world.migrate("verify", first, "--wave", "all")
    assert (answer.code, "knows of no copy" in answer.err) == (75, True), answer.err  # and it has begun nothing
    assert two_plans.run_second().code == 0
    before = world.at_targets()
    assert "elsewhere than plan" in world.migrate("show", first).out
    for words in (("--dry-run",), ()):
        answer = world.migrate("run", first, "--wave", "all", *words)
        assert answer.code == 77, answer.err
        assert "elsewhere than plan" in answer.out + answer.err
    assert world.at_targets() == before


def test_a_plan_that_was_registered_and_not_begun_runs_where_no_other_was(two_plans: TwoPlans) -> None:
    """The sound twin; and since it was begun, the other is refused."""
    world = two_plans.world
    assert world.migrate("run", two_plans.first, "--wave", "all").code == 0
    assert world.migrate("verify", two_plans.first).code == 0
    assert strays(world, two_plans.first) == []
    assert two_plans.run_second().code == 77


def test_of_two_plans_that_begin_at_once_one_is_refused(two_plans: TwoPlans, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one has looked and is not begun, the other waits, on whatever ledger; with no time to wait it ends with 75."""
    waited: list[Answer] = []

    def meanwhile(point: object) -> None:
        monkeypatch.undo()
        words = ("run", two_plans.first, "--wave", "all", "--for", "1s")
        waited.append(finished(two_plans.world.start(*words)))

    monkeypatch.setattr("migrate.jobs.copying.pause_at", meanwhile)
    assert two_plans.run_second().code == 0
    (answer,) = waited
    assert answer.code == 75
    assert "another run began its plan" in answer.err
    assert "nothing of this plan was begun" in answer.err
    assert two_plans.world.migrate("run", two_plans.first, "--wave", "all").code == 77


def finished(process: subprocess.Popen[bytes]) -> Answer:
    out, err = process.communicate(timeout=60)
    return Answer(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("words", [(), ("--for", "1s")])
def test_a_signal_or_the_time_ends_the_comparison_with_earlier_plans(
    two_plans: TwoPlans, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """130 or 75 amid the other plan's users, and a sentence that says what went on; nothing was begun."""
    assert two_plans.run_second().code == 0
    first, over = two_plans.first, threading.Event()

    def endless(_plan: Plan, is_stopping: Stopping) -> None:
        if not words:
            os.kill(os.getpid(), signal.SIGTERM)
        while not is_stopping():
            over.wait(0.01)
        over.set()

    monkeypatch.setattr(Plan, "check_users", endless)
    answer = two_plans.world.migrate("run", first, "--wave", "all", *words)
    assert answer.code == (75 if words else 130)
    said = "time is up" if words else "interrupted"
    assert f"{said} while earlier plans were compared with this one; nothing of this plan was begun" in answer.err
    assert over.is_set()
    assert [folder.name for folder in (two_plans.world.root / ".migrate/seals").iterdir()] == [two_plans.second[:16]]
