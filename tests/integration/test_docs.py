"""What the documents tell people to type, typed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import forked
import pytest
from smallworld import build

from migrate.cli.app import COMMANDS
from migrate.errors import ExitCode

ROOT = Path(__file__).parents[2]


# a delta waits a minute for requests that a run before it may have under way
NOBODY_IS_LATE = """
import migrate.jobs.elsewhere
migrate.jobs.elsewhere.LATE_SECONDS = 0
from migrate.__main__ import main
main()
"""


def commands(text: str) -> list[tuple[str, int]]:
    """The `migrate` commands of all console blocks, in order, with the exit code that a comment promises."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            match = re.fullmatch(r"\$ (migrate .*?)\s*(?:# exit (\d+))?", line)
            if match:
                found.append((match[1], int(match[2] or 0)))
    return found


@pytest.mark.parametrize(
    ("document", "more"), [("README.md", ""), ("docs/operations.md", '\n[cutover]\nobserve = "1s"\n')]
)
def test_every_command_of_a_document_does_what_it_says(document: str, more: str, tmp_path: Path) -> None:
    """Each console line runs, in order, in one workspace, and ends with the code that stands beside it. DIGEST is what the
    command before has told."""
    world = build(tmp_path, users=12, per_user=4, large=False)
    spec = (tmp_path / "plans" / "small.toml").rename(tmp_path / "plans" / "clover.toml")
    spec.write_text(spec.read_text(encoding="utf-8") + more, encoding="utf-8")
    (tmp_path / ".migrate").mkdir(exist_ok=True)
    found = commands((ROOT / document).read_text(encoding="utf-8"))
    assert len(found) >= 10
    told = ""
    for asked, code in found:
        digest = re.search(r"--confirm\s+([0-9a-f]{12})", told)
        line = asked if digest is None else asked.replace("DIGEST", digest[1])
        done = forked.start(
            NOBODY_IS_LATE,
            shlex.split(line)[1:],
            environment={"MIGRATE_COUNTRY": "IE"},
            folder=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = (said.decode() for said in done.communicate())
        assert done.returncode == code, f"{line}: {done.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        told = out
    forgotten = {
        user for line, _ in found if "--dry-run" not in line for user in re.findall(r"forget --user (u\d+)", line)
    }
    for key in [key for key in world.objects if key.split("/")[1] in forgotten]:
        del world.objects[key]
    world.assert_all_there()


def test_the_readme_lists_every_exit_code_and_no_other() -> None:
    """The table of exit codes is the one in the code."""
    for document in ("README.md", "docs/design.md"):
        table = re.findall(r"^\| (\d+) \|", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
        assert [int(code) for code in table] == [int(code) for code in ExitCode]


def test_the_documents_name_no_command_or_option_that_there_is_not() -> None:
    """`migrate VERB` in running text is a verb that exists."""
    for document in ("README.md", "docs/operations.md", "CHANGELOG.md"):
        for verb in re.findall(r"`migrate ([a-z]+)", (ROOT / document).read_text(encoding="utf-8")):
            assert verb in COMMANDS, (document, verb)
