"""What every way between two homes does with the platform's freeze: begin it, watch its time, end it, and read what the platform
has; and how requests are tried meanwhile."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from functools import partial

from migrate.errors import InterruptedRun, LaterError, UnreachableError
from migrate.jobs.steps import Way
from migrate.routing import Route, Router
from migrate.spec import Spec
from migrate.transfer.caller import RetryPolicy

_READ_AGAIN_SECONDS = 1.0


def retry_in_a_freeze(spec: Spec) -> RetryPolicy:
    """What waits is short, and what changes something at a store is sent once: where its answer is lost nobody is flipped, since
    it could land on what the user writes afterwards (invariant 2)."""
    return RetryPolicy(attempts=4, timeout_seconds=spec.routing.freeze_seconds_max / 3, changes_once=True)


def begin_freeze(router: Router, user_id: str, token: str, freeze_seconds: int, home: str) -> Way[None]:
    """Freeze the user, and demand that they live at `home`, where the gate saw them. LaterError where they do not: somebody else
    has moved them meanwhile, and they have written elsewhere."""
    yield [partial(router.freeze, user_id, token, freeze_seconds)]
    (route,) = yield [partial(router.read, user_id)]
    if route.home != home:
        raise LaterError("somebody else has moved the user since the gate")


def end_freeze(router: Router, user_id: str, token: str, freeze_seconds: int) -> Way[Route]:
    """End the token's freeze, and read the route once it has ended. UnreachableError where neither can be had in a freeze's
    longest time: then the freeze has ended by itself, and nobody knows the home.

    A stop whose grace is over amid this is no reason to leave it: it is tried in the time that is left (`steps.side_by_side`)."""
    until = time.monotonic() + freeze_seconds
    while True:
        try:
            yield [partial(router.unfreeze, user_id, token)]
            (route,) = yield [partial(router.read, user_id)]
            assert isinstance(route, Route), "a router reads routes"
        except InterruptedRun:
            continue
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
        with suppress(InterruptedRun):
            yield [partial(time.sleep, _READ_AGAIN_SECONDS)]


def frozen_ms(frozen_at: datetime, now: datetime, freeze_seconds: int) -> int:
    """How long a freeze of an earlier process has lasted, in milliseconds: by two readings of this machine's clock, and no longer
    than a freeze lasts."""
    since = (now - frozen_at).total_seconds() * 1000
    return round(min(max(since, 0), freeze_seconds * 1000))


def note_of(error: Exception) -> str:
    """For a user's history: the kind of an error, without its text, in which a key may stand."""
    return type(error).__name__
