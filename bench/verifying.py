"""Verifying what was copied between two real servers, at both levels that look at targets alone, held against `rclone check`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bench import peers
from bench.copying import Ground
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import CannotMeasureError, Usage, alternate
from bench.stage import Stage
from bench.worlds import small_items, tiny_items

_PASSES = "ours keeps a verdict of each copy, durably; rclone lists or reads both ends, ours the target"


def by_listing(stage: Stage) -> Iterator[Measured]:
    """100,000 objects of 1 KiB."""
    sizes = stage.sizes
    ground = Ground(stage, "verify-listing", tiny_items(sizes.verified_objects, sizes.small_users))
    yield from _verify(stage, ground, "listing")


def by_content(stage: Stage) -> Iterator[Measured]:
    """Objects of 2 to 64 KiB, read again."""
    sizes = stage.sizes
    ground = Ground(stage, "verify-content", small_items(sizes.content_objects, sizes.small_users))
    yield from _verify(stage, ground, "content", "--download")


def _verify(stage: Stage, ground: Ground, level: str, *words: str) -> Iterator[Measured]:
    ground.world.plan()
    ground.world.run()
    environment = peers.rclone_environment(source=ground.source.s3, target=ground.target.s3)
    ends = (f"source:{ground.name}", f"target:{ground.buckets['home']}")

    def rclone() -> Usage:
        return peers.rclone("check", *ends, *words, folder=ground.folder, environment=environment)

    def ours() -> Usage:
        """All of it anew each time: by itself `verify` takes what is not verified yet."""
        ended = ground.world.migrate("verify", "--wave", "all", "--level", level, "--json")
        matched = json.loads(ended.out)["pass"]["verdicts"]["match"]
        if matched != len(ground.items):
            raise CannotMeasureError(f"{matched} of {len(ground.items)} copies were found equal")
        return ended.usage

    found = alternate({"ours": ours, "rclone": rclone}, stage.sizes.rounds)
    ground.close()
    seconds = {name: [one.seconds for one in used] for name, used in found.items()}
    cpu = {name: [one.cpu_seconds for one in used] for name, used in found.items()}
    yield Measured(f"verify --level {level}", seconds["ours"], seconds["rclone"], _PASSES)
    yield Measured(f"verify --level {level}: client CPU", cpu["ours"], cpu["rclone"], _PASSES)
    each = {name: [1000 * seconds / len(ground.items) for seconds in used] for name, used in cpu.items()}
    yield Measured(f"verify --level {level}: CPU of a copy", each["ours"], each["rclone"], _PASSES)


SUBJECTS = tuple(
    Subject(
        f"verify-{level}",
        (
            Figure(f"verify --level {level}", "s", peer, Target(least=least), times_less=True),
            Figure(f"verify --level {level}: client CPU", "CPU s", peer),
            Figure(f"verify --level {level}: CPU of a copy", "CPU ms", peer),
        ),
        work,
    )
    for level, peer, least, work in (
        ("listing", "rclone check", 2.0, by_listing),
        ("content", "rclone check --download", 1.5, by_content),
    )
)
