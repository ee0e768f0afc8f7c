"""Large objects over plain HTTP, through a network that bends bits: what the source's ETag or a receipt proves is read once, and
only where the proof does not come out are the parts read again.

Every store is on a real server, behind `FaultProxy`; the objects have three parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from faults import CALM, MILLION, Asked, Fault, FaultProxy, Weather, lying_network
from moving import MIB, NOW, QUICK, PartedRun, now
from servers import S3Server

from migrate.model import (
    Category,
    CopyResult,
    Evidence,
    Level,
    Outcome,
    PlannedCopy,
    PlannedObject,
    Receipt,
    TargetRole,
    Verdict,
)
from migrate.stores.memory import ALL_CAPABILITIES
from migrate.stores.s3 import S3Store
from migrate.stores.s3_sign import S3Credentials
from migrate.transfer.caller import Caller
from migrate.transfer.parted import PartedCopy
from migrate.verify import PartedCheck

BODY = b"".join(bytes([number]) * MIB for number in range(11))
PARTS = [(0, 5), (5, 10), (10, 11)]  # in MiB
SENT = [hashlib.sha256(BODY[start * MIB : end * MIB]).digest() for start, end in PARTS]
STORES = ("us", "home", "backup")
PROOFS = {"composite": Evidence.COMPOSITE, "plain": Evidence.MD5}


@dataclass(frozen=True, slots=True)
class Wire:
    """A source and two targets behind a network that is calm for now."""

    network: FaultProxy
    client: Any
    buckets: dict[str, str]
    caller: Caller

    def seed(self, kind: str) -> PlannedObject:
        """The source's object: `composite` and `uneven` in parts (`uneven` in such as nobody guesses), `plain` in one PUT."""
        place = {"Bucket": self.buckets["us"], "Key": "big"}
        if kind == "plain":
            self.client.put_object(**place, Body=BODY, ContentType="video/mp4")
        else:
            upload = self.client.create_multipart_upload(**place, ContentType="video/mp4")["UploadId"]
            cuts = PARTS if kind == "composite" else [(0, 6), (6, 11)]
            parts = []
            for number, (start, end) in enumerate(cuts, 1):
                body = BODY[start * MIB : end * MIB]
                etag = self.client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)["ETag"]
                parts.append({"ETag": etag, "PartNumber": number})
            self.client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        return PlannedObject(
            user_id="u1",
            store="us",
            key="big",
            version_id=None,
            etag=self.client.head_object(**place)["ETag"].strip('"'),
            size=len(BODY),
            last_modified=NOW,
            category=Category.RESTRICTED,
            rule="films",
            target_key="big",
            flag=None,
            copies=(PlannedCopy(0, TargetRole.HOME, "home"), PlannedCopy(1, TargetRole.BACKUP, "backup")),
        )

    def seed_target(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.buckets[name], Key="big", Body=body, ContentType="video/mp4")

    def parted(self, planned: PlannedObject, run: PartedRun) -> PartedCopy:
        return PartedCopy(
            planned, planned.copies, run.known(), {}, caller=self.caller, configured_part_bytes=5 * MIB, now=now
        )

    def copy(self, planned: PlannedObject, run: PartedRun | None = None) -> list[CopyResult]:
        run = run or PartedRun()
        return sorted(run.drive(self.parted(planned, run)), key=lambda result: result.ordinal)

    def check(self, planned: PlannedObject, receipts: dict[int, Receipt], level: Level) -> list[Verdict]:
        check = PartedCheck(planned, receipts, level, self.caller)
        check.look()
        while jobs := check.parts():
            for job in jobs:
                job()
                check.take_part()
        return [result.verdict for result in check.judge()]

    def bodies(self) -> list[bytes | None]:
        """What the targets hold."""
        held: list[bytes | None] = []
        for name in ("home", "backup"):
            keys = [item["Key"] for item in self.client.list_objects_v2(Bucket=self.buckets[name]).get("Contents", ())]
            found = self.client.get_object(Bucket=self.buckets[name], Key="big")["Body"].read() if keys else None
            held.append(found)
        return held

    def uploads(self) -> int:
        return sum(
            len(self.client.list_multipart_uploads(Bucket=self.buckets[name]).get("Uploads", ()))
            for name in ("home", "backup")
        )

    def reads(self) -> Counter[str]:
        """How many bodies were read since this was asked last, by store."""
        seen, names = list(self.network.seen), {bucket: name for name, bucket in self.buckets.items()}
        self.network.seen.clear()
        return Counter(
            names[each.target.split("/")[1]]
            for each in seen
            if each.method == "GET" and each.target.endswith("/big") and each.status < 300
        )


@pytest.fixture
def wire(moto_server: S3Server) -> Iterator[Wire]:
    client = cast("Any", moto_server.boto3())
    buckets = {name: f"{name}-{uuid.uuid4().hex[:12]}" for name in STORES}
    for bucket in buckets.values():
        client.create_bucket(Bucket=bucket)
    with lying_network(moto_server.endpoint) as network, contextlib.ExitStack() as stack:

        def opened(name: str) -> S3Store:
            store = S3Store(
                name,
                buckets[name],
                "",
                endpoint=network.endpoint,
                region=moto_server.region,
                credentials=S3Credentials(moto_server.access_key, moto_server.secret_key),
                capabilities=ALL_CAPABILITIES,
                writable=name != "us",
                timeout=30,
                concurrency=4,
            )
            stack.callback(store.close)
            assert not store.guarded
            return store

        yield Wire(network, client, buckets, Caller(opened, concurrency=lambda name: 4, retry=QUICK))


def of_part(name: str, number: int) -> Callable[[Asked], bool]:
    """The GETs of this part at the store `name`."""
    return lambda asked: asked.store == name and asked.range.startswith(f"bytes={PARTS[number - 1][0] * MIB}-")


def at(name: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.store == name


def bent_once(hits: Callable[[Asked], bool]) -> Weather:
    return Weather((Fault.FLIPPED_READ,), MILLION, hits=hits, only_first=True)


def bent_always(hits: Callable[[Asked], bool]) -> Weather:
    return Weather((Fault.FLIPPED_READ,), MILLION, hits=hits)


def assert_copied(wire: Wire, results: list[CopyResult], evidence: Evidence) -> None:
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert [result.receipt.evidence for result in results if result.receipt] == [evidence] * 2
    assert [body == BODY for body in wire.bodies()] == [True, True]
    assert wire.uploads() == 0


# copying


@pytest.mark.parametrize("kind", PROOFS)
def test_a_copy_that_is_proven_reads_each_part_once(kind: str, wire: Wire) -> None:
    """The source's ETag proves the whole, so that nothing has to be read twice."""
    planned = wire.seed(kind)
    wire.network.seen.clear()
    assert_copied(wire, wire.copy(planned), PROOFS[kind])
    assert wire.reads() == {"us": 3}


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_that_was_bent_once_is_read_and_sent_again(kind: str, number: int, wire: Wire) -> None:
    """The proof does not come out; every part is read again, the wrong one sent again, and then it does (Invariant 1)."""
    planned = wire.seed(kind)
    wire.network.weather = bent_once(of_part("us", number))
    run = PartedRun()
    assert_copied(wire, wire.copy(planned, run), PROOFS[kind])
    assert wire.network.injected[Fault.FLIPPED_READ] == 1
    # what the ledger is told of is what was joined
    assert [[parts[each].sha256 for each in sorted(parts)] for parts in run.parts.values()] == [SENT] * 2


@pytest.mark.parametrize("kind", [*PROOFS, "uneven"])
def test_a_part_that_is_always_bent_leaves_no_receipt(kind: str, wire: Wire) -> None:
    """No two reads agree: quarantined, and nothing stays at the targets (Invariant 1)."""
    planned = wire.seed(kind)
    wire.network.weather = bent_always(of_part("us", 1))
    results = wire.copy(planned)
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, "corrupt_body")}
    assert (wire.bodies(), wire.uploads()) == ([None, None], 0)


@pytest.mark.parametrize("is_bent", [False, True])
def test_what_cannot_be_proven_is_read_twice(is_bent: bool, wire: Wire) -> None:
    """The source's parts have another size than was guessed: nothing but a second read shows what they are (Invariant 1)."""
    planned = wire.seed("uneven")
    wire.network.weather = bent_once(of_part("us", 1)) if is_bent else CALM
    wire.network.seen.clear()
    assert_copied(wire, wire.copy(planned), Evidence.LENGTH)
    # ours are two of 8 MiB; of the bent one, two more reads agree
    assert wire.reads() == {"us": 5 if is_bent else 4}


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize("jobs", range(1, 7))
def test_a_copy_that_is_killed_with_a_bent_part_ends_right(kind: str, jobs: int, wire: Wire) -> None:
    """After any part, of the first reading or the second: the ledger may have the bent part, and the next life finds it out."""
    planned = wire.seed(kind)
    wire.network.weather = bent_once(of_part("us", 1))
    run = PartedRun()
    assert run.drive(wire.parted(planned, run), stop_after_parts=jobs) == []
    assert_copied(wire, wire.copy(planned, run), PROOFS[kind])


@pytest.mark.parametrize("number", [1, 3])
def test_a_bent_read_calls_no_equal_object_another_one(number: int, wire: Wire) -> None:
    """One target has the object, under an ETag that does not say so: it is present, the other is copied (Invariant 2)."""
    planned = wire.seed("composite")
    wire.seed_target("home", BODY)
    wire.network.weather = bent_once(of_part("us", number))
    results = wire.copy(planned)
    assert [(result.outcome, result.reason) for result in results] == [(Outcome.PRESENT, None), (Outcome.COPIED, None)]
    assert [result.receipt.evidence for result in results if result.receipt] == [Evidence.COMPOSITE] * 2
    assert [body == BODY for body in wire.bodies()] == [True, True]


def test_an_object_that_is_compared_is_read_once_and_a_different_one_left_alone(wire: Wire) -> None:
    """The true twin of the bent read; a part that differs is read until two reads agree, and no others (Invariant 2)."""
    planned = wire.seed("composite")
    other = BODY[:-1] + b"!"
    for name, body in (("home", BODY), ("backup", other)):
        wire.seed_target(name, body)
    wire.network.seen.clear()
    results = wire.copy(planned)
    assert [(result.outcome, result.reason) for result in results] == [
        (Outcome.PRESENT, None),
        (Outcome.QUARANTINED, "occupied"),
    ]
    assert wire.reads()["us"] == 3 + 2
    assert wire.bodies() == [BODY, other]


def test_without_a_proof_a_bent_part_would_be_copied(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector's twin: where all is called proven, the bent part is joined and has a receipt."""
    monkeypatch.setattr(PartedCopy, "_is_proven", lambda parted: True)
    planned = wire.seed("composite")
    wire.network.weather = bent_once(of_part("us", 2))
    assert [result.outcome for result in wire.copy(planned)] == [Outcome.COPIED] * 2
    assert [body == BODY for body in wire.bodies()] == [False, False]


# verifying


LEVELS = [Level.CONTENT, Level.BOTH_ENDS]


@pytest.fixture
def copied(wire: Wire) -> tuple[PlannedObject, dict[int, Receipt]]:
    planned = wire.seed("composite")
    receipts = {result.ordinal: result.receipt for result in wire.copy(planned) if result.receipt is not None}
    assert len(receipts) == 2
    wire.network.seen.clear()
    return planned, receipts


@pytest.mark.parametrize("level", LEVELS)
def test_a_check_reads_each_part_of_each_end_once(level: Level, wire: Wire, copied: Any) -> None:
    """The receipt's digest shows that no network bent what was read."""
    assert wire.check(*copied, level) == [Verdict.MATCH] * 2
    assert wire.reads() == {name: 3 for name in STORES if name != "us" or level is Level.BOTH_ENDS}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("name", "number"), [("us", 1), ("home", 1), ("home", 2), ("backup", 3)])
def test_a_part_that_was_bent_once_makes_no_difference(
    level: Level, name: str, number: int, wire: Wire, copied: Any
) -> None:
    """The end is read again, and a match all the same; no other end is (Invariant 9)."""
    wire.network.weather = bent_once(of_part(name, number))
    assert wire.check(*copied, level) == [Verdict.MATCH] * 2
    ends = [each for each in STORES if each != "us" or level is Level.BOTH_ENDS]
    # the second read of the bent part does not agree with the first one, and takes a third
    assert wire.reads() == dict.fromkeys(ends, 3) | ({name: 7} if name in ends else {})


def test_without_its_doubt_a_check_would_call_a_bent_part_different(
    wire: Wire, copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector's twin: what is bent once is a mismatch where nobody asks again."""
    monkeypatch.setattr(PartedCheck, "_is_in_doubt", lambda check, end: False)
    wire.network.weather = bent_once(of_part("home", 2))
    assert wire.check(*copied, Level.CONTENT) == [Verdict.MISMATCH, Verdict.MATCH]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("byte", [0, len(BODY) - 1])
def test_what_differs_is_told_after_two_reads(level: Level, byte: int, wire: Wire, copied: Any) -> None:
    """The corrupted twin: the target has another byte (Invariant 8)."""
    wire.seed_target("home", BODY[:byte] + b"!" + BODY[byte + 1 :])
    assert wire.check(*copied, level) == [Verdict.MISMATCH, Verdict.MATCH]
    assert (wire.reads()["home"], wire.reads()["backup"]) == (6, 0)


@pytest.mark.parametrize("level", LEVELS)
def test_an_end_that_is_always_bent_is_unknown(level: Level, wire: Wire, copied: Any) -> None:
    """Neither a match nor a difference (Invariant 9)."""
    wire.network.weather = bent_always(at("home"))
    assert wire.check(*copied, level) == [Verdict.UNKNOWN, Verdict.MATCH]
    wire.network.weather = bent_always(at("us"))
    expected = Verdict.UNKNOWN if level is Level.BOTH_ENDS else Verdict.MATCH
    assert wire.check(*copied, level) == [expected] * 2
