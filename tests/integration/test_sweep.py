"""`migrate sweep`: what lies where it should not is found, what lies right is not, and what failed reads as nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from kept import made_once
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import Answer, SmallWorld, build, listed, planned
from test_cutover import everything
from test_run_verify import finish

from migrate.errors import DeniedError
from migrate.model import Attributes
from migrate.stores.file import FileStore
from migrate.stores.s3_read import S3Reader

IMAGE = Attributes(content_type="image/jpeg")
TARGETS = ("dublin-1", "dublin-2", "hamar")
KINDS = ("outside_home", "stray", "residue", "upload", "awaiting_purge")
DAY_SECONDS = 86_400
SHARED = 'name = "assets"\npattern = "assets/{rest}"\nshared = true\n[[layout.rules]]\n'


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    """Ten users copied and verified, one who does not move, and a shared object; rules for mail lie otherwise at targets."""
    return verified(tmp_path, None)


@made_once
def verified(root: Path, ledger: str | None) -> SmallWorld:
    world = build(root, users=10, per_user=3, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    mail = 'name = "mail"\npattern = "mail/{user}.box"\ntarget = "post/{user}/box"\ncategory = "restricted"\n[[layout.rules]]\n'
    spec.write_text(spec.read_text().replace('name = "photos"', f'{SHARED}{mail}name = "photos"'))
    with (world.root / "users.csv").open("a") as file:
        file.write("carl,US\n")
    world.put_source("mail/u004.box", b"mail")
    world.put("us", "users/carl/photo.jpg", b"stays", IMAGE, {})
    world.put("singapore", "users/carl/photo.jpg", b"stays", IMAGE, {})
    world.put("us", "assets/logo.png", b"logo", IMAGE, {})
    planned(world)
    for words in (["run", "--wave", "all"], ["verify"]):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    return world


def swept(world: SmallWorld, *words: str, code: int = 0) -> dict[str, Any]:
    answer = world.migrate("sweep", *words, "--json")
    assert answer.code == code, answer.out + answer.err
    document: dict[str, Any] = answer.json
    assert document["exit_code"] == code
    return document


def numbers(document: dict[str, Any]) -> dict[str, int]:
    """The kinds that were found, with how many."""
    return {kind: document["found"][kind]["number"] for kind in KINDS if document["found"][kind]["number"]}


def rows_of(document: dict[str, Any]) -> int:
    """How many findings the file has."""
    with duckdb.connect() as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM read_parquet(?)", [document["file"]]).fetchall()
    return int(count)


def set_state(world: SmallWorld, user: str, state: str) -> None:
    """Move a user, as no command does yet."""
    with sqlite3.connect(world.root / ".migrate" / "ledger.sqlite") as ledger:
        assert ledger.execute("UPDATE users SET state = ? WHERE user_id = ?", (state, user)).rowcount == 1
    ledger.close()


def homes(world: SmallWorld, user: str) -> set[str]:
    return {name for name, key in world.at_targets() if key.startswith(f"users/{user}/")}


def age(world: SmallWorld, store: str, upload: str, seconds: float) -> None:
    """Have an upload begun that long ago."""
    (head,) = (world.root / "stores" / store).glob(f".migrate-store/uploads/{upload}/upload")
    os.utime(head, (time.time() - seconds,) * 2)


def test_what_lies_right_is_clean(world: SmallWorld) -> None:
    """Every object of every store is listed, and none is a finding; the counts are those of an independent listing. No store and
    no row of the ledger is changed.

    The twin of all detectors below: shared keys, users out of scope at their source, renamed keys at targets are all right.
    """
    world.put("hamar", "assets/logo.png", b"logo", IMAGE, {})
    before = everything(world)
    document = swept(world)
    assert everything(world) == before
    assert numbers(document) == {}
    for store in document["stores"]:
        assert store["objects"] == len(list(listed(world.store(store["store"])))) > 0
        assert store["problems"] == []
    assert {store["store"] for store in document["stores"]} == {"us", "singapore", *TARGETS}
    assert rows_of(document) == 0
    assert not (world.root / ".migrate" / "scratch" / "sweep").exists()
    shown = world.migrate("sweep")
    assert (shown.code, "nothing found in 5 stores" in shown.out) == (0, True)


def test_an_object_outside_its_users_home_is_found(world: SmallWorld) -> None:
    """At a target store that is neither home nor backup, also under the key that a rule gives it there."""
    (elsewhere,) = set(TARGETS) - homes(world, "u004")
    world.put(elsewhere, "users/u004/stray", b"who wrote this", IMAGE, {})
    world.put(elsewhere, "post/u004/box", b"mail", IMAGE, {})
    document = swept(world, "--list", "outside_home", code=3)
    assert numbers(document) == {"outside_home": 2}
    found = [
        (item["store"], item["user_id"], item["key"], item["size_bytes"]) for item in document["listed"]["findings"]
    ]
    assert found == [(elsewhere, "u004", "post/u004/box", 4), (elsewhere, "u004", "users/u004/stray", 14)]


def test_an_object_at_home_is_none_of_a_sweeps(world: SmallWorld) -> None:
    """The twin: what no copy stands for at home or backup is EXTRA, and the business of a verification."""
    for store in homes(world, "u004"):
        world.put(store, "users/u004/stray", b"who wrote this", IMAGE, {})
    assert numbers(swept(world)) == {}


@pytest.mark.parametrize(
    "key", ["users/nobody/x", "users/carl/photo.jpg", "users/u004", "mail/u004.box", ".migrate-probe/left", "assets"]
)
def test_what_no_planned_user_stands_behind_is_a_stray(world: SmallWorld, key: str) -> None:
    """An unknown user, one who does not move, and keys that no rule knows as they are named at targets."""
    world.put("hamar", key, b"who wrote this", IMAGE, {})
    document = swept(world, "--list", "stray", code=3)
    assert numbers(document) == {"stray": 1}
    assert [(item["store"], item["key"]) for item in document["listed"]["findings"]] == [("hamar", key)]


def test_what_is_left_of_a_purged_user_is_a_residue(world: SmallWorld) -> None:
    """At the source and at its backup, until it is gone; what awaits the purge is counted, and no fault."""
    set_state(world, "u003", "cut_over")
    set_state(world, "u006", "observing")
    document = swept(world)
    assert numbers(document) == {"awaiting_purge": 12}
    assert rows_of(document) == 0  # it is no finding
    set_state(world, "u003", "observing")
    set_state(world, "u003", "purged")
    document = swept(world, "--list", "residue", code=3)
    assert numbers(document) == {"residue": 6, "awaiting_purge": 6}
    assert {(item["store"], item["user_id"]) for item in document["listed"]["findings"]} == {
        ("us", "u003"),
        ("singapore", "u003"),
    }
    for name in ("us", "singapore"):
        for key in [info.key for info in listed(world.store(name)) if info.key.startswith("users/u003/")]:
            world.store(name).delete(key)
    assert numbers(swept(world)) == {"awaiting_purge": 6}


@pytest.mark.parametrize("store", ["us", "hamar"])
def test_an_upload_that_nobody_ended_for_a_day_is_found(world: SmallWorld, store: str) -> None:
    """At sources and targets. One of a moment ago is at work, and the twin."""
    upload = world.store(store).create_upload("users/u003/film", attributes=IMAGE)
    assert numbers(swept(world)) == {}
    age(world, store, upload, DAY_SECONDS - 60)
    assert numbers(swept(world)) == {}
    age(world, store, upload, DAY_SECONDS + 60)
    document = swept(world, "--list", "upload", code=3)
    assert numbers(document) == {"upload": 1}
    [item] = document["listed"]["findings"]
    assert (item["store"], item["user_id"], item["key"]) == (store, "u003", "users/u003/film")
    assert item["upload_id"] == upload


def test_a_store_that_failed_is_not_clean_and_the_next_sweep_goes_on(world: SmallWorld) -> None:
    """69, no counts of it, and what others have is told (Invariant 4). Nothing that was listed is listed again.

    Who was purged meanwhile is not blamed for what was listed before that.
    """
    folder = world.root / "stores" / "hamar"
    world.put("us", "users/u003/late", b"late", IMAGE, {})
    (elsewhere,) = {"dublin-1", "dublin-2"} - homes(world, "u003")
    world.put(elsewhere, "users/u003/stray", b"who wrote this", IMAGE, {})
    world.stores.pop("hamar").close()
    folder.rename(world.root / "away")
    document = swept(world, code=69)
    assert numbers(document) == {"outside_home": 1}
    [hamar] = [store for store in document["stores"] if store["problems"]]
    assert (hamar["store"], hamar["objects"]) == ("hamar", None)
    shown = world.migrate("sweep")
    assert (shown.code, "nothing found" in shown.out) == (69, False)
    (world.root / "away").rename(folder)
    world.put("hamar", "users/nobody/x", b"x", IMAGE, {})  # not listed yet
    world.put("us", "users/u003/later", b"late", IMAGE, {})  # listed already
    set_state(world, "u003", "cut_over")
    set_state(world, "u003", "purged")
    assert numbers(swept(world, code=3)) == {"outside_home": 1, "stray": 1}
    assert numbers(swept(world, code=3)) == {"outside_home": 1, "stray": 1, "residue": 8}  # 6, and both that came late


def test_uploads_that_may_not_be_listed_are_not_none(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """69, while the store's objects are judged all the same (Invariant 4)."""

    def denied(self: FileStore, prefix: str = "") -> Any:
        raise DeniedError(self.name, "list_uploads")

    world.put("hamar", "users/nobody/x", b"x", IMAGE, {})
    monkeypatch.setattr(FileStore, "list_uploads", denied)
    document = swept(world, code=69)
    assert numbers(document) == {"stray": 1}
    assert all(store["problems"] and store["objects"] for store in document["stores"])


def test_a_sweep_that_failed_everywhere_calls_nobody_clean(world: SmallWorld) -> None:
    """The words are those of a failure, though nothing was found."""
    for name in ("us", "hamar"):
        (world.root / "stores" / name).rename(world.root / f"{name}-away")
    shown = world.migrate("sweep")
    assert shown.code == 69
    assert "nobody is called clean" in shown.out
    assert "nothing found in" not in shown.out


@pytest.mark.parametrize("kill", [True, False])
def test_a_sweep_that_was_stopped_goes_on(world: SmallWorld, kill: bool) -> None:
    """Killed or told to stop amid the listings, the next one ends it, and lists nothing twice; another at once is turned away."""
    world.put("hamar", "users/nobody/x", b"x", IMAGE, {})
    process = world.start("sweep", "--json", MIGRATE_PAUSE_AT="segment-sealed:5")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert world.migrate("sweep").code == 75
    scratch = world.root / ".migrate" / "scratch" / "sweep"
    is_listed = [name for name in TARGETS if (scratch / f"live-{name}" / "chain-000.json").exists()]
    assert is_listed
    os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    code, out, err = finish(process)
    assert code == (-signal.SIGKILL if kill else 130), err
    assert not out
    for name in is_listed:
        world.put(name, "users/late/x", b"x", IMAGE, {})
    assert numbers(swept(world, code=3)) == {"stray": 1}
    assert numbers(swept(world, code=3)) == {"stray": 1 + len(is_listed)}


def test_a_spec_that_lacks_a_store_of_a_plan_says_so(world: SmallWorld) -> None:
    """Where a user was copied to before, nobody would look: 75, and the store by its name."""
    spec = world.root / "plans" / "small.toml"
    (world.root / "stores" / "oslo").mkdir()
    spec.write_text(spec.read_text().replace('url = "file:stores/hamar"', 'url = "file:stores/oslo"'))
    document = swept(world, str(spec), code=75)
    assert len(document["not_asked"]) == 1
    assert document["not_asked"][0].startswith("hamar of plan ")
    assert "nobody is called clean" in world.migrate("sweep", str(spec)).out
    assert swept(world)["not_asked"] == []  # by the plan's own spec


def test_names_stand_in_what_was_asked_for_alone(world: SmallWorld) -> None:
    """Users and keys are in the private file, and in a list that was asked for by name (Invariant 10)."""
    world.put("hamar", "users/nobody/secret-key", b"x", IMAGE, {})
    for words in (["sweep"], ["sweep", "--json"], ["--debug", "sweep"]):
        answer: Answer = world.migrate(*words)
        assert answer.code == 3
        assert "nobody" not in answer.out + answer.err
        assert "secret-key" not in answer.out + answer.err
    document = swept(world, code=3)
    file = Path(document["file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    shown = world.migrate("sweep", "--list", "stray")
    assert "users/nobody/secret-key" in shown.out
    assert "secret-key" not in shown.err


def test_without_a_plan_in_the_ledger_there_is_no_sweep(tmp_path: Path) -> None:
    """A ledger that knows nobody would call every residue right: 2, with what to do."""
    world = build(tmp_path, users=3, per_user=1, odd=False, large=False)
    assert world.migrate("sweep").code == 2
    planned(world)
    assert world.migrate("sweep").code == 2
    world.ledger = f"sqlite:///{tmp_path / 'other.sqlite'}"
    assert world.migrate("doctor", str(world.root / "plans" / "small.toml")).code == 0
    answer = world.migrate("sweep")
    assert answer.code == 2
    assert "knows nobody's home" in answer.err


def test_a_large_store_is_judged_as_a_whole(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its keys are cut into chains of several segments, each is judged once."""
    monkeypatch.setattr("migrate.jobs.sweep_listing.SEGMENT_ROWS", 5)
    monkeypatch.setattr("migrate.stores.file.PAGE_KEYS", 5)
    for number in range(50):
        world.put("hamar", f"users/x{number:02d}/x", b"x", IMAGE, {})
    assert numbers(swept(world, code=3)) == {"stray": 50}


def test_versions_behind_what_was_deleted_are_residues_on_a_real_server(
    tmp_path: Path, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket with versions keeps what a delete hides; a sweep finds it, and the uploads, and writes nothing."""
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=4, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, per_user=2)
    client: Any = moto_server.boto3()
    client.put_bucket_versioning(Bucket=buckets["us"], VersioningConfiguration={"Status": "Enabled"})
    spec = str(world.root / "plans" / "small.toml")
    for words in (["doctor", spec], ["plan", spec], ["run", "--wave", "all"], ["verify"], ["sweep"]):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.out + answer.err
    for state in ("cut_over", "observing", "purged"):
        set_state(world, "u002", state)
    keys = [f"data/users/u002/photo {number}+ü.jpg" for number in range(2)]
    for key in keys:
        client.delete_object(Bucket=buckets["us"], Key=key)
        client.delete_object(Bucket=buckets["singapore"], Key=key)
    document = swept(world, "--list", "residue", code=3)
    assert numbers(document) == {"residue": 2}
    assert [store["versions"] for store in document["stores"] if store["store"] == "us"] == [2]
    for item in document["listed"]["findings"]:
        assert (item["store"], item["user_id"]) == ("us", "u002")
        client.delete_object(Bucket=buckets["us"], Key=f"data/{item['key']}", VersionId=item["version_id"])
    assert numbers(swept(world)) == {}
    # moto says of every upload that it was begun in 2010
    client.create_multipart_upload(Bucket=buckets["hamar"], Key="data/users/u001/left behind")
    assert numbers(swept(world, code=3)) == {"upload": 1}
    assert len(client.list_multipart_uploads(Bucket=buckets["hamar"])["Uploads"]) == 1

    def denied(self: S3Reader, prefix: str = "") -> Any:
        raise DeniedError(self.name, "list versions")

    monkeypatch.setattr(S3Reader, "list_versions", denied)  # where doctor has seen that they can be listed
    document = swept(world, code=69)
    assert {store["versions"] for store in document["stores"]} == {None}
    assert all(store["objects"] for store in document["stores"])
