"""Shared objects and orphans that are copied to every site: copied, sealed and verified as anybody's, by the real engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from smallworld import MIB, SmallWorld, body_of, build, planned

from migrate.errors import MoveRefusedError
from migrate.ledger import Ledger
from migrate.model import Attributes

USERS = 6
SITES = ("dublin-1", "dublin-2", "hamar")
FIRST = """
[[layout.rules]]
name = "public"
pattern = "users/{any}/public/{rest}"
shared = true
policy = "copy"

[[layout.rules]]
name = "photos"
"""
LAST = """
[[layout.rules]]
name = "assets"
pattern = "assets/{rest}"
shared = true
policy = "copy"

[[layout.rules]]
name = "old"
pattern = "old/{rest}"
shared = true
policy = "exclude"
reason = "the old player reads them, and is switched off"

[orphans]
policy = "copy"
"""
EVERYWHERE = (
    *(f"assets/{number}.svg" for number in range(25)),
    "assets/film.mp4",
    "users/u001/public/avatar.png",
    "users/ghost/photo-0000.jpg",
)


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Six users, what belongs to nobody, and somebody whom the directory does not have; planned, copied and verified."""
    return made(tmp_path, request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


@made_once
def made(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=USERS, per_user=2, copies_max=20, odd=False, large=False)
    world.ledger = ledger
    path = root / "plans" / "small.toml"
    text = path.read_text(encoding="utf-8").replace('\n[[layout.rules]]\nname = "photos"\n', FIRST, 1)
    path.write_text(text + LAST, encoding="utf-8")
    for key in EVERYWHERE:
        world.put_source(key, body_of(key, 6 * MIB if key.endswith(".mp4") else 90), tags={"of": "all"})
    world.put_source("old/player.swf", b"old")
    planned(world)
    moved(world)
    return world


def moved(world: SmallWorld) -> None:
    for words in (("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err


def states(world: SmallWorld) -> Mapping[str, int]:
    answer = world.migrate("status", "--json")
    assert answer.code == 0, answer.err
    found: Counter[str] = Counter()
    for wave in answer.json["standing"]:
        found.update(wave["users"])
    return +found


def at_hamar(world: SmallWorld) -> int:
    """Users whose home or backup is there."""
    return len(
        {key.split("/")[1] for store, key in world.at_targets() if store == "hamar" and "/photo-" in key} - {"ghost"}
    )


def assert_all_there(world: SmallWorld) -> None:
    """What goes to every site is at each as the source has it, users' objects at two, and nothing else is anywhere."""
    found = world.at_targets()
    expected: Counter[str] = Counter()
    for key in world.objects:
        is_for_all = key.startswith(("assets/", "users/ghost/")) or "/public/" in key
        expected[key] = 0 if key.startswith("old/") else len(SITES) if is_for_all else 2
    assert Counter(key for _, key in found) == +expected
    for (store, key), held in found.items():
        assert held == world.objects[key], (store, key)


def shown(world: SmallWorld, *words: str) -> Any:
    return world.migrate("show", *words, "--json").json


def test_what_is_nobodys_is_at_every_site_and_proved_there(world: SmallWorld) -> None:
    """The sums of plan and ledger count it (invariant 3); levels, a sweep and a delta find nothing."""
    assert_all_there(world)
    plan = shown(world)
    number = len(EVERYWHERE)
    assert plan["copies"] == 6 * 2 * 2 + number * 3
    assert {row["rule"] or row["class"]: (row["policy"], row["objects"]) for row in plan["policies"]} == {
        "public": ("copy", 1),
        "assets": ("copy", number - 2),
        "old": ("exclude", 1),
        "orphan": ("copy", 1),
    }
    assert "switched off" in world.migrate("show").out
    assert states(world) == {"verified": 6 + 2}
    status = world.migrate("status", "--json").json
    assert sum(wave["outcomes"]["copied"] for wave in status["standing"]) == plan["copies"]
    for level in ("listing", "content", "both-ends"):
        answer = world.migrate("verify", "--level", level, "--wave", "all")
        assert answer.code == 0, answer.err + answer.out
    assert world.migrate("sweep", str(world.root / "plans" / "small.toml")).code == 0
    assert world.migrate("delta", "--json").json["copies"] == 0


@pytest.mark.parametrize("level", ["content", "listing"])
def test_a_shared_object_that_one_site_has_lost_is_missing_there_and_is_put_back(world: SmallWorld, level: str) -> None:
    """The corrupted twin: it is found, the stand-in of that site is not verified any more, and who is to live there, or has their
    backup there, stays: they would miss what everybody uses. Nobody else is held back."""
    world.store("hamar").delete("assets/3.svg")
    answer = world.migrate("verify", "--level", level, "--wave", "all", "--json")
    assert answer.code == 3
    assert answer.json["pass"]["verdicts"]["missing"] == 1
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert [(row["store"], row["key"]) for row in failures] == [("hamar", "assets/3.svg")]
    assert states(world) == {"verified": 7, "copied": 1}
    gate = world.migrate("cutover", "--wave", "all", "--dry-run", "--json")
    assert (gate.code, gate.json["missing"].keys()) == (4, {"shared"}), gate.err
    assert gate.json["users"]["ready"] == USERS - at_hamar(world)
    assert world.migrate("verify", "--repair").code in (0, 3)
    moved(world)
    assert_all_there(world)
    assert states(world) == {"verified": 8}
    gate = world.migrate("cutover", "--wave", "all", "--dry-run", "--json")
    assert (gate.code, gate.json["users"]["ready"]) == (0, USERS), gate.err


def test_only_among_users_objects_is_one_too_many_told(world: SmallWorld) -> None:
    """Nobody's prefix is looked through for EXTRA objects, and a shared one that lies in a user's is none; a user's own is."""
    for key in ("assets/more.svg", "users/u001/public/more.png", "users/ghost/more.jpg"):
        world.put("hamar", key, b"more", Attributes(), {})
    assert world.migrate("verify", "--wave", "all").code == 0
    for site in SITES:
        world.put(site, "users/u001/more.jpg", b"more", Attributes(), {})
    assert world.migrate("verify", "--wave", "all").code == 3
    assert states(world) == {"verified": 7, "copied": 1}


def test_a_delta_changes_and_removes_what_is_nobodys_at_every_site(world: SmallWorld) -> None:
    """A changed, a deleted and a new shared object, and an orphan's that is gone: done at three sites, and proved."""
    world.put_source("assets/1.svg", b"changed")
    world.put_source("assets/new.svg", b"new")
    for key in ("assets/2.svg", "users/ghost/photo-0000.jpg"):
        for store in ("us", "singapore"):
            world.store(store).delete(key)
        del world.objects[key]
    answer = world.migrate("delta", "--json")
    assert (answer.code, answer.json["copies"]) == (0, 4 * 3)
    moved(world)
    assert_all_there(world)
    assert states(world) == {"verified": 8}
    assert world.migrate("delta", "--json").json["copies"] == 0


def test_an_orphan_who_appears_is_the_directorys_from_then_on(world: SmallWorld) -> None:
    """The delta waits until somebody accepts what stays at other sites; then the user has a home, and a sweep names the rest."""
    with (world.root / "users.csv").open("a", encoding="utf-8") as file:
        file.write("ghost,SE\n")
    built = world.migrate("delta", "--json").json
    (blocker,) = built["blockers"]
    assert (blocker["kind"], blocker["count"], built["copies"]) == ("claimed", 1, 2)
    assert world.migrate("run", "--wave", "all").code == 77
    assert world.migrate("run", "--wave", "all", "--accept", blocker["accept"]).code == 0
    assert world.migrate("verify").code == 0
    assert states(world) == {"verified": 9}
    answer = world.migrate("sweep", str(world.root / "plans" / "small.toml"), "--json")
    assert answer.code == 3
    assert answer.json["found"]["outside_home"]["number"] == 1


def test_what_a_later_plan_copies_to_every_site_no_more_is_told_by_a_sweep(tmp_path: Path) -> None:
    """Another policy is another plan, on a ledger of its own, and nothing else looks for what the one before has left; what is
    still copied is right. By the ledger of the first plan all of it is (the twin)."""
    world = made(tmp_path, None)
    first = tmp_path / ".migrate" / "ledger.sqlite"
    spec = tmp_path / "plans" / "small.toml"
    spec.write_text(
        spec.read_text().replace(LAST, LAST.replace('policy = "copy"', 'policy = "keep"')), encoding="utf-8"
    )
    world.ledger = f"sqlite:///{tmp_path}/.migrate/ledger-2.sqlite"
    planned(world)
    moved(world)
    left = {(site, key) for site, key in world.at_targets() if key.startswith(("assets/", "users/ghost/"))}
    assert len(left) == (len(EVERYWHERE) - 1) * 3
    swept = world.migrate("sweep", "--list", "stray", "--limit", "1000", "--json")
    assert (swept.code, swept.json["found"]["stray"]["number"]) == (3, len(left)), swept.err
    found = {(row["store"], row["key"]): row["detail"] for row in swept.json["listed"]["findings"]}
    assert found.keys() == left
    assert "a plan of another ledger" in found["hamar", "assets/film.mp4"]
    assert found["hamar", "users/ghost/photo-0000.jpg"] == "no plan moves the user"

    world.ledger, second = f"sqlite:///{first}", world.ledger
    assert world.migrate("sweep").code == 0
    world.ledger = second
    for store, key in left:
        world.store(store).delete(key)
    assert world.migrate("sweep").code == 0
    (gone,) = [path for path in (tmp_path / ".migrate" / "plans").iterdir() if path.name != swept.json["plans"][0][:16]]
    gone.rename(tmp_path / gone.name)
    unread = world.migrate("sweep", "--json")  # nobody can say what it has copied (Invariant 4)
    assert (unread.code, len(unread.json["not_asked"])) == (75, 1)


def test_a_stand_in_is_never_cut_over(world: SmallWorld) -> None:
    """It is verified, and goes no further; nor does who is forgotten. Neither is told to have moved."""
    with closing(Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")) as ledger:
        (plan,) = ledger.plans()
        with pytest.raises(MoveRefusedError, match="no person"):
            ledger.begin_freeze(
                "/everywhere/small/1", plan.id, plan.run_id, from_site="us", to_site="hamar", now=datetime.now(UTC)
            )
    assert states(world) == {"verified": 8}
    assert world.migrate("forget", "--user", "u005").code == 0
    cut = world.migrate("cutover", "--wave", "all", "--json")
    assert cut.code == 0, cut.err
    assert [cut.json["users"][name] for name in ("moved", "moved_before", "not_ready", "left")] == [5, 0, 0, 0]
    assert states(world) == {"verified": 2, "observing": 5, "forgotten": 1}
    back = world.migrate("rollback", "--user", "u001", "--json")  # among whose objects lies one of everybody's
    assert (back.code, back.json["kept"]["new"], back.json["replayed"]) == (0, 0, 0), back.err
