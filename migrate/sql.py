"""How texts and names stand in SQL for DuckDB, where a parameter cannot. One place: a second way would escape otherwise."""

from __future__ import annotations

from collections.abc import Iterable


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def canonical(columns: Iterable[tuple[str, str]]) -> str:
    """An SQL expression: a row's canonical form, of these columns with their SQL types.

    Each field is a netstring without its comma: the length in bytes, in decimal, `:`, and the bytes. NULL is a `:` alone. Text is
    UTF-8, a number is decimal, a time is a decimal count of microseconds since 1970 in UTC, bytes are lower-case hex.
    """
    parts = []
    for name, kind in columns:
        text = {
            "VARCHAR": quoted(name),
            "TIMESTAMP": f"CAST(epoch_us({quoted(name)}) AS VARCHAR)",
            "BLOB": f"lower(hex({quoted(name)}))",
        }.get(kind, f"CAST({quoted(name)} AS VARCHAR)")
        parts.append(f"strlen({text}), ':', {text}")  # concat() passes over NULL
    return f"concat({', '.join(parts)})"
