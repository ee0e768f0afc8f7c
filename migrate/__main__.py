"""`python -m migrate` and the console command `migrate`."""

from __future__ import annotations

import os
import sys

from migrate.cli.boundary import run
from migrate.errors import ExitCode


def main() -> None:
    """Run the command line and end the process with its exit code."""
    code = run(sys.argv[1:])
    if code == ExitCode.INTERRUPTED:
        # Threads may be inside a store's call that nothing can break off: everything is flushed, so do not join them.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
