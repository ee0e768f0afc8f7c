"""Where users live: asked of the platform, and told when a user moves, through one contract (`base`).

From low to high: `base` is the contract; `sql` keeps it on a table; `asking` on questions and answers, which `http` and `command`
carry; `opening` makes the router that a spec asks for.
"""

from migrate.routing.base import FreezeLimits, Route, Router
from migrate.routing.opening import open_router

__all__ = ["FreezeLimits", "Route", "Router", "open_router"]
