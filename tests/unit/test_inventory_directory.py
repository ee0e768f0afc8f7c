"""The directory: what is read from it, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventories import NOW, columns, desk, rows, whole_text, write_parquet

from migrate.errors import InputError
from migrate.inventory.files import DIRECTORY_COLUMNS
from migrate.inventory.tables import parquet_sql

SECRET = "person-4711"


def refusal(tmp_path: Path, content: bytes | None = None, **fields: Any) -> str:
    """The text of the refusal of a directory; it never holds a user id (invariant 10)."""
    if content is not None:
        (tmp_path / "users.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        desk(tmp_path).directory(**fields)
    text = whole_text(caught.value)
    assert SECRET not in text
    assert caught.value.remedy
    assert not list((tmp_path / ".migrate" / "scratch").glob("directory.parquet"))
    return text


def test_csv_with_bom_crlf_and_quotes_is_read_exactly(tmp_path: Path) -> None:
    """A BOM, CRLF line ends, quoted commas, quotes and line breaks all arrive as they were meant."""
    (tmp_path / "users.csv").write_bytes(
        b'\xef\xbb\xbf"user_id",country\r\nu2,IE\r\n"a,""b""",NO\r\n"two\r\nlines",\r\n\xc3\xa9,""\r\n'
    )
    found = desk(tmp_path).directory()
    assert found.rows == 4
    assert rows(found.glob) == [
        ('a,"b"', "NO", False, "active"),
        ("two\r\nlines", None, False, "active"),
        ("u2", "IE", False, "active"),
        ("é", None, False, "active"),
    ]
    assert columns(found.glob) == list(DIRECTORY_COLUMNS)


def test_hold_and_status_come_from_the_columns_the_spec_names(tmp_path: Path) -> None:
    """Hold is read from the words people write; an empty status is kept as empty and never becomes active."""
    (tmp_path / "users.csv").write_text(
        "uid,land,legal,state,more\na,IE,TRUE,active,x\nb,IE,no,closed,x\nc,IE,0,,x\n", encoding="utf-8"
    )
    names = {"user": "uid", "country": "land", "hold": "legal", "status": "state"}
    found = desk(tmp_path).directory(columns=names)
    assert rows(found.glob) == [
        ("a", "IE", True, "active"),
        ("b", "IE", False, "closed"),
        ("c", "IE", False, ""),
    ]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    """The same users as Parquet, in another order and with integers for ids, give the same fingerprint."""
    (tmp_path / "users.csv").write_text("user_id,country\n1,IE\n2,\n3,NO\n", encoding="utf-8")
    one = desk(tmp_path).directory()
    write_parquet(
        tmp_path / "users.parquet", "SELECT * FROM (VALUES (3, 'NO'), (1, 'IE'), (2, NULL)) t(user_id, country)"
    )
    two = desk(tmp_path).directory(path="users.parquet")
    assert one.fingerprint == two.fingerprint
    assert two.rows == 3


def test_fingerprint_sees_every_value(tmp_path: Path) -> None:
    """Another country, a NULL for a text, or one row less is another fingerprint; another order is not."""
    seen = []
    for text in ("a,IE\nb,NO\n", "a,IE\nb,SE\n", "a,IE\nb,\n", "a,IE\n", "b,NO\na,IE\n"):
        (tmp_path / "users.csv").write_text("user_id,country\n" + text, encoding="utf-8")
        seen.append(desk(tmp_path).directory().fingerprint)
    assert len(set(seen[:4])) == 4
    assert seen[4] == seen[0]


def test_directory_in_a_store_is_fetched(tmp_path: Path) -> None:
    """`store:NAME/KEY` is fetched through the door, and nothing of it but the checked result stays on scratch."""
    table = desk(tmp_path)
    table.reports.seed("lists/users 1.csv", b"user_id,country\nu,IE\n")
    found = table.directory(path="store:reports/lists/users 1.csv")
    assert rows(found.glob) == [("u", "IE", False, "active")]
    assert [path.name for path in table.scratch.iterdir()] == ["directory.parquet"]
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(table.scratch.stat().st_mode) == 0o700


def test_file_names_with_odd_characters_are_no_patterns(tmp_path: Path) -> None:
    """`[`, `*` and `'` in the file's name mean themselves."""
    (tmp_path / "it's [1]*.csv").write_text("user_id,country\nu,IE\n", encoding="utf-8")
    assert desk(tmp_path).directory(path="it's [1]*.csv").rows == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"user_id,country\n{SECRET},IE\nb,IE\n{SECRET},IE\n", "rows 1, 3: column 'user_id': the same user id"),
        (f"user_id,country\n{SECRET},IE\n{SECRET},NO\n", "rows 1, 2: column 'user_id': the same user id"),
        (f"user_id,country\n{SECRET},IE\n,NO\n", "row 2: column 'user_id': the user id is empty"),
        (
            f"user_id,country\n{SECRET},IE\n{SECRET}{'x' * 1014},NO\n",
            "row 2: column 'user_id': the user id has more than 1024 bytes",
        ),
        (f"user_id,country\n{SECRET},IE\n../{SECRET},NO\n", "row 2: column 'user_id': the user id holds a `/`"),
        (f"user_id,land\n{SECRET},IE\n", "no column 'country'; it has user_id, land"),
        (f"user_id,country,country\n{SECRET},IE,NO\n", "line 1: a column name stands twice"),
        (f"user_id;country\n{SECRET};IE\n", "no column 'user_id'; its fields are separated by semicolons"),
        (f"user_id,country\n{SECRET},IE,more\n", "line 2: 3 columns instead of 2"),
        (f'user_id,country\n"{SECRET},IE\n', "line 2: a quote that does not end"),
        (f"user_id,country\r\n{SECRET},IE\nb,NO\r\n", "line ends or quotes that are mixed"),
        (f"user_id,country\n{SECRET},IE\nb\0,NO\n", "line 3: a NUL character"),
        ("user_id,country\n", "holds no users"),
        ("", "empty"),
    ],
)
def test_directory_that_is_wrong_is_refused_with_its_place(tmp_path: Path, content: str, expected: str) -> None:
    """Invariants 4 and 10: the refusal names file and row, and never what stands there."""
    text = refusal(tmp_path, content.encode())
    assert expected in text
    assert "users.csv" in text


def test_longest_user_id_is_accepted(tmp_path: Path) -> None:
    """1,024 bytes are allowed, counted as UTF-8."""
    (tmp_path / "users.csv").write_text("user_id,country\n" + "é" * 512 + ",IE\n", encoding="utf-8")
    assert desk(tmp_path).directory().rows == 1


def test_latin_1_is_refused_with_its_line(tmp_path: Path) -> None:
    """A byte that is not UTF-8 is found wherever it stands, also across the reader's chunks and at the very end."""
    head = b"user_id,country\n" + b"".join(b"u%07d,IE\n" % number for number in range(100_000))
    assert "line 100002: not UTF-8" in refusal(tmp_path, head + SECRET.encode() + b"\xe9,IE\n")
    assert "line 100002: not UTF-8" in refusal(tmp_path, head + b"x,\xe9")
    for fill in range(4):  # an é over the border of two chunks is one character
        text = b"user_id,country\n" + b"x" * (2**20 - 17 - fill) + b"\xc3\xa9"
        assert "more than 1024 bytes" in refusal(tmp_path, text + b",IE\n")


@pytest.mark.parametrize("value", ["", "maybe", "2"])
def test_hold_that_is_neither_true_nor_false_is_refused(tmp_path: Path, value: str) -> None:
    """No hold is never guessed: a row without one is refused where the spec names the column."""
    content = f"user_id,country,hold\na,IE,true\n{SECRET},IE,{value}\n".encode()
    assert "row 2: column 'hold': neither true nor false" in refusal(tmp_path, content, columns={"hold": "hold"})


def test_many_wrong_rows_are_counted_and_five_shown(tmp_path: Path) -> None:
    """All problems are reported together, each with its first rows and the number of the others."""
    lines = "".join(f",IE,x{number}\n" for number in range(12))
    text = refusal(tmp_path, f"user_id,country,hold\n{lines}".encode(), columns={"hold": "hold"})
    assert "rows 1, 2, 3, 4, 5: column 'user_id': the user id is empty (and 7 more)" in text
    assert "rows 1, 2, 3, 4, 5: column 'hold': neither" in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT 1.5 AS user_id, 'IE' AS country", "column 'user_id' is DECIMAL(2,1) and not text"),
        ("SELECT 'a'::BLOB AS user_id, 'IE' AS country", "column 'user_id' is BLOB and not text"),
        ("SELECT 'a' AS user_id, ['IE'] AS country", "column 'country' is VARCHAR[] and not text"),
        ("SELECT 'a' AS user_id, 'IE' AS country, 1.0::DOUBLE AS hold", "column 'hold' is DOUBLE"),
        ("SELECT 'a' || chr(0) AS user_id, 'IE' AS country, true AS hold", "a NUL character"),
    ],
)
def test_parquet_of_wrong_types_is_refused(tmp_path: Path, query: str, expected: str) -> None:
    """A type that would have to be interpreted is refused with file, column and type."""
    write_parquet(tmp_path / "users.parquet", query)
    fields = {"hold": "hold"} if "hold" in query else {}
    assert expected in refusal(tmp_path, path="users.parquet", columns=fields)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    """A Parquet file that ends early is refused; whole, it is read."""
    write_parquet(
        tmp_path / "users.parquet", f"SELECT '{SECRET}' || i AS user_id, 'IE' AS country FROM range(1000) t(i)"
    )
    assert desk(tmp_path).directory(path="users.parquet").rows == 1000
    (tmp_path / ".migrate" / "scratch" / "directory.parquet").unlink()
    whole = (tmp_path / "users.parquet").read_bytes()
    (tmp_path / "users.parquet").write_bytes(whole[: len(whole) // 2])
    assert "users.parquet" in refusal(tmp_path, path="users.parquet")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_cut_csv_is_refused_with_its_last_line(tmp_path: Path, end: str) -> None:
    """Invariant 4: wherever a CSV is cut but at a line's end, it is refused; whole, it is read."""
    whole = end.join(["user_id,country", f"{SECRET},IE", "b,NO", ""]).encode()
    for size in range(1, len(whole)):
        if whole[:size].endswith(b"\n"):
            continue
        lines = whole[:size].count(b"\n") + 1
        assert f"users.csv: line {lines}: the last line has no line end" in refusal(tmp_path, whole[:size])
    (tmp_path / "users.csv").write_bytes(whole)
    assert desk(tmp_path).directory().rows == 2


def test_a_directory_without_a_user_is_refused(tmp_path: Path) -> None:
    """A header alone, in CSV or in Parquet, is no directory: everybody would stay behind."""
    assert "holds no users" in refusal(tmp_path, b"user_id,country\n")
    write_parquet(tmp_path / "users.parquet", "SELECT 'u' AS user_id, 'IE' AS country WHERE false")
    assert "holds no users" in refusal(tmp_path, path="users.parquet")


WHOLE = f"user_id,country\na,IE\n{SECRET},NO\n".encode()


def sha256sum(content: bytes, form: str = "{} *export/users.csv\n") -> bytes:
    return form.format(hashlib.sha256(content).hexdigest()).encode()


@pytest.mark.parametrize("form", ["{}  users.csv\n", "{} */srv/users.csv\r\n", "\\{}  us\\ners.csv", "{}  u\n"])
def test_a_directory_that_matches_its_checksum_is_read(tmp_path: Path, form: str) -> None:
    """In each form in which sha256sum writes a line; in a folder, and in a store."""
    table = desk(tmp_path)
    (tmp_path / "users.csv").write_bytes(WHOLE)
    (tmp_path / "users.csv.sha256").write_bytes(sha256sum(WHOLE, form))
    assert table.directory(checksummed=True).rows == 2
    table.reports.seed("u.csv", WHOLE)
    table.reports.seed("u.csv.sha256", sha256sum(WHOLE, form))
    assert table.directory(path="store:reports/u.csv", checksummed=True).rows == 2


def test_a_directory_that_was_cut_at_a_lines_end_differs_from_its_checksum(tmp_path: Path) -> None:
    """Invariant 4: the corrupted twin, in a folder and in a store. Without the key nothing can tell."""
    cut = WHOLE[: WHOLE.index(SECRET.encode())]
    table = desk(tmp_path)
    table.reports.seed("u.csv", cut)
    table.reports.seed("u.csv.sha256", sha256sum(WHOLE))
    (tmp_path / "users.csv.sha256").write_bytes(sha256sum(WHOLE))
    expected = "its SHA-256 is not the one in"
    assert f"users.csv: {expected} users.csv.sha256" in refusal(tmp_path, cut, checksummed=True)
    with pytest.raises(InputError, match=expected):
        table.directory(path="store:reports/u.csv", checksummed=True)
    assert table.directory().rows == 1


@pytest.mark.parametrize(
    ("checksum", "expected"),
    [
        (None, "users.csv.sha256: no such file"),
        (b"", "users.csv.sha256: not one line"),
        (sha256sum(WHOLE, "{}\n"), "users.csv.sha256: not one line"),
        (sha256sum(WHOLE, "SHA256 (users.csv) = {}\n"), "users.csv.sha256: not one line"),
        (sha256sum(b"", "{}  other\n") + sha256sum(WHOLE), "users.csv.sha256: not one line"),
        (sha256sum(WHOLE)[1:], "users.csv.sha256: not one line"),
    ],
)
def test_a_checksum_that_is_not_there_or_says_nothing_is_refused(
    tmp_path: Path, checksum: bytes | None, expected: str
) -> None:
    """What the spec promises must be there, in one form."""
    if checksum is not None:
        (tmp_path / "users.csv.sha256").write_bytes(checksum)
    assert expected in refusal(tmp_path, WHOLE, checksummed=True)


def test_missing_file_or_object_is_refused(tmp_path: Path) -> None:
    """What is not there is named by its place."""
    assert "users.csv: no such file" in refusal(tmp_path)
    assert "store:reports/u.csv: no such file" in refusal(tmp_path, path="store:reports/u.csv")
    assert "not a place in a store" in refusal(tmp_path, path="store:reports")
    (tmp_path / "folder").mkdir()
    assert "folder: a folder, and not a file" in refusal(tmp_path, path="folder")


@pytest.mark.parametrize("user", [f" {SECRET}", f"{SECRET} ", f"{SECRET}\t", f"\u00a0{SECRET}", f"{SECRET}\u3000", " "])
def test_a_user_id_with_a_blank_around_it_is_refused(tmp_path: Path, user: str) -> None:
    """It would be another user than the one in the keys, whose objects would be orphans. Blanks inside belong to an id."""
    text = refusal(tmp_path, f'user_id,country\n"b c",IE\n"{user}",IE\n'.encode())
    assert "users.csv: row 2: column 'user_id': the user id begins or ends with a blank" in text


def test_a_damaged_parquet_is_told_as_one(tmp_path: Path) -> None:
    """Not as CSV."""
    write_parquet(tmp_path / "users.parquet", "SELECT 'u' AS user_id, 'IE' AS country")
    whole = (tmp_path / "users.parquet").read_bytes()
    (tmp_path / "users.parquet").write_bytes(whole[: len(whole) // 2])
    text = refusal(tmp_path, path="users.parquet")
    assert "Parquet" in text
    assert "CSV" not in text
    assert "CSV" in refusal(tmp_path, b"user_id,country\na,IE,3\n")


def test_directory_has_an_age(tmp_path: Path) -> None:
    """At its maximum age it is accepted, a second later or from the future it is refused."""
    (tmp_path / "users.csv").write_text("user_id,country\nu,IE\n", encoding="utf-8")
    oldest = NOW - timedelta(hours=48)
    assert desk(tmp_path).directory(as_of=oldest).rows == 1
    (tmp_path / ".migrate" / "scratch" / "directory.parquet").unlink()
    assert "too old" in refusal(tmp_path, as_of=oldest - timedelta(seconds=1))
    assert "has not come yet" in refusal(tmp_path, as_of=NOW + timedelta(seconds=1))


_FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    users=st.lists(
        st.tuples(_FIELD.map(lambda user: f"x{user.replace('/', '|')}x"), _FIELD),
        min_size=1,
        max_size=8,
        unique_by=lambda user: user[0],
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
)
def test_whatever_python_writes_as_csv_is_read_back(
    tmp_path: Path, users: list[tuple[str, str]], line_end: str, quoting: int, bom: bool
) -> None:
    """Any text that a CSV writer can quote arrives to the character. (An id has no blank at its ends.)"""
    if any("\r" in field for user in users for field in user):
        quoting = csv.QUOTE_ALL  # Python leaves a lone CR bare
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end, quoting=quoting).writerows([("user_id", "country"), *users])
    (tmp_path / "users.csv").write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())
    found = rows(desk(tmp_path).directory().glob)
    assert [row[:2] for row in found] == sorted(users)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text('ab,"\n\r;\t ', max_size=40).map(str.encode))
def test_no_bytes_make_the_reader_raise_anything_but_an_input_error(tmp_path: Path, content: bytes) -> None:
    """Garbage behind a header is read or refused, and never another error."""
    (tmp_path / "users.csv").write_bytes(b"user_id,country\n" + content)
    try:
        found = desk(tmp_path).directory()
    except InputError:
        return
    assert found.rows == len(rows(found.glob)) > 0


def test_a_folder_named_like_a_column_changes_nothing(tmp_path: Path) -> None:
    """A lake's folder `country=IE` in the path is no column: the file says where its users live (Invariant 7)."""
    folder = tmp_path / "country=IE" / "status=closed"
    folder.mkdir(parents=True)
    path = folder / "users.parquet"
    duckdb.execute(f"COPY (SELECT 'u1' AS user_id, 'US' AS country, 'active' AS status) TO '{path}' (FORMAT parquet)")
    rows = duckdb.execute(f"SELECT country, status FROM {parquet_sql(path)}").fetchall()
    assert rows == [("US", "active")]
    believed = duckdb.execute(f"SELECT country FROM read_parquet('{path}')").fetchall()
    assert believed == [("IE",)]  # what DuckDB does by itself
