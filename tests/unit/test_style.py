"""Habits that a linter has no rule for: who may print, and what the lock file and the version must say."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import migrate

ROOT = Path(__file__).parents[2]
PACKAGE = Path(migrate.__file__).parent
LOCK = ROOT / "requirements" / "dev.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def prints_or_exits(source: str) -> list[int]:
    """Lines that call print, input, exit, quit or sys.exit."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "input", "exit", "quit", "sys.exit"):
                found.append(node.lineno)
    return found


def lock_problems(text: str) -> list[str]:
    """What a lock file must not be: naming a host, or pinning without a hash."""
    problems = [
        f"names a host: {line}" for line in text.splitlines() if "://" in line or line.lstrip().startswith("--index")
    ]
    for name, hashes in _pins(text):
        if not hashes:
            problems.append(f"{name} has no hash")
    return problems


def _pins(text: str) -> list[tuple[str, list[str]]]:
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return [(block.split()[0], re.findall(r"--hash=sha256:[0-9a-f]{64}", block)) for block in blocks]


def test_only_the_command_line_prints_or_exits() -> None:
    """Everything else returns values or raises."""
    modules = [
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py")
    ]
    found = [(path.relative_to(PACKAGE), prints_or_exits(path.read_text(encoding="utf-8"))) for path in modules]
    assert [(path, lines) for path, lines in found if lines] == []


def test_a_print_is_found() -> None:
    """The corrupted twin."""
    assert prints_or_exits("def work():\n    print('here')\n    sys.exit(3)\n") == [2, 3]


@pytest.mark.parametrize("lock", [LOCK, LOCK.with_name("bench.lock")], ids=lambda lock: str(lock.name))
def test_the_lock_pins_all_by_hash_and_names_no_host(lock: Path) -> None:
    """What is installed is what was resolved, wherever it comes from."""
    assert lock_problems(lock.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    ["--index-url=x\n", "a==1 \\\n    --hash=md5:00\n", f"a @ https://x/a.whl \\\n    --hash=sha256:{'0' * 64}\n"],
)
def test_a_bad_lock_is_found(text: str) -> None:
    """The corrupted twins."""
    assert lock_problems(text)


def test_the_lock_answers_each_requirement_of_the_project() -> None:
    """A requirement that changed without `make lock` fails here, not on somebody's machine."""
    pinned = dict(name.split("==") for name, _ in _pins(LOCK.read_text(encoding="utf-8")))
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(line) for group in groups for line in group):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]} is locked"


def test_the_version_stands_in_one_piece() -> None:
    """The package, its metadata and the changelog name the same version."""
    assert PROJECT["version"] == migrate.__version__
    assert f"\n## {migrate.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_two_test_modules_have_one_name() -> None:
    """pytest imports them by their names alone: the second one would not be run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []
