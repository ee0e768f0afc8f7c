"""Imports go one way: a module imports only from layers below its own (design, section 8)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrate

PACKAGE = Path(migrate.__file__).parent

# From low to high. A module belongs to the entry that names it or a package above it, the longest name first. What stands in
# one layer may import its neighbours.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "filelock", "model", "pauses", "sql", "states", "stderr", "stopping", "units", "workspace"),
    ("spec", "spec_docs", "regions", "residency", "layout", "placement", "privacy", "secrets"),
    ("stores",),
    ("inventory",),
    ("planner",),
    ("ledger",),
    ("routing",),
    ("transfer", "verify"),
    ("worker", "engines"),
    ("jobs",),
    ("report",),
    ("demo",),
    ("cli", "__main__"),
)

# Packages that know less than their layer would allow: the only first-party modules that they may import beside themselves.
ONLY: dict[str, frozenset[str]] = {
    "ledger": frozenset({"errors", "model", "states", "pauses"}),
    "routing": frozenset({"errors", "spec", "secrets", "ledger"}),
    "demo": frozenset({"errors", "model", "units", "workspace", "spec", "layout", "stores"}),
}
NEVER: dict[str, frozenset[str]] = {
    "spec.values": frozenset({"spec"}),
    "spec.places": frozenset({"spec"}),
    "spec.routing": frozenset({"spec.sections", "spec.checks", "spec.loading"}),
    "spec.sections": frozenset({"spec.checks", "spec.loading"}),
    "spec.checks": frozenset({"spec.loading"}),
    "transfer": frozenset({"ledger", "planner"}),
    "verify": frozenset({"ledger", "planner"}),
}

# Where an import may stand in a function: a command loads what only it needs, and the door the adapter that a spec asks for.
LAZY = ("cli", "__main__", "stores.door")

# The root package itself: its version, which every layer may read.
ROOT = ""


def module_name(path: Path, package: Path) -> str:
    """`stores.s3` for migrate/stores/s3.py; the empty name for the package itself."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, entry: str) -> bool:
    return module == entry or module.startswith(entry + ".")


def layer(module: str) -> int:
    """The height of a module. KeyError for one that no layer names."""
    for height, entries in enumerate(LAYERS):
        if any(within(module, entry) for entry in entries):
            return height
    raise KeyError(module)


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and first-party module of each import. `from migrate import model` names `model`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if within(alias.name, "migrate"):
                    yield node.lineno, alias.name.removeprefix("migrate").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                own = module.split(".") if module else []
                base = own[: len(own) - node.level + is_package]
                source = ".".join(["migrate", *base, *([source] if source else [])])
            if source == "migrate":
                for alias in node.names:
                    yield node.lineno, ROOT if alias.name == "__version__" else alias.name
            elif within(source, "migrate"):
                yield node.lineno, source.removeprefix("migrate.")


def functions_with_imports(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    yield inner.lineno


def faults(package: Path) -> list[str]:
    """What breaks the rules in the tree under `package`, a line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = module_name(path, package)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(package)
        if not any(within(module, entry) for entry in LAZY):
            found += [f"{place}:{line}: an import in a function" for line in functions_with_imports(tree)]
        for line, target in imports(tree, module, path.name == "__init__.py"):
            problem = judge(module, target)
            if problem:
                found.append(f"{place}:{line}: {problem}")
    return sorted(set(found))


def judge(module: str, target: str) -> str | None:
    """What is wrong with `module` importing `target`, or None."""
    if target == ROOT:
        return None
    try:
        own, other = layer(module), layer(target)
    except KeyError as error:
        return f"{error.args[0] or 'migrate/__init__'}: no layer names it"
    if other > own:
        return f"{module} imports {target}, which stands above it"
    for entry, allowed in ONLY.items():
        if within(module, entry) and not within(target, entry) and not any(within(target, name) for name in allowed):
            return f"{module} imports {target}: {entry} knows only {', '.join(sorted(allowed))}"
    for entry, forbidden in NEVER.items():
        if within(module, entry) and any(within(target, name) for name in forbidden):
            return f"{module} imports {target}, which {entry} must not know"
    return None


def test_imports_go_one_way() -> None:
    """No module of the product imports from above, or hides an import in a function."""
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("cli.boundary", {"sqlalchemy", "duckdb", "pydantic", "rich", "structlog"}),
        ("cli.status", {"rich", "structlog", "urllib3", "obstore", "migrate.worker.loop", "migrate.stores.door"}),
        ("cli.run", {"urllib3", "obstore", "botocore", "migrate.inventory.live"}),
    ],
)
def test_a_command_loads_nothing_that_it_may_not_need(module: str, unwanted: set[str]) -> None:
    """`--help`, `status`, and a run with nothing left to do answer at once."""
    code = f"import sys, migrate.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert unwanted.isdisjoint(loaded.split())


def test_every_module_has_a_layer() -> None:
    """A new module must be given its place in the order."""
    modules = [module_name(path, PACKAGE) for path in PACKAGE.rglob("*.py")]
    for module in filter(None, modules):
        layer(module)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("model.py", "from migrate.spec import Spec", "stands above"),
        ("model.py", "import migrate.cli.app", "stands above"),
        ("stores/file.py", "from ..planner import folder", "stands above"),
        ("stores/__init__.py", "from ..planner import folder", "stands above"),
        ("stores/file.py", "from migrate import planner", "stands above"),
        ("ledger/core.py", "from migrate.spec import Spec", "knows only"),
        ("verify.py", "from migrate.ledger import Ledger", "must not know"),
        ("spec/sections.py", "from migrate.spec.checks import find_problems", "must not know"),
        ("spec/places.py", "from migrate.spec.sections import Spec", "must not know"),
        ("worker.py", "def work():\n    import boto3", "in a function"),
        ("stores/s3.py", "class A:\n    async def a(self):\n        from migrate import model", "in a function"),
        ("novelty.py", "from migrate import model", "no layer names it"),
        ("spec.py", "if True:\n    from migrate.worker import Worker", "stands above"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    """The checker reports the one bad line of a made-up tree, and nothing of its good ones."""
    good = {
        "errors.py": "import os",
        "cli/run.py": "def run():\n    from migrate.worker import Worker",
        "worker.py": "",
    }
    for name, text in {**good, path: source}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = faults(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(path)
    assert complaint in found[0]


def test_neighbours_and_lower_layers_may_be_imported(tmp_path: Path) -> None:
    """Imports within a layer, from below, and of the version are all right."""
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores/s3.py").write_text("from . import base\nfrom .base import Store\nfrom ..model import Role\n")
    (tmp_path / "spec.py").write_text("from migrate import __version__, residency\n")
    assert faults(tmp_path) == []
