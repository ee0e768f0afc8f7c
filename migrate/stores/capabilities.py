"""The capabilities file: what `migrate doctor` found out about a spec's stores, and planning takes as an input.

With what a store can do stands which store was asked: what was found at another place, or with another key, says nothing of this
one. JSON with a format version, private to its owner, replaced in one step.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from migrate.errors import InputError
from migrate.spec import StoreSpec
from migrate.stores.base import Capabilities

CAPABILITIES_FORMAT = 3
_REMEDY = "`migrate doctor SPEC` writes it anew."
_NAMES = frozenset(field.name for field in fields(Capabilities))
_ASKED = ("url", "endpoint", "region", "kms_key", "role")


def load_capabilities(path: Path, stores: Mapping[str, StoreSpec]) -> dict[str, Capabilities]:
    """What the file says of the spec's `stores`, by name: of those that are as they were when they were probed.

    Nothing where there is no file. InputError where it cannot be trusted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy=_REMEDY) from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}", remedy=_REMEDY) from error
    if not isinstance(document, dict) or not isinstance(document.get("stores"), dict):
        raise InputError(f"{path} is no capabilities file", remedy=_REMEDY)
    if document.get("format") != CAPABILITIES_FORMAT:
        raise InputError(
            f"{path} has the format {document.get('format')!r}, and this version reads {CAPABILITIES_FORMAT}",
            remedy=_REMEDY,
        )
    problems = [f"{path}: {line}" for name, found in document["stores"].items() for line in _problems(name, found)]
    if problems:
        raise InputError(f"{path} is no capabilities file", problems, remedy=_REMEDY)
    return {
        name: Capabilities(**found["able"])
        for name, found in document["stores"].items()
        if name in stores and found["asked"] == _asked(stores[name])
    }


def save_capabilities(path: Path, stores: Mapping[str, StoreSpec], capabilities: Mapping[str, Capabilities]) -> None:
    """Write the file by one rename; its folder must exist. Readable by the owner alone."""
    document = {
        "format": CAPABILITIES_FORMAT,
        "stores": {
            name: {"asked": _asked(stores[name]), "able": asdict(capabilities[name])} for name in sorted(capabilities)
        },
    }
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _asked(store: StoreSpec) -> dict[str, str | None]:
    """What of a store decides what it was found to do. Its credentials may change."""
    return store.model_dump(mode="json", include=set(_ASKED))


def _problems(name: str, found: object) -> list[str]:
    if not isinstance(found, dict) or not all(isinstance(found.get(key), dict) for key in ("asked", "able")):
        return [f"{name}: not which store was asked, and what it can do"]
    able = found["able"]
    unknown = [f"{name}: unknown capability {key!r}" for key in sorted(able.keys() - _NAMES)]
    missing = [f"{name}: {key} is missing" for key in sorted(_NAMES - able.keys())]
    wrong = [f"{name}: {key} is neither true nor false" for key in sorted(able) if not isinstance(able[key], bool)]
    return unknown + missing + wrong
