"""`migrate demo`, as somebody would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from migrate.demo.tour import WIDTH
from migrate.demo.world import MARKER


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, in `folder`, with settings around it that must not reach into it."""
    return subprocess.run(
        [sys.executable, "-m", "migrate", "demo", *arguments],
        cwd=folder,
        env={**os.environ, "MIGRATE_LEDGER": "sqlite:////nowhere/ledger.sqlite", "MIGRATE_COUNTRY": "US"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_the_demo_migrates_its_world_and_proves_it(tmp_path: Path) -> None:
    """From nothing to a world whose every claim holds, through a kill, beginning afresh where an older demo was."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / MARKER).touch()
    (tmp_path / "demo" / "left-over").touch()
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("✓") == 14
    assert "✗" not in done.stdout
    assert "kill -9" in done.stdout
    assert "the plan is blocked" in done.stdout  # also where stdout is a file: it is the answer there
    sections = [section.split("\n\n")[0].splitlines() for section in done.stdout.split("── ")[1:]]
    assert len(sections) == 17
    assert max(len(line) for section in sections for line in section[1:]) <= WIDTH
    look = done.stdout.strip().splitlines()[-1].split()
    assert subprocess.run(look, cwd=tmp_path, capture_output=True, check=False).returncode == 0  # the hint works
    assert not (tmp_path / "demo" / "left-over").exists()


def test_the_demo_does_not_touch_what_it_did_not_make(tmp_path: Path) -> None:
    """A folder without its marker is refused and stays as it is."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").touch()
    assert demo(tmp_path).returncode == 2
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["thesis.txt"]
