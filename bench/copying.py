"""Copying between two real servers: small objects, large objects, and a home and a backup copy of each.

Ours is `migrate plan` with its live listing and `migrate run`, from the start of the first process to the end of the second,
since a peer lists as well; held against the bare loop, which is given its list, it is `migrate run` alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from servers import S3Server

from bench import bare, peers
from bench.figures import Figure, Measured, Subject, Target
from bench.pairs import CannotMeasureError, Usage, alternate
from bench.stage import Stage
from bench.worlds import Item, Place, World, large_items, make_world, put_up, small_items

T = TypeVar("T")
_FOLDER = "rclone and migrate copy from one server to the other; this peer has to go through a folder"
_LISTED = "ours: plan with a live listing, and run"
_RUN = "ours: run alone; the loop is given its list"


@dataclass(frozen=True, slots=True)
class Ours:
    """The two commands of a copy."""

    plan: Usage
    run: Usage

    @property
    def whole(self) -> Usage:
        return self.plan + self.run


class Ground:
    """Objects at the source server, buckets for them at the target server, and a workspace that copies between the two."""

    def __init__(self, stage: Stage, name: str, items: Sequence[Item], targets: Sequence[str] = ("home",)) -> None:
        self.stage = stage
        self.name = name
        self.folder = stage.folder(name)
        self.items = items
        self.size_bytes = sum(item.size for item in items)
        self.source, self.target = stage.source, stage.target
        self.buckets = {target: f"{name}-{target}" for target in targets}
        self.source.make(name)
        for bucket in self.buckets.values():
            self.target.make(bucket)
        stage.say(f"{name}: putting up {len(items)} objects")
        put_up(self.source.s3, name, items)
        self.keys = self.folder / "keys.json"
        self.keys.write_text(json.dumps([[item.key, item.size] for item in items]))
        self.world = self.world_at(self.source.s3, self.target.s3)
        self.world.doctor()

    def world_at(self, source: S3Server, target: S3Server, *, limits: str = "", more: str = "") -> World:
        """The workspace, written anew: these are the ways to the servers, and these the limits of a run and of a store."""
        users = sorted({item.key.split("/")[1] for item in self.items})
        places = {name: Place(bucket, target, more) for name, bucket in self.buckets.items()}
        return make_world(self.folder, Place(self.name, source, more), places, users, limits=limits)

    def close(self) -> None:
        """Give the servers' memory back."""
        for server, bucket in [(self.source, self.name), *((self.target, bucket) for bucket in self.buckets.values())]:
            server.empty(bucket)

    def emptied(self, work: Callable[[], T]) -> T:
        """Do the work, see that all arrived at the targets, and take it away again."""
        used = work()
        for target in self.buckets:
            count, size_bytes = self.target.holds(self.buckets[target])
            if (count, size_bytes) != (len(self.items), self.size_bytes):
                raise CannotMeasureError(f"{count} of {len(self.items)} objects arrived, {size_bytes} bytes")
            self.target.empty(self.buckets[target])
        return used

    def ours(self) -> Ours:
        self.world.forget()
        plan = self.world.plan().usage
        return Ours(plan, self.world.run().usage)

    def rclone(self, *targets: str) -> Usage:
        """One run of rclone a target."""
        environment = peers.rclone_environment(source=self.source.s3, target=self.target.s3)
        used = Usage(0, 0)
        for target in targets:
            where = f"target:{self.buckets[target]}"
            used += peers.rclone("copy", f"source:{self.name}", where, folder=self.folder, environment=environment)
        return used

    def bare(self, loop: str) -> Usage:
        source, target = (
            bare.place(s.s3, b) for s, b in ((self.source, self.name), (self.target, self.buckets["home"]))
        )
        return bare.measured(loop, source, target, str(self.keys), folder=self.folder).usage

    def through_a_folder(self, copy: Callable[..., Usage]) -> Usage:
        return copy(self.source.s3, self.name, self.target.s3, self.buckets["home"], folder=self.folder)


def _rates(amount: float, used: Sequence[Usage]) -> list[float]:
    return [amount / one.seconds for one in used]


def small(stage: Stage) -> Iterator[Measured]:
    """20,000 objects of 2 to 64 KiB of 1,000 users."""
    sizes = stage.sizes
    ground = Ground(stage, "small-objects", small_items(sizes.small_objects, sizes.small_users))
    contenders: dict[str, Callable[[], Usage | Ours]] = {
        "ours": ground.ours,
        "rclone": lambda: ground.rclone("home"),
        "bare": lambda: ground.bare("copy"),
        "obstore": lambda: ground.bare("obstore"),
        "s5cmd": lambda: ground.through_a_folder(peers.s5cmd_copy),
        "aws": lambda: ground.through_a_folder(peers.aws_sync),
    }
    found = alternate({name: _taking(ground, work) for name, work in contenders.items()}, sizes.rounds)
    ground.close()
    count = len(ground.items)
    ours = [one for one in found.pop("ours") if isinstance(one, Ours)]
    peer = {name: [one for one in used if isinstance(one, Usage)] for name, used in found.items()}
    whole, run = [one.whole for one in ours], [one.run for one in ours]
    yield Measured("small objects: rclone", _rates(count, whole), _rates(count, peer["rclone"]), _LISTED)
    yield Measured("small objects: aws s3 sync", _rates(count, whole), _rates(count, peer["aws"]), _FOLDER)
    yield Measured("small objects: s5cmd", _rates(count, whole), _rates(count, peer["s5cmd"]), _FOLDER)
    cpu = [used.cpu_seconds for used in whole], [used.cpu_seconds for used in peer["rclone"]]
    yield Measured("small objects: client CPU", *cpu, _LISTED)
    yield Measured("small objects: bare loop", _rates(count, run), _rates(count, peer["bare"]), _RUN)
    yield Measured("small objects: obstore loop", _rates(count, run), _rates(count, peer["obstore"]), _RUN)
    cpu = [1000 * used.cpu_seconds / count for used in run], [1000 * used.cpu_seconds / count for used in peer["bare"]]
    yield Measured("small objects: CPU of a copy", *cpu, _RUN)
    yield Measured("small objects: plan", [used.seconds for used in (one.plan for one in ours)])


def large(stage: Stage) -> Iterator[Measured]:
    """12 objects of 64 MiB and one of 2 GiB, in parts."""
    sizes = stage.sizes
    ground = Ground(stage, "large-objects", large_items(sizes.large_objects, sizes.large_bytes, sizes.huge_bytes))
    contenders: dict[str, Callable[[], Usage | Ours]] = {
        "ours": ground.ours,
        "rclone": lambda: ground.rclone("home"),
        "bare": lambda: ground.bare("parts"),
    }
    found = alternate({name: _taking(ground, work) for name, work in contenders.items()}, sizes.rounds)
    ground.close()
    megabytes = ground.size_bytes / 1e6
    ours = [one for one in found.pop("ours") if isinstance(one, Ours)]
    peer = {name: [one for one in used if isinstance(one, Usage)] for name, used in found.items()}
    whole, run = [one.whole for one in ours], [one.run for one in ours]
    yield Measured("large objects: rclone", _rates(megabytes, whole), _rates(megabytes, peer["rclone"]), _LISTED)
    yield Measured("large objects: bare loop", _rates(megabytes, run), _rates(megabytes, peer["bare"]), _RUN)
    cpu = [used.cpu_seconds for used in run], [used.cpu_seconds for used in peer["rclone"]]
    yield Measured("large objects: client CPU", *cpu, _RUN)


def twice(stage: Stage) -> Iterator[Measured]:
    """A home and a backup copy of each object."""
    sizes = stage.sizes
    items = small_items(sizes.small_objects // 2, sizes.small_users // 2)
    ground = Ground(stage, "home-and-backup", items, ("home", "backup"))
    contenders: dict[str, Callable[[], Usage | Ours]] = {
        "ours": ground.ours,
        "rclone": lambda: ground.rclone("home", "backup"),
    }
    found = alternate({name: _taking(ground, work) for name, work in contenders.items()}, sizes.rounds)
    ground.close()
    ours = [one.whole.seconds for one in found["ours"] if isinstance(one, Ours)]
    peer = [one.seconds for one in found["rclone"] if isinstance(one, Usage)]
    yield Measured("home and backup: two runs of rclone", ours, peer, _LISTED)


def _taking(ground: Ground, work: Callable[[], Usage | Ours]) -> Callable[[], Usage | Ours]:
    return lambda: ground.emptied(work)


SUBJECTS = (
    Subject(
        "small-objects",
        (
            Figure("small objects: rclone", "objects/s", "rclone copy", Target(least=1.5)),
            Figure("small objects: aws s3 sync", "objects/s", "aws s3 sync", Target(least=4)),
            Figure("small objects: s5cmd", "objects/s", "s5cmd cp"),
            Figure("small objects: client CPU", "CPU s", "rclone copy", Target(most=0.6)),
            Figure("small objects: bare loop", "objects/s", "bare loop", Target(least=0.9)),
            Figure("small objects: obstore loop", "objects/s", "obstore both ways"),
            Figure("small objects: CPU of a copy", "CPU ms", "bare loop"),
            Figure("small objects: plan", "s"),
        ),
        small,
    ),
    Subject(
        "large-objects",
        (
            Figure("large objects: rclone", "MB/s", "rclone copy", Target(least=1.2)),
            Figure("large objects: bare loop", "MB/s", "bare loop", Target(least=0.9)),
            Figure("large objects: client CPU", "CPU s", "rclone copy"),
        ),
        large,
    ),
    Subject(
        "home-and-backup",
        (Figure("home and backup: two runs of rclone", "s", "two runs of rclone", Target(most=0.7)),),
        twice,
    ),
)
