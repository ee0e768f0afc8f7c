"""Pseudonyms: the same everywhere, short, and with a key that is made once."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from migrate.errors import UsageError
from migrate.privacy import PSEUDONYM_HEX_DIGITS, Pseudonyms, make_key
from migrate.secrets import raw_key


def test_a_pseudonym_is_an_hmac_of_the_id() -> None:
    """Anyone with the key can find a user's lines again; the form is fixed."""
    message = b"4:user,4:u-42,"
    wanted = hmac.new(b"k" * 32, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX_DIGITS]
    assert Pseudonyms(b"k" * 32).user("u-42") == wanted


def test_kinds_stores_and_keys_have_their_own() -> None:
    """A key that reads like a user's id gets another pseudonym; so does the same key in another store."""
    names = Pseudonyms(b"k" * 32)
    found = {
        names.user("a"),
        names.object_key("us", "a"),
        names.object_key("u", "sa"),
        names.object_key("sg", "a"),
        Pseudonyms(b"l" * 32).user("a"),
    }
    assert len(found) == 5


def test_every_text_has_a_pseudonym() -> None:
    """Also a file name that is no UTF-8."""
    assert len(Pseudonyms(b"k" * 32).object_key("us", "caf\udce9")) == PSEUDONYM_HEX_DIGITS


def test_the_key_is_not_shown() -> None:
    """Invariant 10."""
    assert "kkkk" not in repr(Pseudonyms(b"k" * 32))


def test_a_made_key_serves_and_is_private(tmp_path: Path) -> None:
    """What `migrate init` writes can be referenced at once."""
    path = tmp_path / "pseudonym.key"
    make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(raw_key("file:pseudonym.key", {}, tmp_path)) == 64


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    """Nor written through a link."""
    path = tmp_path / "pseudonym.key"
    make_key(path)
    before = path.read_bytes()
    with pytest.raises(UsageError):
        make_key(path)
    assert path.read_bytes() == before
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        make_key(link)
    assert not (tmp_path / "elsewhere").exists()
