"""Secrets by reference: `env:NAME` and `file:PATH` become an access key or raw bytes at run time (design, invariant 10).

A secret is held in one object whose text shows nothing of it. No error here carries a secret's value, or text that it stands
in. `profile:NAME`, which needs the AWS libraries, is `stores.s3_credentials`' business.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from migrate.errors import RefusedError, SpecError

KEY_MIN_BYTES = 16  # of an HMAC key: RFC 2104 wants no less than half of the digest


@dataclass(frozen=True, slots=True)
class AccessKey:
    """S3 credentials that do not change."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def access_key(reference: str, environment: Mapping[str, str], root: Path) -> AccessKey:
    """The access key that `env:PREFIX` or `file:PATH` names. SpecError if it is not there or not whole.

    `env:PREFIX` reads PREFIX_ACCESS_KEY_ID, PREFIX_SECRET_ACCESS_KEY and, where there is one, PREFIX_SESSION_TOKEN. A file is
    TOML with access_key_id, secret_access_key and, where there is one, session_token; its path is relative to `root`.
    """
    kind, name = reference.split(":", 1)
    if kind == "env":
        values = {key: environment.get(f"{name}_{key.upper()}") for key in _PARTS}
        found = key_faults(*values.values())
        if found:
            lines = [f"{name}_{part.upper()} {what}" for part, what in found]
            raise SpecError(
                f"the environment holds no whole key: {'; '.join(lines)}",
                remedy=f"Set {name}_ACCESS_KEY_ID and {name}_SECRET_ACCESS_KEY in the environment.",
            )
    elif kind == "file":
        values = _from_toml(root / name)
    else:
        raise SpecError(f"an access key cannot be read from {kind}:", remedy="Name it by env:, profile: or file:.")
    return AccessKey(values["access_key_id"] or "", values["secret_access_key"] or "", values["session_token"] or None)


def key_faults(key_id: str | None, secret: str | None, token: str | None) -> list[tuple[str, str]]:
    """What is wrong with an access key: the part, and what, without its text. No key has blanks, not even at its ends.

    IAM User Guide, "IAM identifiers": a key id that begins with ASIA is a temporary one, and goes with a session token.
    """
    found = []
    for part, value in zip(_PARTS, (key_id, secret, token), strict=True):
        if value and not (value.isascii() and value.isprintable() and " " not in value):
            found.append((part, "holds blanks, or other letters than a key has"))
        elif not value and part != "session_token":
            found.append((part, "is missing"))
    if key_id and key_id.startswith("ASIA") and not token:
        found.append(("session_token", "is missing, and the key is a temporary one"))
    return found


def raw_key(reference: str, environment: Mapping[str, str], root: Path) -> bytes:
    """The bytes of a key that `env:NAME` or `file:PATH` holds, as `raw_secret` has them. SpecError also if they are too few."""
    key = raw_secret(reference, environment, root)
    if len(key) < KEY_MIN_BYTES:
        raise SpecError(f"the key in {reference} is shorter than {KEY_MIN_BYTES} bytes", remedy="Make a longer one.")
    return key


def raw_secret(reference: str, environment: Mapping[str, str], root: Path) -> bytes:
    """The bytes that `env:NAME` or `file:PATH` holds, without blanks around. SpecError if they are missing."""
    kind, name = reference.split(":", 1)
    if kind == "env":
        value = environment.get(name)
        if value is None:
            raise SpecError(f"the environment has no {name}", remedy="Export it.")
        secret = os.fsencode(value).strip()
    elif kind == "file":
        secret = _private_bytes(root / name).strip()
    else:
        raise SpecError(f"a secret cannot be read from {kind}:", remedy="Name it by env: or file:.")
    return secret


_PARTS = ("access_key_id", "secret_access_key", "session_token")


def _from_toml(path: Path) -> dict[str, str | None]:
    try:
        data = tomllib.loads(_private_bytes(path).decode("utf-8"))
    except ValueError:  # tomllib and the decoder name what they stumble over: it may be the secret
        raise SpecError(f"{path} is not UTF-8 TOML", remedy=f"It holds {', '.join(_PARTS[:2])}.") from None
    wrong = [key for key in data if key not in _PARTS or not isinstance(data[key], str)]
    values = {key: None if key in wrong else data.get(key) for key in _PARTS}
    found = key_faults(*values.values())
    if wrong or found:
        lines = [f"{path}: {len(wrong)} entries that do not belong there"] if wrong else []
        raise SpecError(
            f"{path} is no credentials file",
            [*lines, *(f"{path}: {part} {what}" for part, what in found)],
            remedy=f"It holds the texts {', '.join(_PARTS[:2])} and, if there is one, session_token.",
        )
    return values


def _private_bytes(path: Path) -> bytes:
    """The file's content. RefusedError if others than its owner may read it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise RefusedError(
                    f"{path} holds a secret and can be read by others than its owner", remedy=f"chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise SpecError(
            f"{path} cannot be read: {error.strerror}", remedy="Name the file that holds the secret."
        ) from error
