"""The memory of a worker, at plans of ten thousand to ten million copies: it must not grow with the plan."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, Measured, Subject, Target
from bench.filled import planned_world
from bench.stage import Stage

_EACH = 1_000
_MEBIBYTE = 2**20
_NAMES = ("10 thousand", "1 million", "10 million")


def memory(stage: Stage) -> Iterator[Measured]:
    """A run of each plan, from its registration on, for as long at most as the sizes say."""
    found = []
    for name, copies in zip(_NAMES, stage.sizes.worker_copies, strict=True):
        world = planned_world(stage, f"memory-{copies}", copies, min(_EACH, copies // 10), done=0).world
        ended = world.run("--for", f"{stage.sizes.worker_seconds}s", codes=(0, 75))
        found.append(ended.usage.memory_bytes / _MEBIBYTE)
        yield Measured(f"memory: {name} copies", [found[-1]])
    yield Measured("memory: growth", [max(found)], [min(found)])


SUBJECTS = (
    Subject(
        "memory",
        (
            *(Figure(f"memory: {name} copies", "MiB", target=Target(most=400, of_ratio=False)) for name in _NAMES),
            Figure("memory: growth", "MiB", "the smallest of the three", Target(most=1.1)),
        ),
        memory,
    ),
)
