"""What reaches the outside: data on stdout, progress and words for the operator on stderr, and all of it harmless.

Keys, user ids, file names and what stores answer can hold anything. `safe` makes a text that a terminal shows and does not
obey, and no text is ever read as rich's markup. rich is loaded with the first word that is printed, so that `--help` need
not pay for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from migrate.errors import UnreachableError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

PLAIN_COLUMNS = 10_000  # where nobody's window sets a width, nothing is cut or folded


def safe(text: object) -> str:
    """`text` with a backslash escape for all that is not plainly printable: control and bidi characters, odd blanks, surrogates.

    The backslash itself is doubled, so that no escape can be faked.
    """
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in str(text))


def _escape(char: str) -> str:
    short = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if short:
        return short
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def plain(value: object) -> object:
    """What `json` cannot write by itself, as text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(document: object) -> str:
    """One line of JSON in ASCII: nothing in it can be taken for a terminal's control sequence."""
    return json.dumps(document, default=plain, ensure_ascii=True)


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. Numbers stand to the right; `folds` lets a long text go on in the next line instead of being cut."""

    title: str
    number: bool = False
    folds: bool = False


class Output:
    """The two streams. `as_json`: one document on stdout instead of tables, JSON lines on stderr instead of words."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._consoles: dict[bool, Console] = {}

    # data

    def document(self, document: object) -> None:
        """The command's answer as one JSON document."""
        _write(sys.stdout, to_json(document) + "\n")

    def line(self, text: str = "", *, style: str = "") -> None:
        """A line of the answer. The text is escaped here; a command in backticks is never broken into several lines."""
        console = self._console(error=False)
        self.show(_text(_folded(safe(text), console.width), style))

    def command(self, text: str) -> None:
        """A command to copy: never broken into several lines."""
        _write(sys.stdout, f"  {safe(text)}\n")

    def show(self, *parts: RenderableType) -> None:
        """Tables and other parts of the answer."""
        from rich.text import Text

        console = self._console(error=False)
        with console.capture() as captured:
            for part in parts:
                console.print(part, soft_wrap=isinstance(part, Text))
        _write(sys.stdout, _trimmed(captured.get(), console.is_terminal))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
        """A table of the answer. A cell is a text or a rich Text; what is no rich Text is escaped."""
        if title:
            self.line(title, style="bold")
        self.show(self._table(columns, rows))

    # words for the operator

    def note(self, text: str, *, style: str = "") -> None:
        """A line on stderr, for a person: what is going on, what to do next. Escaped here. Not with `--json`."""
        if not self.as_json:
            self.note_parts(_text(_folded(safe(text), self._console(error=True).width), style))

    def note_parts(self, *parts: RenderableType) -> None:
        """Like `show`, on stderr."""
        from rich.text import Text

        console = self._console(error=True)
        with console.capture() as captured:
            for part in parts:
                console.print(part, soft_wrap=isinstance(part, Text))
        _write(sys.stderr, _trimmed(captured.get(), console.is_terminal))

    def note_error(self, what: str, problems: Iterable[str] = (), remedy: str = "") -> None:
        """An error in words: what happened, each problem on a line, and what to do next."""
        from rich.text import Text

        width = self._console(error=True).width
        lines = [_labelled("error: ", "bold red", what, width)]
        lines += [Text(_folded(f"  {safe(problem)}", width)) for problem in problems]
        if remedy:
            lines.append(_labelled("next: ", "bold", remedy, width))
        self.note_parts(*lines)

    def error(self, what: str, *, problems: Iterable[str] = (), remedy: str = "", code: int) -> None:
        """An error, in words, or as a line of JSON where that was asked for."""
        if self.as_json:
            error = {"what": what, "remedy": remedy, "exit_code": int(code), "problems": list(problems)}
            self.problem({"error": error})
        else:
            self.note_error(what, problems, remedy)

    def problem(self, document: Mapping[str, Any]) -> None:
        """An error, as JSON on stderr."""
        _write(sys.stderr, to_json(document) + "\n")

    @property
    def progress_console(self) -> Console:
        """The console for live progress, on stderr."""
        return self._console(error=True)

    @property
    def is_live(self) -> bool:
        """Whether somebody watches stderr on a terminal, so that progress may move."""
        return not self.as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """The columns of stdout; a large number where it is no terminal."""
        return self._console(error=False).width

    def _console(self, *, error: bool) -> Console:
        if error not in self._consoles:
            from rich.console import Console

            stream = sys.stderr if error else sys.stdout
            width = (
                None if stream.isatty() else PLAIN_COLUMNS
            )  # COLUMNS is a window's width, and says nothing of a pipe
            self._consoles[error] = Console(
                file=stream, stderr=error, width=width, markup=False, emoji=False, highlight=False
            )
        return self._consoles[error]

    def _table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        terminal = self._console(error=False).is_terminal
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None,
            header_style="bold",
            padding=(0, 1, 0, 0) if terminal else (0, 1),
            pad_edge=False,
            show_edge=False,
        )
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.number else "left",
                overflow="fold" if column.folds else "ellipsis",
                no_wrap=column.number or not column.folds,
            )
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(safe(cell)) for cell in row))
        return table


def _text(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _labelled(label: str, style: str, text: str, width: int) -> Text:
    found = _text(_folded(f"{label}{safe(text)}", width), "")
    found.stylize(style, 0, len(label))
    return found


def _folded(text: str, width: int) -> str:
    """A line of words, folded to `width`. What stands in backticks is a command to copy, and one word: one that is longer than a
    line stands on a line of its own, as it is to be typed, and is left to the terminal to break."""
    lines = [""]
    for blanks, word in re.findall(r"(\s*)((?:`[^`]*`|[^\s`])+|`\S*)", text):
        if len(word) > width and word[0] == "`":
            lines += [f"  {word.strip('`.,;')}", ""]
        elif lines[-1].strip() and len(lines[-1]) + len(blanks) + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += blanks + word if lines[-1] or len(lines) == 1 else word
    return "\n".join(lines if lines[-1] else lines[:-1])


def _trimmed(text: str, terminal: bool) -> str:
    """Without the blanks that fill a table's last column, where the output is for a program."""
    return text if terminal else "\n".join(line.rstrip() for line in text.split("\n"))


def _write(stream: TextIO, text: str) -> None:
    """Write and flush. Where nobody reads any more (`migrate plans | head -1`), be quiet about this and all that follows.

    UnreachableError where an answer cannot be written. What is said on stderr is lost then, and no reason to end.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        if stream is sys.stdout:
            raise UnreachableError(
                f"standard output cannot be written: {error.strerror}",
                remedy="The work is done and recorded, its answer is lost: `migrate status` shows where the plan stands.",
            ) from error


def _silence(stream: TextIO) -> None:
    """Send a stream nowhere from here on, with what is still in its buffer."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
