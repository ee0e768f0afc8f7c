"""What every adapter of routing keeps, whoever answers (design, section 6, "Routing").

A user id stands in no error here, and a token in none either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from migrate.errors import LaterError, UsageError


@dataclass(frozen=True, slots=True)
class Route:
    """Where a user lives: the site's name, and the freeze if one holds (its token and its end, UTC)."""

    home: str
    frozen_by: str | None = None
    frozen_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class FreezeLimits:
    """How long a freeze waits for writers at most, and how long it may last at most (seconds)."""

    drain_seconds: float
    freeze_seconds_max: int

    def check(self, ttl_seconds: int) -> None:
        """UsageError for a time to live that the spec does not allow."""
        if not self.drain_seconds < ttl_seconds <= self.freeze_seconds_max:
            raise UsageError(
                f"a freeze of {ttl_seconds} s: it lasts longer than {self.drain_seconds:g} s (routing.drain_seconds),"
                f" and {self.freeze_seconds_max} s at most (routing.freeze_seconds_max)"
            )


class Router(Protocol):
    """Asks and tells the platform where users live. Safe to share between threads.

    Each verb can be sent again and ends the same. LaterError says for certain that nothing was changed; after UnreachableError
    nobody knows, and the same verb is to be sent again. A token is a text that was never used before; it stands for one freeze of
    one user.
    """

    def freeze(self, user: str, token: str, ttl_seconds: int) -> None:
        """Keep the user's writers off for `ttl_seconds`, by the platform's clock, from the first of these calls on.

        Returns once the writers that began earlier have ended, or `drain_seconds` have passed. LaterError while another token's
        freeze holds, and where this token's has ended: it cannot be brought back. UsageError where the spec allows no such time.
        """
        ...

    def flip(self, user: str, token: str, home: str) -> None:
        """Make the site `home` the user's home, while the token's freeze holds; the freeze goes on.

        LaterError where it does not hold, unless this is a repetition and the route still shows the token and the home.
        """
        ...

    def unfreeze(self, user: str, token: str) -> None:
        """End the token's freeze. Nothing happens where it does not hold."""
        ...

    def read(self, user: str) -> Route:
        """The user's route as it is now."""
        ...


def frozen_by_another() -> LaterError:
    """Somebody else holds the user."""
    return LaterError(
        "another freeze of this user holds, so nothing was changed",
        remedy="It ends by itself, after routing.freeze_seconds_max at most: try again then.",
    )


def freeze_has_ended() -> LaterError:
    """The token's freeze is not there any more."""
    return LaterError(
        "this freeze of the user does not hold, so nothing was changed",
        remedy="Freeze anew, under a new token, and copy once more what has changed since.",
    )
