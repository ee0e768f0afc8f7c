"""Concurrency that finds its level by itself, held against the best of five fixed ones, where a server is far or refuses.

The source is behind a round trip of 30 or 120 ms, or the target takes 200 requests a second. Ours is a run as the spec's defaults
have it; the fixed levels are runs whose threads, and whose requests at a store, are bounded by that number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from servers import S3Server

from bench.copying import Ground
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import Usage, alternate, median
from bench.slowed import slowed
from bench.stage import Stage
from bench.worlds import small_items

_RATE = 200
_WAYS = ("30 ms", "120 ms", "throttled")


def adaptive(stage: Stage) -> Iterator[Measured]:
    """The same objects by each of the three ways."""
    sizes = stage.sizes
    ground = Ground(stage, "adaptive", small_items(sizes.adaptive_objects, sizes.small_users))
    count = len(ground.items)
    for way in _WAYS:
        with _by(way, ground) as (source, target):
            ground.world_at(source, target).doctor()
            contenders: dict[str, Callable[[], Usage]] = {"ours": partial(_run, ground, source, target, None)}
            contenders |= {str(level): partial(_run, ground, source, target, level) for level in sizes.adaptive_levels}
            found = alternate(contenders, sizes.rounds)
        rates = {name: [count / one.seconds for one in used] for name, used in found.items()}
        ours = rates.pop("ours")
        best = max(rates, key=lambda name: median(rates[name]))
        said = ", ".join(f"{name}: {median(found):.0f}/s" for name, found in rates.items())
        yield Measured(f"adaptive: {way}", ours, rates[best], f"the best is {best}; {said}")
    ground.close()


@contextlib.contextmanager
def _by(way: str, ground: Ground) -> Iterator[tuple[S3Server, S3Server]]:
    source, target = ground.source.s3, ground.target.s3
    if way == "throttled":
        with slowed(target, rate=_RATE) as narrow:
            yield source, narrow
    else:
        with slowed(source, latency_ms=int(way.split()[0])) as far:
            yield far, target


def _run(ground: Ground, source: S3Server, target: S3Server, level: int | None) -> Usage:
    limits = "" if level is None else f"concurrency = {level}"
    more = "" if level is None else f", concurrency_max = {level}"
    world = ground.world_at(source, target, limits=limits, more=more)
    world.forget()
    world.plan()
    return ground.emptied(lambda: world.run().usage)


SUBJECTS = (
    Subject(
        "adaptive",
        tuple(Figure(f"adaptive: {way}", "objects/s", "the best fixed level", Target(least=0.95)) for way in _WAYS),
        adaptive,
    ),
)
