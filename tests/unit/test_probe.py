"""What doctor asks of a store, on servers in memory that can do more or less: each ability is found, and each lack of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import DeniedError, ExitCode, InterruptedRun, TransientStoreError
from migrate.model import Attributes, Role
from migrate.stores.base import Capabilities, PutResult
from migrate.stores.file import FILE_CAPABILITIES, FileStore
from migrate.stores.keys import ODD_KEYS
from migrate.stores.memory import ALL_CAPABILITIES, MemoryPlace, MemoryStore
from migrate.stores.probe import Check, CheckStatus, LocalQuestions, ProbeReport, Refusals, StoreDetails, probe
from migrate.stores.probe_checks import Encrypted

READS = {"list", "head", "get", "read", "get_tags", "list_versions", "list_uploads"}


def as_any_other(store: MemoryStore, key: str, body: bytes, attributes: Attributes, create_only: bool) -> PutResult:
    return store.put(
        key,
        body,
        attributes=attributes,
        tags={},
        md5=hashlib.md5(body, usedforsecurity=False).digest(),
        create_only=create_only,
    )


@dataclass
class Answers:
    """Questions with answers that a test gives."""

    said: StoreDetails | None
    refused: Refusals = field(default=Refusals(md5=True, sha256=True))
    small: Callable[[MemoryStore, str, bytes, Attributes, bool], PutResult | None] = as_any_other
    store: MemoryStore | None = None
    encrypted: Encrypted | None = None

    def details(self, clock: Callable[[], datetime]) -> StoreDetails | None:
        return self.said

    def refusals(self, key: str) -> Refusals:
        return self.refused

    def put_small(
        self, key: str, body: bytes, attributes: Attributes, *, create_only: bool = False
    ) -> PutResult | None:
        assert self.store is not None
        return self.small(self.store, key, body, attributes, create_only)

    def put_encrypted(self, key: str, body: bytes) -> Encrypted | None:
        if self.encrypted is not None:
            assert self.store is not None
            self.store.place.seed(key, body, encryption=self.encrypted.algorithm)
        return self.encrypted


GOOD = Answers(StoreDetails("eu-west-1", True, 0.2, versioning=True, object_lock=False))
NEVER_LOCKED = replace(ALL_CAPABILITIES, object_lock=False)


NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TRIAL = ".migrate-probe/20261124T120000Z-t/"


def target(place: MemoryPlace, questions: Any = GOOD, **options: Any) -> ProbeReport:
    store = MemoryStore("dublin", place)
    if isinstance(questions, Answers):
        questions = replace(questions, store=store)
    return probe(store, Role.TARGET, questions, country="IE", clock=lambda: NOW, token=lambda: "t", **options)


def named(report: ProbeReport, name: str) -> Check:
    [check] = [check for check in report.checks if check.name == name]
    return check


def test_a_good_target_has_every_capability() -> None:
    """And nothing to mend."""
    report = target(MemoryPlace())
    assert report.capabilities == NEVER_LOCKED
    assert {check.status for check in report.checks} == {CheckStatus.OK}
    assert report.exit is ExitCode.DONE


@pytest.mark.parametrize(
    ("lack", "check"),
    [
        ("conditional_put", "conditional PUT"),
        ("tags", "tags"),
        ("metadata", "user metadata"),
        ("multipart", "multipart"),
        *((kind, "odd keys") for kind in ODD_KEYS),
    ],
)
def test_what_a_target_cannot_do_is_found(lack: str, check: str) -> None:
    """The corrupted twins: one ability less in the server, one less in the report, with what that means."""
    report = target(MemoryPlace(able=replace(ALL_CAPABILITIES, **{lack: False})))
    missing = {field.name for field in fields(Capabilities) if not getattr(report.capabilities, field.name)}
    assert missing == {lack, "object_lock"}
    found = named(report, check)
    assert (found.status, bool(found.fix)) == (CheckStatus.WARN, True)
    assert lack not in ODD_KEYS or lack.replace("_", " ") in found.finding
    assert report.exit is ExitCode.DONE


def test_what_the_tool_makes_up_for_is_told_and_no_warning() -> None:
    """An ETag that is no MD5 needs nothing of the operator: warnings are for what somebody can mend."""
    report = target(MemoryPlace(able=replace(ALL_CAPABILITIES, etag_is_md5=False)))
    missing = {field.name for field in fields(Capabilities) if not getattr(report.capabilities, field.name)}
    assert missing == {"etag_is_md5", "small_put", "object_lock"}
    assert "is not the MD5" in named(report, "ETag").finding
    assert {check.status for check in report.checks} == {CheckStatus.OK}


def test_a_server_that_takes_wrong_bytes_is_found() -> None:
    """By what lies there afterwards, not by its answer."""
    place = MemoryPlace(able=replace(ALL_CAPABILITIES, refuses_wrong_md5=False))
    store = MemoryStore("dublin", place)
    assert LocalQuestions(store).refusals("k") == Refusals(md5=False, sha256=False)
    report = target(MemoryPlace(), Answers(GOOD.said, Refusals(md5=False, sha256=False)))
    assert not report.capabilities.refuses_wrong_md5
    assert "is not refused" in named(report, "wrong MD5").finding


def without(change: Callable[[Attributes], Attributes]) -> Callable[..., PutResult]:
    return lambda store, key, body, attributes, create_only: as_any_other(
        store, key, body, change(attributes), create_only
    )


def denied(store: MemoryStore, key: str, body: bytes, attributes: Attributes, create_only: bool) -> PutResult:
    raise DeniedError(store.name, "put", key=key)


@pytest.mark.parametrize(
    "small",
    [
        without(lambda attributes: replace(attributes, metadata=())),
        without(lambda attributes: replace(attributes, content_type=None)),
        lambda store, key, body, attributes, create_only: as_any_other(
            store, key, body + b"x", attributes, create_only
        ),
        lambda store, key, body, attributes, create_only: as_any_other(store, key, body, attributes, False),
        denied,
    ],
    ids=["no metadata", "no type", "other bytes", "overwrites", "refused"],
)
def test_a_short_way_that_is_not_as_good_is_not_taken(small: Callable[..., PutResult]) -> None:
    """The corrupted twins: what it loses is seen at what lies there, against what the long way wrote."""
    report = target(MemoryPlace(), replace(GOOD, small=small))
    assert report.capabilities == replace(NEVER_LOCKED, small_put=False)
    assert named(report, "small PUT").finding != "arrives as any other"
    assert report.exit is ExitCode.DONE


def test_without_conditions_the_short_way_needs_none() -> None:
    """Where nothing keeps what is there, the tool looks before each PUT, whichever way it goes."""
    place = MemoryPlace(able=replace(ALL_CAPABILITIES, conditional_put=False))
    overwrites = replace(
        GOOD, small=lambda store, key, body, attributes, _: as_any_other(store, key, body, attributes, False)
    )
    assert target(place, overwrites).capabilities.small_put


def test_versions_are_no_need() -> None:
    """A store without them is not warned about."""
    report = target(MemoryPlace(able=replace(ALL_CAPABILITIES, versions=False)))
    assert not report.capabilities.versions
    assert named(report, "versions").status is CheckStatus.OK


@pytest.mark.parametrize("versioned", [False, True])
def test_nothing_is_left_at_a_target(versioned: bool) -> None:
    """No object, no version, no upload."""
    place = MemoryPlace(versioned=versioned)
    place.seed("user/photo", b"x")
    target(place)
    assert [info.key for info in place.versions("")] == ["user/photo"]
    assert place.uploads == {}


@pytest.mark.parametrize("broken", ["get", "get_tags", "put_part", "list_parts", "complete_upload", "put_tags", "head"])
def test_a_trial_that_fails_cleans_up(broken: str) -> None:
    """Whatever fails on the way, once it has been written."""
    place = MemoryPlace()

    def fault(operation: str, key: str) -> None:
        if operation == broken:
            raise TransientStoreError("dublin", operation, "no answer in time", key=key)

    place.fault = fault
    report = target(place)
    assert place.versions("") == []
    assert place.uploads == {}
    assert any(check.status is not CheckStatus.OK for check in report.checks)


def test_what_cannot_be_deleted_is_said() -> None:
    """With the prefix under which it lies."""
    place = MemoryPlace()

    def fault(operation: str, key: str) -> None:
        if operation == "delete":
            raise DeniedError("dublin", operation, key=key)

    place.fault = fault
    report = target(place)
    found = named(report, "delete")
    assert (found.status, report.exit) == (CheckStatus.FAIL, ExitCode.UNREACHABLE)
    assert TRIAL in found.fix


def left_by_a_trial(place: MemoryPlace, trial: str) -> None:
    """What a doctor leaves that was killed: an object and an upload."""
    store = MemoryStore("dublin", place)
    place.seed(f"{trial}plain", b"x")
    store.create_upload(f"{trial}parted", attributes=Attributes())


def test_what_a_killed_trial_has_left_is_cleared_away_an_hour_later() -> None:
    """Objects, versions and uploads; those of a trial that may be under way, and what no trial has written, stay."""
    place = MemoryPlace(versioned=True)
    left_by_a_trial(place, ".migrate-probe/20261124T105959Z-dead/")
    left_by_a_trial(place, ".migrate-probe/20261124T110001Z-alive/")
    place.seed(".migrate-probe/of-another-name", b"x")
    report = target(place)
    assert {info.key for info in place.versions("")} == {
        ".migrate-probe/20261124T110001Z-alive/plain",
        ".migrate-probe/of-another-name",
    }
    [upload] = MemoryStore("dublin", place).list_uploads()
    assert upload.key == ".migrate-probe/20261124T110001Z-alive/parted"
    assert named(report, "earlier trials").status is CheckStatus.OK
    assert [check.name for check in target(place).checks].count("earlier trials") == 0


@pytest.mark.parametrize("after", range(0, 18, 3))
def test_a_trial_that_is_stopped_leaves_nothing(after: int) -> None:
    """Wherever between two steps the stop is heard, what was written is gone before the probe ends."""
    place = MemoryPlace(versioned=True)
    written: list[str] = []
    place.fault = lambda operation, key: written.append(operation) if operation not in READS else None
    with pytest.raises(InterruptedRun):
        target(place, is_stopping=lambda: len(written) > after)
    assert len(written) > after
    assert place.versions("") == []
    assert place.uploads == {}


@pytest.mark.parametrize(
    ("encrypted", "status", "code"),
    [
        (Encrypted("aws:kms", True), CheckStatus.OK, ExitCode.DONE),
        (Encrypted("aws:kms", False), CheckStatus.FAIL, ExitCode.REFUSED),
        (Encrypted("AES256", False), CheckStatus.FAIL, ExitCode.REFUSED),
        (Encrypted(None, True), CheckStatus.FAIL, ExitCode.REFUSED),
    ],
)
def test_the_kms_key_is_tried_out(encrypted: Encrypted, status: CheckStatus, code: ExitCode) -> None:
    """Only the key of the spec will do; without it nothing more is tried, and nothing is left."""
    place = MemoryPlace()
    report = target(place, replace(GOOD, encrypted=encrypted))
    assert (named(report, "kms").status, report.exit) == (status, code)
    assert (report.capabilities == NEVER_LOCKED) is (code is ExitCode.DONE)
    assert place.versions("") == []


def test_without_a_key_there_is_no_line_for_it() -> None:
    """Nobody is told of what was not asked for."""
    assert "kms" not in [check.name for check in target(MemoryPlace()).checks]


def test_versions_that_the_bucket_retains_are_said() -> None:
    """A default retention keeps them behind their delete markers: no object is left, and the operator knows of the rest."""
    place = MemoryPlace(versioned=True)

    class Retaining(MemoryStore):
        def delete(self, key: str, *, version_id: str | None = None) -> None:
            if version_id in [info.version_id for info in place.versions(key) if not info.is_delete_marker]:
                raise DeniedError(self.name, "delete", key=key)
            super().delete(key, version_id=version_id)

    store = Retaining("dublin", place)
    report = probe(store, Role.TARGET, replace(GOOD, store=store), country="IE")
    found = named(report, "delete")
    assert (found.status, report.exit) == (CheckStatus.WARN, ExitCode.DONE)
    assert "retains" in found.finding
    assert [page for page in store.list() if page] == []


def test_everything_stays_under_the_scratch_prefix() -> None:
    """Also at a server that resolves `..`: users' objects are in no danger."""
    place = MemoryPlace()
    written: list[str] = []

    def fault(operation: str, key: str) -> None:
        if operation not in READS:
            written.append(key)

    place.fault = fault
    target(place)
    for key in written:
        steps: list[str] = []
        for step in key.split("/"):
            steps = steps[:-1] if step == ".." else [*steps, step]
        assert key.startswith(TRIAL)
        assert steps[:2] == TRIAL.split("/")[:2]


@pytest.mark.parametrize("role", [Role.SOURCE, Role.BACKUP, Role.REPORTS])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_source_is_only_read(role: Role, size: int) -> None:
    """GET, HEAD and LIST, even where the store would let itself be written."""
    place = MemoryPlace()
    place.seed("user/photo", b"x" * size, tags={"a": "b"})
    asked: set[str] = set()
    place.fault = lambda operation, key: asked.add(operation)
    answers = Answers(StoreDetails("us-east-1", True, 0.0, versioning=False))
    report = probe(MemoryStore("us", place), role, answers, country="US")
    assert asked <= READS
    assert {check.status for check in report.checks} == {CheckStatus.OK}
    assert (report.capabilities.tags, report.capabilities.versions) == (True, True)


def test_an_empty_source_is_remarked() -> None:
    """Perhaps it is the wrong bucket."""
    report = probe(MemoryStore("us", MemoryPlace()), Role.SOURCE, GOOD, country="IE")
    assert named(report, "read").status is CheckStatus.WARN
    assert report.exit is ExitCode.DONE


def test_a_source_whose_objects_may_not_be_read_fails() -> None:
    """Credentials that only list."""
    place = MemoryPlace()
    place.seed("user-4711/photo", b"x")

    def fault(operation: str, key: str) -> None:
        if operation == "get":
            raise DeniedError("us", operation, key=key)

    place.fault = fault
    report = probe(MemoryStore("us", place), Role.SOURCE, GOOD, country="IE")
    assert (named(report, "read").status, report.exit) == (CheckStatus.FAIL, ExitCode.UNREACHABLE)
    assert "4711" not in repr(report)


@pytest.mark.parametrize("role", list(Role))
def test_a_store_that_cannot_be_reached_is_asked_nothing_more(role: Role) -> None:
    """One line, exit code 69."""
    place = MemoryPlace()
    asked: list[str] = []

    def fault(operation: str, key: str) -> None:
        asked.append(operation)
        raise TransientStoreError("s", operation, "no connection")

    place.fault = fault
    report = probe(MemoryStore("s", place), role, GOOD, country="IE")
    assert [check.name for check in report.checks] == ["reach"]
    assert (report.exit, report.capabilities, asked) == (ExitCode.UNREACHABLE, Capabilities(), ["list"])


@pytest.mark.parametrize(
    ("region", "is_aws", "status", "code"),
    [
        ("eu-west-1", True, CheckStatus.OK, ExitCode.DONE),
        ("us-east-1", True, CheckStatus.FAIL, ExitCode.REFUSED),
        ("eu-atlantis-1", True, CheckStatus.WARN, ExitCode.DONE),
        (None, True, CheckStatus.WARN, ExitCode.DONE),
        ("default", False, CheckStatus.WARN, ExitCode.DONE),
        ("us-east-1", False, CheckStatus.WARN, ExitCode.DONE),
        (None, False, CheckStatus.WARN, ExitCode.DONE),
    ],
)
def test_the_region_that_the_server_names_is_judged(
    region: str | None, is_aws: bool, status: CheckStatus, code: ExitCode
) -> None:
    """Invariant 7: against the endpoint's region where it can be asked; what is unknown is not called good."""
    report = target(MemoryPlace(), Answers(StoreDetails(region, is_aws)))
    assert (named(report, "region").status, report.exit) == (status, code)


def test_a_target_in_another_country_is_not_written_to() -> None:
    """Invariant 7: not even for a trial."""
    place = MemoryPlace()
    asked: set[str] = set()
    place.fault = lambda operation, key: asked.add(operation)
    target(place, Answers(StoreDetails("us-east-1", True)))
    assert asked <= READS


@pytest.mark.parametrize(
    ("skew", "status"),
    [
        (0.4, CheckStatus.OK),
        (-59, CheckStatus.OK),
        (90, CheckStatus.WARN),
        (-301, CheckStatus.FAIL),
        (400, CheckStatus.FAIL),
    ],
)
def test_a_clock_that_is_off_is_found(skew: float, status: CheckStatus) -> None:
    """In both directions, before S3 refuses every request."""
    report = target(MemoryPlace(), Answers(StoreDetails("eu-west-1", True, skew)))
    assert named(report, "clock").status is status


def test_a_folder_passes(tmp_path: Path) -> None:
    """With exactly the capabilities that its store claims; and it is empty afterwards."""
    store = FileStore("folder", tmp_path, writable=True)
    report = probe(store, Role.TARGET, LocalQuestions(store), country="IE", clock=lambda: datetime.now(UTC))
    assert report.capabilities == FILE_CAPABILITIES
    assert {check.status for check in report.checks} == {CheckStatus.OK}
    assert list(store.list()) == []
    store.close()


def test_a_folder_opened_to_be_read_is_no_target(tmp_path: Path) -> None:
    """The twin: the refusal is a failed line with policy's exit code, not a traceback."""
    store = FileStore("folder", tmp_path)
    report = probe(store, Role.TARGET, LocalQuestions(store), country="IE")
    assert report.exit is ExitCode.REFUSED
    store.close()
