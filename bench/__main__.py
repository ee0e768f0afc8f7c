"""`python -m bench [--quick] [--only NAME,…]`: measure, and write the results under docs/bench."""

from __future__ import annotations

import argparse
import compileall
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench import adaptive, copying, ledger, listing, machine, memory, planning, starting, verifying, workers
from bench.figures import Subject, row_of
from bench.pairs import CannotMeasureError
from bench.results import Results
from bench.stage import QUICK, Sizes, Stage

SUBJECTS: Sequence[Subject] = (
    *copying.SUBJECTS,
    *starting.SUBJECTS,
    *planning.SUBJECTS,
    *listing.SUBJECTS,
    *memory.SUBJECTS,
    *ledger.SUBJECTS,
    *verifying.SUBJECTS,
    *workers.SUBJECTS,
    *adaptive.SUBJECTS,
)
_DOCS = Path(__file__).parents[1] / "docs" / "bench"


def main() -> None:
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(
        prog="make bench", description="Measure the tool against its peers and its limits."
    )
    parser.add_argument(
        "--quick", action="store_true", help="the same figures from smaller data, to docs/bench/quick.json"
    )
    parser.add_argument("--only", default="", help=f"some of {', '.join(names)}, separated by commas")
    parser.add_argument("--rounds", type=int, help="how often each contender has its turn")
    parser.add_argument("--folder", help="where the data goes; it needs 30 GB (quick: 1 GB)")
    given = parser.parse_args()
    only = [name for name in given.only.split(",") if name]
    unknown = sorted(set(only).difference(names))
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(names)}")
    sizes = QUICK if given.quick else Sizes()
    if given.rounds:
        sizes = sizes.with_rounds(given.rounds)
    # the modules of an installed tool are compiled (pip does it); this one is installed in place
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(_DOCS.parents[1] / "migrate", quiet=1)
    path = _DOCS / ("quick.json" if given.quick else "latest.json")
    about = {"machine": machine.described(), "commit": machine.commit(), "at": machine.now()}
    results = Results(path, [figure for subject in SUBJECTS for figure in subject.figures], about)
    with tempfile.TemporaryDirectory(prefix="migrate-bench-", dir=given.folder) as folder:
        stage = Stage(Path(folder), sizes, say)
        with closing(stage):
            for subject in SUBJECTS:
                if not only or subject.name in only:
                    measure(subject, stage, results)
                    results.write()
    say(f"written: {path}")


def measure(subject: Subject, stage: Stage, results: Results) -> None:
    """A subject's rows. What cannot be measured says why, and keeps nothing else from being measured."""
    say(f"{subject.name}")
    begun = time.monotonic()
    about = {"commit": machine.commit(), "at": machine.now()}
    left = {figure.name: figure for figure in subject.figures}
    why = "its measurement did not tell of it"
    try:
        for measured in subject.measure(stage):
            row = row_of(left.pop(measured.name), measured) | about
            say(
                f"  {row['name']}: {row['ours']} {row['unit']}, peer {row['peer']}, ratio {row['ratio']}, met: {row['met']}"
            )
            results.add(row)
    except CannotMeasureError as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001 - a figure that fails must not take the others along
        why = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    for figure in left.values():
        say(f"  {figure.name}: {why}")
        results.add(row_of(figure, None, why) | about)
    say(f"  {subject.name} took {time.monotonic() - begun:.0f} s")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
