"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.pairs import CannotMeasureError
from bench.peers import program

_LIBRARIES = ("boto3", "duckdb", "obstore", "sqlalchemy", "urllib3")
_PEERS = {"rclone": "version", "aws": "--version", "s5cmd": "version"}
_ROOT = Path(__file__).parents[1]


def described() -> dict[str, Any]:
    """The machine, the versions of what took part, the commit and the time."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "peers": {name: _said([str(_where(name)), word]) for name, word in _PEERS.items()}
        | {"Ceph": _said(["ceph", "-v"])},
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit that is measured, with `+` where files differ from it."""
    changed = _said(
        ["git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no", "--", "migrate", "bench"]
    )
    return _said(["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"]) + ("+" if changed else "")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _where(name: str) -> Path:
    try:
        return program(name)
    except CannotMeasureError:
        return Path(name)


def _said(command: list[str]) -> str:
    """The first line of what a program says, or nothing where there is no such program."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except OSError:
        return ""
    return out.splitlines()[0].strip() if out else ""
