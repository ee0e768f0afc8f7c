"""Which waves a run and a verification take by themselves, and what keeps a wave from starting (design, sections 5 and 6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from migrate.errors import ExitCode, LaterError, WaveWaitsError
from migrate.jobs.common import parse_waves
from migrate.jobs.registered import unfinished
from migrate.ledger import Pass, WaveProgress
from migrate.model import Outcome
from migrate.states import UserState
from migrate.units import number_of

_TO_VERIFY = (UserState.PLANNED, UserState.COPIED)
_HELD_UP = (UserState.COPYING, UserState.QUARANTINED)  # once their wave is copied to its end: by drift, or for good
_NOTHING_COMES = (Outcome.QUARANTINED, Outcome.DRIFTED)


def is_to_verify(wave: WaveProgress) -> bool:
    """Whether a verification can move a user of the wave on. Who waits for drifted or quarantined copies is not moved by one,
    and who waits because sources have moved on was not moved by the last."""
    return sum(wave.users.get(state, 0) for state in _TO_VERIFY) > wave.moved_on


def _all_held_up(wave: WaveProgress) -> bool:
    """Whether the wave has users beside those who are forgotten, and none of them could go on."""
    held = sum(wave.users.get(state, 0) for state in _HELD_UP) + wave.moved_on
    return 0 < held == sum(wave.users.values()) - wave.users.get(UserState.FORGOTTEN, 0)


def choose_waves(
    name: str,
    named: str | None,
    progress: Sequence[WaveProgress],
    different: Collection[int],
    *,
    retry: bool = False,
) -> tuple[int, ...]:
    """The waves that a run of the plan `name` takes: those named, else the first that is not complete, if it may start.

    `different` are the waves of which something is known to be wrong. With `retry`, a wave that has quarantined copies is not
    complete. WaveWaitsError where the wave may not start; an empty tuple where every wave is copied.
    """
    waves = [wave for wave in progress if wave.wave is not None]
    known = [wave.wave for wave in waves if wave.wave is not None]
    chosen = parse_waves(named, known)
    if chosen is not None:
        return chosen
    for place, wave in enumerate(waves):
        if unfinished([wave]) or (retry and wave.outcomes[Outcome.QUARANTINED]):
            _demand_start(name, known[place], waves[:place], different)
            return (known[place],)
    return ()


def _demand_start(name: str, wave: int, before: Sequence[WaveProgress], different: Collection[int]) -> None:
    """WaveWaitsError unless all users before the wave are verified, or held up by what no verification mends, and nothing is
    known to be wrong before it. What was found in a later wave, which was taken by name, is no reason.

    Where the wave right before has held up everybody it came to, something is wrong that the next one would meet as well.
    """
    by_name = f"`migrate run {name} --wave {wave}`"
    to_verify = next((earlier.wave for earlier in before if is_to_verify(earlier)), None)
    is_stuck = bool(before) and _all_held_up(before[-1])
    wrong = [earlier.wave for earlier in before if earlier.wave in different]
    if wrong:
        raise WaveWaitsError(
            f"wave {wave} waits: a verification found a difference in wave {wrong[0]}",
            ExitCode.DIFFERENT,
            remedy=f"`migrate status {name} --failures` lists it; `migrate verify {name} --repair` puts what is wrong or missing"
            f" back to pending. {by_name} goes on all the same.",
        )
    if to_verify is not None:
        raise WaveWaitsError(
            f"wave {wave} waits: wave {to_verify} is not verified",
            ExitCode.LATER,
            remedy=f"`migrate verify {name}` comes first; or name the wave: {by_name}.",
        )
    if is_stuck:
        raise WaveWaitsError(
            f"wave {wave} waits: nobody of wave {before[-1].wave} could go on",
            ExitCode.INCOMPLETE,
            remedy=f"{held_up_words(name, before[-1:])} {by_name} goes on without them.",
        )


def waves_to_check(
    named: str | None, progress: Sequence[WaveProgress], different: Collection[int], opened: Sequence[Pass]
) -> tuple[int, ...]:
    """The waves that a verification takes: those named, else the copied ones that are not verified, or known to be different, or
    have users whom a cutover could take with their drifted copies, once the others were looked at.

    `opened` are the unfinished verifications of the same level and sample. One of copied waves that has all of these goes on,
    so that nothing is read twice because some of its waves are verified by now. LaterError where no wave is copied; an empty
    tuple where nothing waits.
    """
    known = [wave.wave for wave in progress if wave.wave is not None]
    chosen = parse_waves(named, known)
    if chosen is not None:
        return chosen
    copied = {wave.wave: wave for wave in progress if wave.wave is not None and not unfinished([wave])}
    if not copied:
        raise LaterError(
            "no wave is copied to its end yet",
            remedy="`migrate run` goes on; or name a wave to check what there is of it.",
        )
    wanted = {
        number for number, wave in copied.items() if number in different or is_to_verify(wave) or wave.unlooked > 0
    }
    for verification in opened:
        covered = set(known if verification.waves is None else verification.waves)
        if wanted <= covered <= copied.keys():
            return tuple(sorted(covered))
    return tuple(sorted(wanted))


def are_held_up(waves: Sequence[WaveProgress]) -> bool:
    """Whether somebody of these waves waits for what no verification mends."""
    return any(wave.moved_on or any(wave.outcomes[outcome] for outcome in _NOTHING_COMES) for wave in waves)


def held_up_words(name: str, waves: Sequence[WaveProgress]) -> str:
    """What no verification mends, and what does; nothing where everything went well."""
    sums = {outcome: sum(wave.outcomes[outcome] for wave in waves) for outcome in _NOTHING_COMES}
    bad = [f"{number_of(number, 'copy', 'copies')} {outcome}" for outcome, number in sums.items() if number]
    moved_on = sum(wave.moved_on for wave in waves)
    if moved_on:
        bad.append(f"{number_of(moved_on, 'user has', 'users have')} sources that changed since they were copied")
    if not bad:
        return ""
    ways = []
    cannot_keep = sum(wave.cannot_keep for wave in waves)
    if sums[Outcome.QUARANTINED] > cannot_keep:
        ways.append(f"`migrate run {name} --retry-quarantined` tries again")
    if cannot_keep:
        ways.append(
            f"trying again does not help {number_of(cannot_keep, 'copy', 'copies')} of which the target cannot keep all: "
            "plan with another target store, or decide otherwise in the spec's layout"
        )
    if sums[Outcome.DRIFTED] or moved_on:
        ways.append(
            f"what changed at the source is the business of `migrate delta {name}`, or of a cutover, whose last delta takes it"
        )
    return f"{' and '.join(bad)}: their users wait, `migrate status {name} --failures` says why; {'; '.join(ways)}."


def what_next(name: str, progress: Sequence[WaveProgress], different: Collection[int]) -> str:
    """How the next wave is taken, or what it waits for; nothing where all are copied."""
    try:
        waves = choose_waves(name, None, progress, different)
    except WaveWaitsError as error:
        return f"{error.what[0].upper()}{error.what[1:]}. {error.remedy}"
    return f"`migrate run {name}` takes the next wave." if waves else ""
