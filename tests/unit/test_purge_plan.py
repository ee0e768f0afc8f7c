"""A purge plan as a folder: whatever order users come in it is one plan, it reads as it was written, and any change is found."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from odd_keys import ODD_KEYS

from migrate.errors import IntegrityError, LaterError, UsageError
from migrate.jobs import purge_plan
from migrate.jobs.purge_plan import Entry, Kind, PurgePlan, PurgeUser, building, find_purge
from migrate.workspace import Workspace

NOW = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)
PLAN = "ab" * 32
People = list[tuple[PurgeUser, list[Entry]]]


def entries_of(user_id: str, number: int) -> list[Entry]:
    """Of each kind some, with hostile keys, at two stores."""
    found = [Entry("us", f"users/{user_id}/film", "upload 1", Kind.UPLOAD, 0, "", None)]
    for place in range(number):
        key = f"users/{user_id}/{ODD_KEYS[place % len(ODD_KEYS)]}"
        at = NOW - timedelta(microseconds=place)
        found += [
            Entry("singapore", key, None, Kind.OBJECT, place, f"etag'{place}", at, never_copied=place % 3 == 0),
            Entry("us", key, f"v{place}", Kind.VERSION, 2**40, "etag-2", at),
            Entry("us", key, "null", Kind.DELETE_MARKER, 0, "", at),
        ]
    return found


def people() -> People:
    users = ("anna", "bj\u00f6rn", "u'1", "zo\u00eb\U0001f600", "nobody")
    found: People = []
    for number, user_id in enumerate(users):
        entries = [] if user_id == "nobody" else entries_of(user_id, 4 + number)
        user = PurgeUser(user_id, number % 2, len(entries), sum(entry.size for entry in entries), number, 2, 3)
        found.append((user, entries))
    return found


def written(
    root: Path, users: People, *, plan: str = PLAN, waves: tuple[int, ...] = (0, 1), now: datetime = NOW
) -> PurgePlan:
    with building(Workspace(root)) as writer:
        for user, entries in users:
            writer.add(user, entries)
        return writer.finish(plan, waves, now)


@pytest.mark.parametrize("buffered", [1, 7, 20_000])
def test_it_reads_as_it_was_written_whatever_came_first(
    tmp_path: Path, buffered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users in order, each with the entries in theirs; no time and no order of arrival is in the digest."""
    first = written(tmp_path, people())
    monkeypatch.setattr(purge_plan, "_BUFFERED", buffered)
    shuffled = people()
    random.Random(buffered).shuffle(shuffled)
    (tmp_path / "other").mkdir()
    again = written(tmp_path / "other", shuffled, now=NOW + timedelta(days=1))
    assert again.digest == first.digest
    assert (
        written(tmp_path, shuffled, now=NOW + timedelta(days=1)).document == first.document
    )  # the one that is there stays
    read = list(again.people())
    assert read == sorted(people(), key=lambda each: each[0].user_id)
    assert [entry.never_copied for _, entries in read for entry in entries] == [
        entry.never_copied for _, entries in sorted(people(), key=lambda each: each[0].user_id) for entry in entries
    ]
    assert (first.users, first.plan, first.waves) == (5, PLAN, (0, 1))
    us = first.stores["us"]
    assert (us["upload"], us["version"], us["delete-marker"], us["object"]) == (4, 22, 22, 0)
    assert first.stores["singapore"]["never_copied"] == sum(e.never_copied for _, found in people() for e in found)
    assert list((tmp_path / ".migrate" / "scratch").glob("purge/*")) == []


def test_everything_that_is_deleted_or_told_is_in_the_digest(tmp_path: Path) -> None:
    """Each field of an entry and of a user, the order of a user's entries, the plan and the waves."""
    digests = {written(tmp_path, people()).digest}
    user, entries = people()[0]
    rest = people()[1:]
    changes = [
        replace(entries[1], **change)
        for change in (
            {"store": "us"},
            {"key": "users/anna/other"},
            {"version_id": "7"},
            {"version_id": ""},
            {"kind": Kind.VERSION},
            {"size": 7},
            {"etag": "other"},
            {"last_modified": NOW + timedelta(microseconds=7)},
            {"last_modified": None},
            {"never_copied": False},
        )
    ]
    for changed in changes:
        digests.add(written(tmp_path, [(user, [entries[0], changed, *entries[2:]]), *rest]).digest)
    digests.add(written(tmp_path, [(user, [entries[1], entries[0], *entries[2:]]), *rest]).digest)
    digests.add(written(tmp_path, [(replace(user, entries=len(entries) - 1), entries[:-1]), *rest]).digest)
    for change in (
        {"wave": 7},
        {"deleted_since": 7},
        {"newer": 7},
        {"left_alone": 7},
        {"trusted": 7},
        {"user_id": "hanna"},
    ):
        digests.add(written(tmp_path, [(replace(user, **change), entries), *rest]).digest)
    digests.add(written(tmp_path, people(), plan="cd" * 32).digest)
    digests.add(written(tmp_path, people(), waves=(0,)).digest)
    assert len(digests) == 1 + len(changes) + 2 + 6 + 2


def test_a_plan_is_found_by_a_unique_prefix_of_its_own_plan_and_waves(tmp_path: Path) -> None:
    found = written(tmp_path, people())
    workspace = Workspace(tmp_path)
    for prefix in (found.digest, found.digest[:12], found.digest[:12].upper(), found.digest[:17]):
        assert find_purge(workspace, prefix, PLAN, (0, 1)) == found
    for prefix in (
        found.digest[:11],
        "",
        "*" * 12,
        "../" * 5,
        f"{found.digest[:16]}x",
        "0" * 64,
        f"{found.digest[:63]}{'g'}",
    ):
        with pytest.raises(UsageError):
            find_purge(workspace, prefix, PLAN, (0, 1))
    with pytest.raises(UsageError, match="of plan abababababab"):
        find_purge(workspace, found.digest, "cd" * 32, (0, 1))
    with pytest.raises(UsageError, match="other waves: 0,1"):
        find_purge(workspace, found.digest, PLAN, (0,))
    with pytest.raises(UsageError):
        find_purge(Workspace(tmp_path / "empty"), found.digest, PLAN, (0, 1))


def test_nobodys_plan_takes_the_place_of_another(tmp_path: Path) -> None:
    """A folder under another digest's name, and a sum that was edited with its digest, are found."""
    found = written(tmp_path, people())
    other = found.folder.with_name("0" * 16)
    found.folder.rename(other)
    with pytest.raises(IntegrityError):
        PurgePlan.open(other)
    other.rename(found.folder)
    path = found.folder / "purge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"users": 4}))
    with pytest.raises(IntegrityError):
        PurgePlan.open(found.folder)


def test_only_one_is_made_at_a_time(tmp_path: Path) -> None:
    """What one that was killed has left is not read by the next."""
    with building(Workspace(tmp_path)) as writer:
        writer.add(*people()[0])
        with pytest.raises(LaterError), building(Workspace(tmp_path)):
            pass
    (tmp_path / ".migrate" / "scratch" / "purge").mkdir()
    (tmp_path / ".migrate" / "scratch" / "purge" / "users.parquet").write_bytes(b"rubbish")
    assert [user.user_id for user, _ in written(tmp_path, people()[:1]).people()] == ["anna"]
