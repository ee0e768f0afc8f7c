"""The results: a JSON document with a row a figure, and the same as a table.

A run of some figures replaces their rows and leaves the others, which keep the commit and the time that they were measured at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, row_of

_NOT_YET = "not measured yet"


class Results:
    """The rows that are known, written down after each subject."""

    def __init__(self, path: Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
        self._path = path
        self._figures = figures
        self._about = about
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            self._rows = {row["name"]: row for row in document["rows"]}

    def add(self, row: dict[str, Any]) -> None:
        self._rows[row["name"]] = row

    def write(self) -> None:
        """Both files, in the order of the figures."""
        rows = [self._rows.get(figure.name) or row_of(figure, None, _NOT_YET) for figure in self._figures]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        document = {**self._about, "rows": rows}
        self._path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self._path.with_suffix(".md").write_text(table(document), encoding="utf-8")


def table(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    machine = document["machine"]
    lines = [
        "# Benchmark results",
        "",
        f"`make bench` wrote this on {document['at']}, at commit {document['commit']}.",
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}.",
        f"Python {machine['python']}.",
        "Peers: " + "; ".join(f"{said or 'missing'}" for said in machine["peers"].values()) + ".",
        "Each figure is the median over its rounds, in which the contenders take turns.",
        "The spread is that of the ratio, or of our own figure where there is no peer.",
        "",
        "| figure | unit | ours | peer | | ratio | spread | target | met | rounds |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | --- | --- | ---: |",
    ]
    return "\n".join([*lines, *map(_line, document["rows"])]) + "\n"


def _line(row: dict[str, Any]) -> str:
    spread = row.get("ratio_spread") or row.get("ours_spread")
    met = {True: "yes", False: "**no**", None: ""}[row["met"]]
    cells = [
        row["name"],
        row["unit"],
        _number(row["ours"]) if row["why"] is None else f"not measured: {row['why'].splitlines()[0][:80]}",
        _number(row["peer"]),
        row["peer_name"] or "",
        _number(row["ratio"]),
        f"{_number(spread[0])} to {_number(spread[1])}" if spread else "",
        row["target"] or "",
        met,
        str(len(row["samples"]["ours"])) if "samples" in row else "",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
