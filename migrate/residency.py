"""Who moves: the scope policy, from a country of residence to a verdict and the rule that gave it. Pure.

The policy `eea-uk-1` is 38 codes: the EU's 27 members, the EEA's other three, the United Kingdom, and the EU territories that
have ISO codes of their own (TEU Article 52, TFEU Article 355: outermost regions and the Åland Islands). Six codes stand near
the line (Switzerland, Gibraltar, the Crown Dependencies, Svalbard) and need a written decision. A code that ISO does not know
puts the user in review, never silently out of scope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

POLICY = "eea-uk-1"


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


EU = _codes("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK")
EEA = _codes("IS LI NO")
UNITED_KINGDOM = frozenset({"GB"})
EU_TERRITORIES = _codes("AX GF GP MF MQ RE YT")
UNDECIDED = _codes("CH GG GI IM JE SJ")
# Greece and the United Kingdom as the EU's institutions write them (Interinstitutional Style Guide, section 7.1.1).
ALIASES = {"EL": "GR", "UK": "GB"}

# ISO 3166-1 alpha-2, officially assigned codes (ISO Online Browsing Platform, 249 codes).
ISO_COUNTRIES = _codes(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
    LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
    SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """
)

# What the policy speaks of: who moves, and who moves if it is decided so.
POLICY_CODES = EU | EEA | UNITED_KINGDOM | EU_TERRITORIES | UNDECIDED

_LOWER = "abcdefghijklmnopqrstuvwxyz"
_FOLD = str.maketrans(_LOWER, _LOWER.upper())


class Verdict(StrEnum):
    """What the policy says of a country. `undecided` stops planning."""

    IN = "in"
    OUT = "out"
    REVIEW = "review"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class ScopeDecision:
    """`country` is the ISO code, or empty where what was given is none; `rule` names the policy, its version and the list."""

    country: str
    verdict: Verdict
    rule: str


def check_code(code: str) -> str:
    """A country's code as it was given. ValueError for one that ISO 3166-1 has not assigned, with the one that is meant."""
    if code in ALIASES:
        raise ValueError(f"{code} is no code of ISO 3166-1: write {ALIASES[code]}")
    if code not in ISO_COUNTRIES:
        raise ValueError(f"{code!r} is no country's code of ISO 3166-1")
    return code


def fold(country_given: str | None) -> str:
    """Upper case for ASCII letters alone: no other letter may turn into one of a country's."""
    return (country_given or "").translate(_FOLD)


FOLD_SQL = f"translate(coalesce(country_given, ''), '{_LOWER}', '{_LOWER.upper()}')"


def decide_scope(country_given: str | None, decisions: Mapping[str, str]) -> ScopeDecision:
    """The verdict for one user's country of residence, with the spec's `decisions` on the six codes."""
    folded = fold(country_given)
    code = ALIASES.get(folded, folded)
    for codes, name in ((EU, "eu"), (EEA, "eea"), (UNITED_KINGDOM, "uk"), (EU_TERRITORIES, "eu-territory")):
        if code in codes:
            return ScopeDecision(code, Verdict.IN, f"{POLICY}/{name}")
    if code in UNDECIDED:
        if code in decisions:
            return ScopeDecision(code, Verdict(decisions[code]), f"{POLICY}/decision-{code.lower()}")
        return ScopeDecision(code, Verdict.UNDECIDED, f"{POLICY}/undecided")
    if code in ISO_COUNTRIES:
        return ScopeDecision(code, Verdict.OUT, f"{POLICY}/outside")
    return ScopeDecision("", Verdict.REVIEW, f"{POLICY}/{'unknown' if code else 'no-country'}")


def scope_table(decisions: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """The policy as rows for SQL: folded code, country, verdict, rule. A code that is not in it is decided as `unknown` is."""
    table = []
    for code in sorted(ISO_COUNTRIES | ALIASES.keys() | {""}):
        decision = decide_scope(code, decisions)
        table.append((code, decision.country, decision.verdict.value, decision.rule))
    return table


UNKNOWN = decide_scope("??", {})
