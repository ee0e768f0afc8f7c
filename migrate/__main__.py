"""`python -m migrate` and the console command `migrate`."""

from __future__ import annotations

import gc
import os
import sys

from migrate.cli.interrupts import end_on_signals


def main() -> None:
    """Run the command line and end the process with its exit code."""
    end_on_signals()
    gc.set_threshold(
        50_000
    )  # loading makes a lot that stays: looking through it each 700 objects is a tenth of a start
    from migrate.cli.boundary import run  # here: it loads for a tenth of a second, in which signals are heard already

    code = run(sys.argv[1:])
    # Everything is flushed. Threads may be inside a store's call that nothing can break off, so they are not joined; and the
    # interpreter's own end waits for them, or has DuckDB complain on stderr about connections that they hold.
    os._exit(code)


if __name__ == "__main__":
    main()
