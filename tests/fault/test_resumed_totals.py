"""Totals after a resume: what every run says that it sent adds up to what there is, and no byte is told twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from smallworld import MIB, body_of, build, planned
from test_crashes import killed_at

from migrate.pauses import PausePoint


@pytest.mark.parametrize("lost", [False, True])
def test_parts_that_an_earlier_run_has_sent_are_its_own(tmp_path: Path, lost: bool) -> None:
    """Killed amid a large object: the next run counts what it sends; all of it where the store has lost the upload."""
    world = build(tmp_path, users=1, per_user=0, odd=False, large=False)
    world.put_source("users/u000/film", body_of("film", 33 * MIB), backup=False)
    planned(world)
    killed_at(world, PausePoint.PARTS_RECORDED, "run", "--wave", "all", "--limit-bytes", "10MB/s")
    connection = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite")
    sent = sum(size for (size,) in connection.execute("SELECT size FROM parts"))
    connection.close()
    assert 0 < sent < 2 * 33 * MIB
    if lost:
        for name in ("dublin-1", "dublin-2", "hamar"):
            for upload in world.store(name).list_uploads():
                world.store(name).abort_upload(upload.key, upload.upload_id)
        sent = 0
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["done"]["bytes"] == 2 * 33 * MIB - sent
    world.assert_all_there()


def test_what_was_sent_in_parts_counts_as_done_when_a_run_begins(tmp_path: Path) -> None:
    """Its progress goes on where the last one stopped, and ends at the whole."""
    world = build(tmp_path, users=1, per_user=0, odd=False, large=False)
    world.put_source("users/u000/film", body_of("film", 33 * MIB), backup=False)
    planned(world)
    killed_at(world, PausePoint.PARTS_RECORDED, "run", "--wave", "all", "--limit-bytes", "10MB/s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migrate.report.progress.LINE_SECONDS", 0.0)
        answer = world.migrate("run", "--wave", "all", "--limit-bytes", "30MB/s")
    shown = [
        int(word.removeprefix("bytes="))
        for line in answer.err.splitlines()
        if "event=progress" in line
        for word in line.split()
        if word.startswith("bytes=")
    ]
    assert shown
    assert 0 < shown[0] <= shown[-1] <= 2 * 33 * MIB
