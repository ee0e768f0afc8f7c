"""Routes that somebody else keeps, behind a hook or a command: one question in JSON, one answer, and what it is held against.

A question has `verb`, `user` and, but for `read`, `token`; a freeze `ttl_seconds` and `drain_seconds`; a flip `home`. An answer
is the route as it is after the verb: `home`, `frozen_by` and `frozen_until`, the last two null where no freeze holds.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from migrate.errors import IntegrityError, UnreachableError
from migrate.routing.base import FreezeLimits, Route, freeze_has_ended, frozen_by_another

ANSWER_BYTES = 64 * 1024  # an answer is a few names and a time


class Transport(Protocol):
    """A way to whoever keeps the routes. `name` is what errors call it."""

    name: str

    def ask(self, question: bytes, *, changes: bool, seconds: float) -> bytes | None:
        """The answer; None where the verb was refused for certain. `seconds` comes on top of the time that an answer has.

        A question that `changes` something has its effect once, however often it is sent. UnreachableError where there was no
        answer, RefusedError where we are not let in.
        """
        ...


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a program that repeats what it is asked has not answered

    home: str
    frozen_by: str | None = None
    frozen_until: AwareDatetime | None = None


class AskingRouter:
    """A Router that asks by `transport`."""

    def __init__(self, transport: Transport, *, limits: FreezeLimits) -> None:
        self._transport = transport
        self._limits = limits

    def freeze(self, user: str, token: str, ttl_seconds: int) -> None:
        self._limits.check(ttl_seconds)
        drain_seconds = self._limits.drain_seconds
        route = self._ask(
            "freeze", user, drain_seconds, token=token, ttl_seconds=ttl_seconds, drain_seconds=drain_seconds
        )
        if route is None:
            raise frozen_by_another()
        if route.frozen_by != token:  # the answer to a question that was sent again, after the freeze
            raise freeze_has_ended()

    def flip(self, user: str, token: str, home: str) -> None:
        route = self._ask("flip", user, token=token, home=home)
        if route is None:
            raise freeze_has_ended()
        if route.home != home:
            raise self._lies("flip")

    def unfreeze(self, user: str, token: str) -> None:
        route = self._ask("unfreeze", user, token=token)
        if route is None or route.frozen_by == token:
            raise self._lies("unfreeze")

    def read(self, user: str) -> Route:
        route = self._ask("read", user)
        if route is None:
            raise self._not_agreed("read")
        return route

    def _ask(self, verb: str, user: str, seconds: float = 0, **more: Any) -> Route | None:
        question = json.dumps({"verb": verb, "user": user, **more}, sort_keys=True).encode("ascii")
        answer = self._transport.ask(question, changes=verb != "read", seconds=seconds)
        if answer is None:
            return None
        try:
            found = _Answer.model_validate_json(answer)
        except ValidationError:  # it repeats the answer, in which a user id may stand
            raise self._not_agreed(verb) from None
        return Route(found.home, found.frozen_by, found.frozen_until if found.frozen_by is not None else None)

    def _lies(self, verb: str) -> IntegrityError:
        return IntegrityError(
            f"{self._transport.name} says that {verb} succeeded, and the route in its answer says otherwise",
            remedy="Look at what it does: no user can go over by it.",
        )

    def _not_agreed(self, verb: str) -> UnreachableError:
        return UnreachableError(
            f"{self._transport.name} does not answer {verb} as agreed",
            remedy="docs/operations.md, Routing, says what an answer is.",
        )
