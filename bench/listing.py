"""A live listing, by the CPU time of a key: the tool's, with its sealed segments, and boto3's paginator."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

from bench import bare
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import CannotMeasureError, Usage, alternate
from bench.slowed import slowed
from bench.stage import Stage
from bench.synthetic import Formula, serving

_LATENCY_MS = 30
_NOTE = "ours is what `migrate plan` does for a live listing, called alone, so that the rest of planning is not in it"


def listing(stage: Stage) -> Iterator[Measured]:
    """100,000 keys, 100 a user."""
    keys = stage.sizes.listed_keys
    formula = Formula(keys // 100, 100)
    server = stage.run_on(serving(formula, formula.total))
    folder = stage.folder("listing")
    far = stage.run_on(slowed(server.s3, latency_ms=_LATENCY_MS))

    def tool(place: str) -> Usage:
        shutil.rmtree(folder / ".migrate", ignore_errors=True)
        return _counted(keys, "list-tool", place, str(folder))

    def _counted(expected: int, loop: str, *arguments: str) -> Usage:
        ended = bare.measured(loop, *arguments, folder=folder)
        if int(ended.out) != expected:
            raise CannotMeasureError(f"{loop} found {ended.out.strip()} of {expected} keys")
        return ended.usage

    contenders = {}
    for name, way in (("near", server.s3), ("far", far)):
        place = bare.place(way, "synthetic")
        contenders[f"ours {name}"] = partial(tool, place)
        contenders[f"boto3 {name}"] = partial(_counted, keys, "list-boto3", place)
    found = alternate(contenders, stage.sizes.rounds)
    cpu = {name: [1e6 * one.cpu_seconds / keys for one in used] for name, used in found.items()}
    seconds = {name: [one.seconds for one in used] for name, used in found.items()}
    yield Measured("listing: CPU of 1,000 keys", cpu["ours near"], cpu["boto3 near"], _NOTE)
    yield Measured("listing: time", seconds["ours near"], seconds["boto3 near"], _NOTE)
    note = f"{_NOTE}; each request waits {_LATENCY_MS} ms, and ours are side by side"
    yield Measured("listing: time, far away", seconds["ours far"], seconds["boto3 far"], note)


SUBJECTS = (
    Subject(
        "listing",
        (
            Figure("listing: CPU of 1,000 keys", "CPU ms", "boto3's paginator", Target(least=3), times_less=True),
            Figure("listing: time", "s", "boto3's paginator", times_less=True),
            Figure("listing: time, far away", "s", "boto3's paginator", times_less=True),
        ),
        listing,
    ),
)
