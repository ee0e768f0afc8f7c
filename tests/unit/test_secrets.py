"""Secrets by reference: what is found, what is refused, and that nothing shows them (invariant 10)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.errors import MigrateError, RefusedError, SpecError
from migrate.secrets import AccessKey, access_key, raw_key

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


def private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_an_access_key_comes_from_the_environment(tmp_path: Path) -> None:
    """PREFIX_ACCESS_KEY_ID, PREFIX_SECRET_ACCESS_KEY, and a token where there is one."""
    environment = {"US_ACCESS_KEY_ID": "id", "US_SECRET_ACCESS_KEY": SECRET}
    assert access_key("env:US", environment, tmp_path) == AccessKey("id", SECRET, None)
    environment["US_SESSION_TOKEN"] = "token"
    assert access_key("env:US", environment, tmp_path).token == "token"


def test_an_access_key_comes_from_a_private_file(tmp_path: Path) -> None:
    """TOML, from the workspace."""
    private(tmp_path / "us.toml", f'access_key_id = "id"\nsecret_access_key = "{SECRET}"\n')
    assert access_key("file:us.toml", {}, tmp_path) == AccessKey("id", SECRET, None)


@pytest.mark.parametrize(
    "text",
    [
        f'secret_access_key = "{SECRET}"\n',
        f'access_key_id = "id"\nsecret_access_key = "{SECRET}"\n"{SECRET}" = 1\n',
        f"access_key_id = {SECRET}\n",
        f'access_key_id = ["{SECRET}"]\nsecret_access_key = "x"\n',
    ],
    ids=["half", "unknown key", "no TOML", "no text"],
)
def test_a_bad_credentials_file_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    """The error names the file, and nothing that stands in it."""
    private(tmp_path / "us.toml", text)
    with pytest.raises(SpecError) as caught:
        access_key("file:us.toml", {}, tmp_path)
    assert "us.toml" in str(caught.value)
    shown = [str(caught.value), caught.value.remedy, *caught.value.problems, repr(caught.value.__cause__)]
    assert not any(SECRET in text for text in shown)


KEYS: list[tuple[dict[str, str], str]] = [
    ({"secret_access_key": ""}, "secret_access_key is missing"),
    ({"access_key_id": ""}, "access_key_id is missing"),
    ({"secret_access_key": f"{SECRET}\n"}, "secret_access_key holds blanks"),
    ({"access_key_id": " id"}, "access_key_id holds blanks"),
    ({"secret_access_key": "  "}, "secret_access_key holds blanks"),
    ({"session_token": "\t"}, "session_token holds blanks"),
    ({"secret_access_key": f"{SECRET}\u00a0"}, "secret_access_key holds blanks"),
    ({"access_key_id": "ASIAIOSFODNN7EXAMPLE"}, "session_token is missing"),
    ({"access_key_id": "ASIAIOSFODNN7EXAMPLE", "session_token": ""}, "session_token is missing"),
]


@pytest.mark.parametrize("kind", ["env", "file"])
@pytest.mark.parametrize(("change", "complaint"), KEYS, ids=[case[1] + str(number) for number, case in enumerate(KEYS)])
def test_a_key_that_is_not_whole_is_refused(tmp_path: Path, kind: str, change: dict[str, str], complaint: str) -> None:
    """An empty text, blanks, a temporary key without its token: said before a request is sent, and without the secret."""
    values = {"access_key_id": "id", "secret_access_key": SECRET, **change}
    private(tmp_path / "us.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    environment = {f"US_{key.upper()}": value for key, value in values.items()}
    with pytest.raises(SpecError) as caught:
        access_key("env:US" if kind == "env" else "file:us.toml", environment, tmp_path)
    shown = "".join([str(caught.value), *caught.value.problems])
    assert complaint in shown.replace("US_", "").lower()
    assert SECRET not in shown


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_temporary_key_with_its_token_is_whole(tmp_path: Path, kind: str) -> None:
    """The twin; and an empty token is none."""
    temporary = {"access_key_id": "ASIAIOSFODNN7EXAMPLE", "secret_access_key": SECRET, "session_token": "token"}
    for values in (temporary, {"access_key_id": "id", "secret_access_key": SECRET, "session_token": ""}):
        private(tmp_path / "us.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        environment = {f"US_{key.upper()}": value for key, value in values.items()}
        found = access_key("env:US" if kind == "env" else "file:us.toml", environment, tmp_path)
        assert (found.access_key, found.token) == (values["access_key_id"], values["session_token"] or None)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The twin of the private file."""
    path = private(tmp_path / "key", SECRET)
    path.chmod(0o640)
    for ask in (access_key, raw_key):
        with pytest.raises(RefusedError, match="others"):
            ask("file:key", {}, tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """The variable or the file, so that the operator can give it."""
    with pytest.raises(SpecError, match="US_SECRET_ACCESS_KEY"):
        access_key("env:US", {"US_ACCESS_KEY_ID": "id"}, tmp_path)
    with pytest.raises(SpecError, match="nowhere"):
        access_key("file:nowhere", {}, tmp_path)
    with pytest.raises(SpecError, match="PSEUDONYM"):
        raw_key("env:PSEUDONYM", {}, tmp_path)


def test_a_raw_key_has_a_least_length(tmp_path: Path) -> None:
    """Blanks around it are no part of it."""
    private(tmp_path / "key", "0123456789abcdef\n")
    assert raw_key("file:key", {}, tmp_path) == b"0123456789abcdef"
    assert raw_key("env:K", {"K": " 0123456789abcdef "}, tmp_path) == b"0123456789abcdef"
    with pytest.raises(SpecError, match="shorter"):
        raw_key("env:K", {"K": "short"}, tmp_path)


@pytest.mark.parametrize("ask", [access_key, raw_key])
def test_a_profile_is_not_read_here(tmp_path: Path, ask: object) -> None:
    """Only the S3 side knows profiles; a profile is no raw key at all."""
    with pytest.raises(MigrateError):
        ask("profile:p", {}, tmp_path)  # type: ignore[operator]


def test_no_text_of_a_key_shows_it() -> None:
    """Tracebacks print reprs."""
    assert SECRET not in repr(AccessKey("id", SECRET, SECRET))
