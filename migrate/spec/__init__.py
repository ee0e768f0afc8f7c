"""The spec: what an operator asks for, read from TOML once, into frozen values (`docs/spec.md` is generated from its sections).

Unknown keys are refused. All problems of keys are reported together with their place; once there are none, all between sections.
From low to high: `values` and `places` say how
one value is written, `routing` and `sections` what a spec holds, `checks` what must fit together, `loading` reads one.
"""

from migrate.spec.loading import UnknownKeyError, load_spec, parse_spec, spec_from_data
from migrate.spec.routing import CommandRouting, HttpRouting, RoutingColumns, SqlRouting
from migrate.spec.sections import (
    Copying,
    Directory,
    DirectoryColumns,
    InventorySource,
    LayoutRule,
    PlacementRule,
    Spec,
    StoreSpec,
    deciding,
    spec_time,
)
from migrate.spec.values import COUNTRY, COUNTRY_OR_ALL, NAME

__all__ = [
    "COUNTRY",
    "COUNTRY_OR_ALL",
    "NAME",
    "CommandRouting",
    "Copying",
    "Directory",
    "DirectoryColumns",
    "HttpRouting",
    "InventorySource",
    "LayoutRule",
    "PlacementRule",
    "RoutingColumns",
    "Spec",
    "SqlRouting",
    "StoreSpec",
    "UnknownKeyError",
    "deciding",
    "load_spec",
    "parse_spec",
    "spec_from_data",
    "spec_time",
]
