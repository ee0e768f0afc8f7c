"""EXTRA objects where a site has several target stores, each for what comes from other sources."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import duckdb
import pytest
from kept import made_once
from smallworld import SmallWorld, build, planned

from migrate.model import Attributes
from migrate.planner.digest import USERS, Table, stream_digest
from migrate.stopping import Stopping

IMAGE = Attributes(content_type="image/jpeg")


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Copied: users of NO and SE have their home at hamar, which has one store for each of two sources; u003 is split."""
    return copied(tmp_path, None)


@made_once
def copied(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=10, per_user=3, odd=False, large=False)
    for number in range(60):
        world.put_source(f"users/u003/more-{number:03d}", b"more")
    spec = world.root / "plans" / "small.toml"
    others = """
[stores.us-2]
site = "us"
role = "source"
url = "file:stores/us-2"
[stores.hamar-2]
site = "hamar"
role = "target"
url = "file:stores/hamar-2"
receives = ["us-2"]
"""
    text = spec.read_text().replace('url = "file:stores/hamar"', 'url = "file:stores/hamar"\nreceives = ["us"]')
    spec.write_text(text.replace("[directory]", f"{others}\n[directory]"))
    for name in ("us-2", "hamar-2"):
        (world.root / "stores" / name).mkdir()
    world.put("us-2", "users/u001/of-another-source", b"body", IMAGE, {})
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    return world


@pytest.mark.parametrize("level", ["listing", "content"])
def test_an_extra_object_is_found_at_a_store_that_takes_none_of_the_users_copies(world: SmallWorld, level: str) -> None:
    """All stores of home and backup are looked at, also those to which nothing of the user goes (Invariant 9).

    The user u003 is split over batches: each looks at its own range of keys, and what lies before, within and behind is
    found once.
    """
    assert world.migrate("verify", "--level", level).code == 0
    strays = [("u003", "a"), ("u003", "more-030-not"), ("u003", "z"), ("u006", "stray")]
    for user, rest in strays:
        world.put("hamar-2", f"users/{user}/{rest}", b"who wrote this", IMAGE, {})
    answer = world.migrate("verify", "--wave", "all", "--level", level, "--json")
    assert answer.code == 3, answer.err
    assert answer.json["pass"]["verdicts"]["extra"] == len(strays)
    failures = world.migrate("status", "--failures", "--json").json["failures"]
    assert sorted((entry["user"], entry["store"], entry["key"]) for entry in failures) == [
        (user, "hamar-2", f"users/{user}/{rest}") for user, rest in strays
    ]
    states = {
        user: world.migrate("status", "--user", user, "--json").json["state"] for user in ("u001", "u003", "u006")
    }
    verified = "verified" if level == "content" else "copied"
    assert states == {"u001": verified, "u003": "copied", "u006": "copied"}


def test_a_store_of_another_site_is_none_of_a_users(world: SmallWorld) -> None:
    """The twin: strays where the user does not belong are the business of a sweep (section 6 of the design)."""
    homes = {name for name, key in world.at_targets() if key.startswith("users/u003/")}
    (elsewhere,) = {"dublin-1", "dublin-2", "hamar"} - homes
    world.put(elsewhere, "users/u003/stray", b"who wrote this", IMAGE, {})
    assert world.migrate("verify", "--json").code == 0


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_verification_digests_the_users_once_and_hears_a_signal_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    """Where whole stores are looked through, for all three of them together; on a signal it ends with 130 before its end."""
    world = build(tmp_path, users=10, per_user=1, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    mail = 'name = "mail"\npattern = "mail/{year}/{user}/{rest}"\ncategory = "restricted"\n[[layout.rules]]\n'
    spec.write_text(spec.read_text().replace('name = "photos"', f'{mail}name = "photos"'))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    ended: list[str] = []

    def watched(connection: duckdb.DuckDBPyConnection, relation: str, table: Table, *rest: Stopping) -> str:
        if table is not USERS:
            return stream_digest(connection, relation, table, *rest)
        if is_stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        ended.append(stream_digest(connection, relation, table, *rest))
        return ended[-1]

    monkeypatch.setattr("migrate.planner.folder.stream_digest", watched)
    answer = world.migrate("verify")
    assert answer.code == (130 if is_stopped else 0), answer.err
    assert len(ended) == (0 if is_stopped else 1)
