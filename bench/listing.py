"""A live listing, by the CPU time of a key: the tool's, with its sealed segments, and boto3's paginator."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from bench import bare
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import CannotMeasureError, Usage, alternate
from bench.stage import Stage
from bench.synthetic import Formula, serving

_NOTE = "ours is what `migrate plan` does for a live listing, called alone, so that the rest of planning is not in it"


def listing(stage: Stage) -> Iterator[Measured]:
    """100,000 keys, 100 a user."""
    keys = stage.sizes.listed_keys
    formula = Formula(keys // 100, 100)
    server = stage.run_on(serving(formula, formula.total))
    folder = stage.folder("listing")
    place = bare.place(server.s3, "synthetic")

    def tool() -> Usage:
        shutil.rmtree(folder / ".migrate", ignore_errors=True)
        return _counted(keys, "list-tool", place, str(folder))

    def _counted(expected: int, loop: str, *arguments: str) -> Usage:
        ended = bare.measured(loop, *arguments, folder=folder)
        if int(ended.out) != expected:
            raise CannotMeasureError(f"{loop} found {ended.out.strip()} of {expected} keys")
        return ended.usage

    found = alternate({"ours": tool, "boto3": lambda: _counted(keys, "list-boto3", place)}, stage.sizes.rounds)
    cpu = {name: [1e6 * one.cpu_seconds / keys for one in used] for name, used in found.items()}
    seconds = {name: [one.seconds for one in used] for name, used in found.items()}
    yield Measured("listing: CPU of 1,000 keys", cpu["ours"], cpu["boto3"], _NOTE)
    yield Measured("listing: time", seconds["ours"], seconds["boto3"], _NOTE)


SUBJECTS = (
    Subject(
        "listing",
        (
            Figure("listing: CPU of 1,000 keys", "CPU ms", "boto3's paginator", Target(least=3), times_less=True),
            Figure("listing: time", "s", "boto3's paginator", times_less=True),
        ),
        listing,
    ),
)
