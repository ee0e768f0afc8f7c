"""`migrate where USER`: what each store answers, what plan and ledger know. Neither a failure nor a missing prefix is a zero."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from smallworld import SmallWorld, build, listed, planned

from migrate.ledger import Ledger
from migrate.model import Attributes

IMAGE = Attributes(content_type="image/jpeg")
STORES = {"us": "source", "singapore": "backup", "dublin-1": "target", "dublin-2": "target", "hamar": "target"}


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Planned, and not run; with its ledger on either database."""
    return unrun(tmp_path, request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


@made_once
def unrun(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=10, per_user=3, copies_max=600, odd=False, large=False)
    world.ledger = ledger
    with (world.root / "users.csv").open("a") as file:
        file.write("carl,US\n")
    planned(world)
    return world


def where(world: SmallWorld, *words: str, code: int = 0) -> dict[str, Any]:
    answer = world.migrate("where", *words, "--json")
    assert answer.code == code, answer.out + answer.err
    document: dict[str, Any] = answer.json
    assert document["exit_code"] == code
    return document


def held(world: SmallWorld, user: str) -> dict[str, tuple[int, int]]:
    """Objects and bytes of a user by store, as an independent listing has them."""
    found = {}
    for name in STORES:
        infos = [info for info in listed(world.store(name)) if info.key.startswith(f"users/{user}/")]
        found[name] = (len(infos), sum(info.size for info in infos))
    return found


def told(document: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {store["store"]: (store["objects"], store["size_bytes"]) for store in document["stores"]}


def test_a_user_is_followed_from_the_plan_to_the_proof(world: SmallWorld) -> None:
    """State, place, batches, receipts and history as they come, and at each store what an independent listing finds there."""
    before = where(world, "u003")
    assert (before["state"], before["home"], before["verified"], before["history"]) == ("planned", "hamar", False, [])
    assert before["ledger"] is None
    assert told(before) == held(world, "u003")
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    after = where(world, "u003")
    assert (after["state"], after["verified"], after["plan"]) == ("verified", True, before["plan"])
    assert after["ledger"]["good"] == after["ledger"]["copies"] == after["ledger"]["matched"] == 6
    assert told(after) == held(world, "u003")
    assert told(after)["hamar"] == told(after)["us"] != (0, 0)
    assert [event["what"] for event in after["history"]] == ["registered", "copied", "checked"]
    assert {store["store"]: store["role"] for store in after["stores"]} == STORES
    places = {store["store"]: store["place"] for store in after["stores"]}
    assert places["hamar"] == "home"
    assert places[after["backup"]] == "backup"
    assert sorted(place or "" for place in places.values()) == ["", "", "backup", "elsewhere", "home"]
    assert after["failures"] == {}
    for store in after["stores"]:
        times = [
            info.last_modified for info in listed(world.store(store["store"])) if info.key.startswith("users/u003/")
        ]
        assert store["since"] == (min(times).isoformat() if times else None)
    assert world.migrate("hold", "--user", "u003", "--reason", "claim 4711").code == 0
    last = where(world, "u003")["history"][-1]
    assert (last["what"], last["detail"]) == ("hold", "claim 4711")
    shown = world.migrate("where", "u003")
    assert shown.code == 0
    assert "user u003: verified" in shown.out
    assert "hold, run" in shown.out


def test_what_is_wrong_of_a_user_is_told_and_of_a_neighbour_is_not(world: SmallWorld) -> None:
    """A quarantined copy, an EXTRA object and a stray: of the user who has them, not of others in the same batch.

    The layout leads to an object elsewhere as well, and an unfinished upload is counted where it is.
    """
    world.put("hamar", "users/u003/photo-0001.jpg", b"something else", IMAGE, {})
    assert world.migrate("run", "--wave", "all").code == 4
    world.put("hamar", "users/u003/extra", b"extra", IMAGE, {})
    assert world.migrate("verify").code in (3, 4)
    (elsewhere,) = {store["store"] for store in where(world, "u003")["stores"] if store["place"] == "elsewhere"}
    world.put(elsewhere, "users/u003/stray", b"stray", IMAGE, {})
    world.store("us").create_upload("users/u003/film", attributes=IMAGE)
    document = where(world, "u003")
    assert (document["state"], document["verified"]) == ("quarantined", False)
    assert document["failures"] == {"quarantined": 1, "EXTRA": 1}
    assert told(document)[elsewhere] == (1, 5)
    assert {store["store"]: store["uploads"] for store in document["stores"]} == {**dict.fromkeys(STORES, 0), "us": 1}
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite", create=False)
    rows = {user: ledger.user(user) for user in world.users}
    ledger.close()
    neighbours = [user for user, row in rows.items() if row and row.first_batch == document["ledger"]["first_batch"]]
    assert len(neighbours) > 1
    for user in neighbours:
        assert where(world, user)["failures"] == (document["failures"] if user == "u003" else {})


def test_who_is_in_no_plan_is_still_looked_for(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """State `unknown`, and the stores answer all the same; who stays is `out`. The id may come from stdin."""
    world.put("hamar", "users/stranger/x", b"four", IMAGE, {})
    monkeypatch.setattr("sys.stdin", io.StringIO("stranger\n"))
    document = where(world, "-")
    assert (document["user"], document["state"], document["plan"], document["home"]) == (
        "stranger",
        "unknown",
        None,
        None,
    )
    assert told(document) == {**dict.fromkeys(STORES, (0, 0)), "hamar": (1, 4)}
    assert where(world, "carl")["state"] == "out"
    assert world.migrate("where", "u003/photo-0001.jpg").code == 2  # no user's id: it would count a part of u003's


def test_a_store_that_cannot_be_listed_has_no_count(world: SmallWorld) -> None:
    """Its row says so, the others answer, and the code is 69 (Invariant 4)."""
    (world.root / "stores" / "hamar").rename(world.root / "away")
    document = where(world, "u003", code=69)
    [hamar] = [store for store in document["stores"] if store["problem"] is not None]
    assert (hamar["store"], hamar["objects"], hamar["size_bytes"], hamar["uploads"]) == ("hamar", None, None, None)
    assert told(document)["us"] == held_at(world, "us", "u003")
    shown = world.migrate("where", "u003")
    assert shown.code == 69
    [row] = [line for line in shown.out.splitlines() if line.startswith("hamar")]
    assert "not listed" in row
    assert " 0" not in row


def held_at(world: SmallWorld, store: str, user: str) -> tuple[int, int]:
    infos = [info for info in listed(world.store(store)) if info.key.startswith(f"users/{user}/")]
    return len(infos), sum(info.size for info in infos)


@pytest.mark.parametrize("only", [True, False])
def test_a_layout_without_a_prefix_is_no_zero(tmp_path: Path, only: bool) -> None:
    """Where no prefix leads to a user a store is not known; where one of two rules has none the count is a least one."""
    world = build(tmp_path, users=3, per_user=1, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    by_year = 'pattern = "users/{user}/{name}"\ntarget = "by/{name}/{user}"'
    text = spec.read_text().replace('pattern = "users/{user}/{rest}"', by_year)
    if not only:
        rule = '\n[[layout.rules]]\nname = "mail"\npattern = "mail/{user}/{rest}"\ncategory = "restricted"\n'
        text = text.replace("\n[[placement.rules]]", f"{rule}\n[[placement.rules]]", 1)
        world.put_source("mail/u001/one", b"mail")
    spec.write_text(text)
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    document = where(world, "u001")
    for store in document["stores"]:
        if store["role"] == "target":
            assert store["unlisted_rules"] == ["photos"]
            assert store["objects"] is None if only else store["objects"] == (store["place"] != "elsewhere")
        else:
            assert (store["unlisted_rules"], store["objects"]) == ([], 1 if only else 2)
    shown = world.migrate("where", "u001")
    assert ("a sweep alone tells" if only else "at least") in shown.out
    assert "migrate sweep" in shown.err


def test_a_plan_that_another_ledger_began_is_not_answered_for(world: SmallWorld) -> None:
    """With the wrong ledger named, a verified user would seem planned: 5, as `status` ends."""
    assert world.migrate("run", "--wave", "all").code == 0
    world.ledger = f"sqlite:///{world.root / 'other.sqlite'}"
    assert world.migrate("where", "u003").code == 5
