"""What reaches a terminal: everything is shown, nothing is obeyed."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from commands import is_harmless
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from migrate.cli.context import make_context
from migrate.cli.logs import start_logs
from migrate.cli.output import Column, Output, _folded, safe, to_json
from migrate.cli.standing import show_lags
from migrate.errors import DeniedError
from migrate.model import Role
from migrate.report.lag import WaveLag, lag_document

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from("\\nx1b[]\x1b\u202e\u2066\u200f\u2028\x85 a")
)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@given(ANY_TEXT)
@example("\x1b]8;;http://x\x1b\\link")
@example("a\u202eb\u2066c\u200f")
@example("\ud800")
def test_a_safe_text_holds_only_what_can_be_printed(text: str) -> None:
    """No control, bidi or format character, no line break and no surrogate is left."""
    assert safe(text).isprintable()
    safe(text).encode("utf-8")


@given(ANY_TEXT)
def test_a_safe_text_says_exactly_what_it_was(text: str) -> None:
    """Two different texts never look the same: the escapes can be read back."""
    raw = safe(text).encode("ascii", "backslashreplace")
    assert raw.decode("unicode_escape") == text


def test_ordinary_text_stays_as_it_is() -> None:
    """Letters of any script, marks and emoji need no escape."""
    for text in ("users/anna/photo 1.jpg", "Ærøskøbing", "你好", "😀", "[bold]a[/bold]", "%25 + ~"):
        assert safe(text) == text


@given(ANY_TEXT)
def test_json_is_plain_ascii(text: str) -> None:
    """Nothing in it can be taken for a control sequence, and it reads back as the same text."""
    line = to_json({"key": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"key": text}


def test_json_knows_the_vocabulary() -> None:
    """Enums, times, digests, paths and sets have one form each; anything else is a bug."""
    document = {"a": Role.SOURCE, "b": datetime(2026, 1, 2, tzinfo=UTC), "c": b"\x00\xff", "d": Path("x"), "e": {2, 1}}
    assert json.loads(to_json(document)) == {
        "a": "source",
        "b": "2026-01-02T00:00:00+00:00",
        "c": "00ff",
        "d": "x",
        "e": [1, 2],
    }
    with pytest.raises(TypeError):
        to_json(object())


HOSTILE = "[bold red]\x1b[2J\r\n\u202e[/] :smile: \\"


def test_a_table_shows_markup_and_control_sequences_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A cell is data, whatever it looks like."""
    Output().table([Column("key", folds=True), Column("count", number=True)], [(HOSTILE, 1)], title=HOSTILE)
    out = capsys.readouterr().out
    assert is_harmless(out)
    assert out.count(safe(HOSTILE)) == 2


def test_lines_and_notes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Also what a command says in words may hold a file's name."""
    output = Output()
    output.line(HOSTILE)
    output.note(HOSTILE)
    output.command(HOSTILE)
    output.note_error(HOSTILE, [HOSTILE], HOSTILE)
    captured = capsys.readouterr()
    assert is_harmless(captured.out)
    assert is_harmless(captured.err)
    assert captured.out.count(safe(HOSTILE)) == 2
    assert captured.err.count(safe(HOSTILE)) == 4


def test_a_table_in_a_pipe_is_plain_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No boxes, nothing cut however long, no blanks at the ends: for grep and awk. A window's COLUMNS change nothing."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "k" * 3000
    Output().table([Column("key"), Column("n", number=True), Column("why")], [(long, 1, "a"), ("b", 20, "")])
    assert capsys.readouterr().out.splitlines() == [
        "key".ljust(3000) + "   n  why",
        long + "   1  a",
        "b".ljust(3000) + "  20",
    ]


def test_a_styled_cell_keeps_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Styles are for terminals."""
    Output().table([Column("a")], [(Text("b", style="red"),)])
    assert capsys.readouterr().out == "a\nb\n"


@pytest.mark.parametrize("width", [20, 40, 80, 10_000])
def test_a_command_is_never_broken(width: int) -> None:
    """Words are folded; what stands in backticks is one word, and where it is longer than a line it stands alone, unquoted."""
    command = "migrate run abc --accept kind:1:0123456789ab"
    lines = _folded(f"next: Decide them, or accept them: `{command}`; then look with `migrate show`.", width).split(
        "\n"
    )
    assert any(command in line for line in lines)
    assert any("`migrate show`." in line for line in lines)
    if len(command) + 2 > width:
        assert f"  {command}" in lines
    assert all(len(line) <= width or line == f"  {command}" for line in lines)
    assert " ".join(" ".join(lines).split()).startswith("next: Decide them, or accept them:")


def test_an_empty_line_stays_and_blanks_before_it_do(capsys: pytest.CaptureFixture[str]) -> None:
    """What is shown as it is goes through the folding unchanged."""
    for text in ("", "  indented  twice", "a `lonely mark"):
        assert _folded(text, 80) == text


def test_with_json_no_words_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """stderr holds JSON lines alone then."""
    Output(as_json=True).note("next: something")
    assert capsys.readouterr().err == ""


def logs(capsys: pytest.CaptureFixture[str], *, debug: bool = False) -> str:
    """What stderr holds after one event with hostile values and an exception."""
    context = make_context(workspace=Path(), ledger=None, debug=debug, environment={})
    start_logs(context)
    log = structlog.get_logger()
    log.debug("quiet")
    log.info("store_opened", store="us", answer=HOSTILE, count=3)
    try:
        raise DeniedError("us", "GET", key="users/anna/secret.jpg") from ValueError("anna")
    except DeniedError:
        log.exception("failed")
    return capsys.readouterr().err


def test_a_log_line_is_one_line_with_a_time_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    """key=value, to stderr, whatever a value holds; no debug lines unless asked for."""
    first, second = logs(capsys).splitlines()
    assert first.startswith("timestamp=20")
    assert "Z level=info event=store_opened" in first
    assert is_harmless(first)
    assert "exception=DeniedError" in second


def test_a_log_names_an_exception_by_its_type_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Invariant 10: no key, no user and no traceback in a log, also not with --debug."""
    text = logs(capsys, debug=True)
    assert "event=quiet" in text
    assert "anna" not in text
    assert "Traceback" not in text


def test_libraries_do_not_log_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    """Their texts hold keys and URLs."""
    logs(capsys)
    logging.getLogger("botocore").warning("users/anna/secret.jpg")
    assert "anna" not in capsys.readouterr().err


class Terminal(io.StringIO):
    """A window as wide as COLUMNS says."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 140])
def test_the_lags_of_large_waves_fit_in_a_window(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut, at a billion copies that are years behind; a wave without a lag has a dash."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    now = datetime(2026, 11, 29, tzinfo=UTC)
    lags = [WaveLag(999, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), 1_234_567_890, 10**15), WaveLag(1000, None, 1, 1)]
    show_lags(Output(), lags, now, lambda moment: moment.isoformat(timespec="seconds"))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert [line.split() for line in lines if line[:1].isdigit()] == [
        ["999", "2522d", "20h", "2020-01-02T03:04:05+00:00", "1,234,567,890", "909", "TiB"],
        ["1000", "–", "–", "1", "1", "B"],
    ]
    document = lag_document(lags[0], now)
    assert (document["lag_seconds"], document["open_copies"]) == ((now - lags[0].seen).total_seconds(), 1_234_567_890)  # type: ignore[operator]
    assert lag_document(lags[1], now)["lag_seconds"] is None
