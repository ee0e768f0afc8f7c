"""Planning: two inventories of ten million rows and a million users, held against the join and the sort alone; and its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import bare
from bench.figures import Figure, Measured, Subject, Target
from bench.filled import synthetic_world
from bench.pairs import Usage, alternate, median, slope
from bench.stage import Stage
from bench.synthetic import Formula, serving
from bench.worlds import TARGETS, World

_MEBIBYTE = 2**20


def _world(stage: Stage, name: str, rows: int, users: int) -> World:
    formula = Formula(users, rows // users)
    server = stage.run_on(serving(formula, formula.total))
    stage.say(f"{name}: two inventories of {rows:,} rows")
    return synthetic_world(stage.folder(name), formula, server, server, targets=TARGETS, second=True)


def _plan(world: World) -> Usage:
    world.forget()
    return world.plan().usage


def _bare(root: Path) -> Usage:
    arguments = [str(root / name) for name in ("listing.parquet", "second.parquet", "users.csv", "bare.parquet")]
    return bare.measured("plan", *arguments, folder=root).usage


def plan(stage: Stage) -> Iterator[Measured]:
    """`migrate plan`, whole."""
    sizes = stage.sizes
    world = _world(stage, "plan", sizes.plan_rows, sizes.plan_users)
    world.plan()  # the ledger is made once
    found = alternate({"ours": lambda: _plan(world), "bare": lambda: _bare(world.root)}, sizes.rounds)
    ours, peer = found["ours"], found["bare"]
    yield Measured("plan: 10 million rows", [one.seconds for one in ours], [one.seconds for one in peer])
    ours_memory, peer_memory = ([one.memory_bytes / _MEBIBYTE for one in used] for used in (ours, peer))
    yield Measured("plan: memory", ours_memory, peer_memory)
    yield Measured("plan: a million rows", [one.seconds * 1e6 / sizes.plan_rows for one in ours])
    built = sum(path.stat().st_size for path in (world.private / "plans").rglob("*") if path.is_file())
    yield Measured("plan: bytes of a copy", [built / (sizes.plan_rows * len(TARGETS))])
    yield Measured("plan: CPU", [one.cpu_seconds for one in ours], [one.cpu_seconds for one in peer])


def line(stage: Stage) -> Iterator[Measured]:
    """How the time grows with the rows: the exponent b of time = a rows^b over all sizes."""
    sizes = stage.sizes
    points: list[tuple[float, float]] = []
    share = sizes.plan_rows // sizes.plan_users
    for place, rows in enumerate(sizes.plan_line):
        world = _world(stage, f"plan-{place}", rows, rows // share)
        seconds = [_plan(world).seconds for _ in range(min(sizes.rounds, 3))]
        points.append((rows, median(seconds)))
        yield Measured(f"plan: line, point {place + 1}", seconds, note=f"{rows:,} rows in each inventory")
    yield Measured(
        "plan: growth", [slope(points)], note="; ".join(f"{rows:,.0f}: {took:.2f} s" for rows, took in points)
    )


SUBJECTS = (
    Subject(
        "plan",
        (
            Figure("plan: 10 million rows", "s", "bare DuckDB join and sort", Target(most=1.3)),
            Figure("plan: memory", "MiB", "bare DuckDB join and sort", Target(most=1536, of_ratio=False)),
            Figure("plan: CPU", "CPU s", "bare DuckDB join and sort"),
            Figure("plan: a million rows", "s"),
            Figure("plan: bytes of a copy", "bytes"),
        ),
        plan,
    ),
    Subject(
        "plan-line",
        (
            *(Figure(f"plan: line, point {number}", "s") for number in (1, 2, 3, 4)),
            Figure("plan: growth", "exponent", target=Target(most=1, of_ratio=False)),
        ),
        line,
    ),
)
