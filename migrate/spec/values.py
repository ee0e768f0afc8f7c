"""What a section is, and the kinds of values in it: how names, countries, sizes, rates, durations, shares and references are
written."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from migrate.residency import POLICY_CODES, check_code
from migrate.units import parse_duration, parse_percent, parse_rate, parse_size

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
COUNTRY = r"^[A-Z]{2}$"
COUNTRY_OR_ALL = r"^([A-Z]{2}|\*)$"
TIME_OF_DAY = r"^([01]?\d|2[0-3]):[0-5]\d$"
DECIDED = r"^(CH|GI|JE|GG|IM|SJ)$"
# What each pattern asks for, in words.
PATTERN_WORDS = {
    NAME: "a name has lower-case letters, digits and hyphens, 63 at most, and no hyphen first",
    COUNTRY: "a country is written as its code of ISO 3166-1: two capital letters, such as IE",
    COUNTRY_OR_ALL: "a country is written as its code of ISO 3166-1, two capital letters such as IE; or * for all others",
    TIME_OF_DAY: "a time of day is written HH:MM, such as 06:00",
    DECIDED: "decisions are on CH, GG, GI, IM, JE and SJ; the policy decides all other codes itself",
}
PPM_MAX = 1_000_000

Name = Annotated[str, Field(pattern=NAME)]
Country = Annotated[str, Field(pattern=COUNTRY, description="ISO 3166-1 alpha-2 code."), AfterValidator(check_code)]


class Section(BaseModel):
    """A table of a spec: frozen, and without a key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _placed(code: str) -> str:
    if code != "*" and check_code(code) not in POLICY_CODES:
        raise ValueError(f"{code} is in no list of the scope's policy: nobody who lives there moves")
    return code


PlacedCountry = Annotated[str, Field(pattern=COUNTRY_OR_ALL), AfterValidator(_placed)]


def _written(how: str) -> dict[str, Any]:
    """What the JSON Schema says of a number that people write with a unit."""
    return {"type": ["string", "integer"], "format": how}


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1, json_schema_extra=_written("size"))]
Rate = Annotated[int, BeforeValidator(parse_rate), Field(ge=1, json_schema_extra=_written("rate"))]
Seconds = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, json_schema_extra=_written("duration"))]

IS_KEPT = "is_kept"
"""In a validation's context: whether the spec is one that a plan keeps."""


def _share(value: object, info: ValidationInfo) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and (info.context or {}).get(IS_KEPT):
        return value
    ppm = parse_percent(value)
    if ppm > PPM_MAX:
        raise ValueError("a share is at most 100%")
    return ppm


# parts per million, so that nothing is decided by a float. No number without its %: 10 may be meant as 10 % or as 10 users
Ppm = Annotated[
    int,
    BeforeValidator(_share),
    Field(json_schema_extra={"type": "string", "format": "share", "pattern": r"^\s*[0-9]{1,3}(\.[0-9]{1,4})?\s*%\s*$"}),
]


def _reference(value: str) -> str:
    if not re.fullmatch(r"(env|profile|file):.+", value, re.DOTALL):
        raise ValueError("a secret is named by reference: env:NAME, profile:NAME or file:PATH")
    return value


Reference = Annotated[str, AfterValidator(_reference), Field(json_schema_extra={"format": "reference"})]
