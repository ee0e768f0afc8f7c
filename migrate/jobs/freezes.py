"""What every way between two homes does with the platform's freeze: watch its time, end it, and read what the platform has."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial

from migrate.errors import LaterError, UnreachableError
from migrate.jobs.steps import Way
from migrate.routing import Route, Router

_READ_AGAIN_SECONDS = 1.0


def end_freeze(router: Router, user_id: str, token: str, freeze_seconds: int) -> Way[Route]:
    """End the token's freeze, and read the route once it has ended. UnreachableError where neither can be had in a freeze's
    longest time: then the freeze has ended by itself, and nobody knows the home."""
    until = time.monotonic() + freeze_seconds
    while True:
        try:
            yield [partial(router.unfreeze, user_id, token)]
            (route,) = yield [partial(router.read, user_id)]
            assert isinstance(route, Route), "a router reads routes"
        except (UnreachableError, LaterError):
            if time.monotonic() >= until:
                raise
        else:
            if route.frozen_by != token:
                return route
            if time.monotonic() >= until:
                raise UnreachableError(
                    "the platform says that it has ended a freeze, and shows it all the same",
                    remedy="Ask `migrate doctor` about the routing; a freeze ends by itself.",
                )
        yield [partial(time.sleep, _READ_AGAIN_SECONDS)]


def frozen_ms(frozen_at: datetime, now: datetime, freeze_seconds: int) -> int:
    """How long a freeze of an earlier process has lasted, in milliseconds: by two readings of this machine's clock, and no longer
    than a freeze lasts."""
    since = (now - frozen_at).total_seconds() * 1000
    return round(min(max(since, 0), freeze_seconds * 1000))


def note_of(error: Exception) -> str:
    """For a user's history: the kind of an error, without its text, in which a key may stand."""
    return type(error).__name__
