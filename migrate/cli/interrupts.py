"""What a signal does where nothing can be done about it any more, or not yet. Loads nothing: it serves from the first line on."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # errors.ExitCode.INTERRUPTED; a test holds them together
NEXT = "What was done is recorded: run it again, and it goes on."


def end_at_once(*, as_json: bool, live: bool = False) -> NoReturn:
    """Say that it is over and end the process, as `kill -9` would. Straight to the descriptor: a handler may be anywhere."""
    if as_json:
        error = {"what": "interrupted", "remedy": NEXT, "exit_code": INTERRUPTED, "problems": []}
        text = json.dumps({"error": error})
    else:
        # below what moves on a terminal, whose cursor is given back
        text = f"{chr(10) if live else ''}error: interrupted\nnext: {NEXT}" + ("\x1b[?25h" if live else "")
    with suppress(OSError):  # the disk of the log is full
        os.write(2, f"{text}\n".encode())
    os._exit(INTERRUPTED)


def end_on_signals() -> None:
    """From here on SIGINT and SIGTERM end the process. For the time in which modules are loaded, and nothing is begun.

    A KeyboardInterrupt amid an import can come out as any other error, or not at all.
    """

    def end(number: int, frame: FrameType | None) -> None:
        end_at_once(as_json="--json" in sys.argv)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
