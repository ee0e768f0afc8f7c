"""The probe on real servers: it finds of each what is known of it (the table in docs/design.md), and leaves nothing behind."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from places import RCLONE, new_bucket, s3_store
from proxy import recording
from servers import S3Server

from migrate.errors import ExitCode
from migrate.model import Attributes, Role
from migrate.stores.memory import ALL_CAPABILITIES
from migrate.stores.probe import CheckStatus, ProbeReport, probe
from migrate.stores.s3_probe import S3Questions

TO_BE_PROBED = replace(ALL_CAPABILITIES, etag_is_md5=False, small_put=False)
RGW = replace(ALL_CAPABILITIES, refuses_wrong_sha256=False, object_lock=False)


def ask(
    server: S3Server,
    role: Role = Role.TARGET,
    *,
    ahead: timedelta = timedelta(0),
    country: str = "IE",
    is_aws: bool = False,
    bucket: str | None = None,
    kms_key: str | None = None,
) -> ProbeReport:
    bucket = bucket or new_bucket(server)
    store = s3_store(server, bucket, "some/prefix/", TO_BE_PROBED, writable=role is Role.TARGET, kms_key=kms_key)
    try:
        report = probe(
            store, role, S3Questions(store, is_aws=is_aws), country=country, clock=lambda: datetime.now(UTC) + ahead
        )
        assert [info.key for page in store.list() for info in page] == []
        assert role is not Role.TARGET or list(store.list_uploads()) == []
    finally:
        store.close()
    return report


def statuses(report: ProbeReport) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in report.checks}


@pytest.mark.realstore
@pytest.mark.xdist_group("rgw")
def test_ceph_can_do_what_a_target_needs(rgw_server: S3Server) -> None:
    """All but refusing a wrong SHA-256; its region's name says nothing, and the report says that."""
    report = ask(rgw_server)
    assert report.capabilities == RGW
    assert statuses(report)["region"] is CheckStatus.WARN
    assert statuses(report)["clock"] is CheckStatus.OK
    assert report.exit is ExitCode.DONE


def test_moto_takes_wrong_bytes(moto_server: S3Server) -> None:
    """moto checks no checksum; the rest it can, but for a line feed in a key."""
    report = ask(moto_server, country="US")
    assert not report.capabilities.refuses_wrong_md5
    assert report.capabilities.conditional_put
    assert report.capabilities.etag_is_md5
    assert report.capabilities.tags
    assert report.capabilities.small_put
    assert report.capabilities.bent_kinds() == ["line_breaks"]
    assert report.exit is ExitCode.DONE


def test_rclone_is_found_out(rclone_server: S3Server) -> None:
    """It overwrites what exists, keeps no tags and no content headers, and takes keys for paths."""
    report = ask(rclone_server)
    assert report.capabilities == RCLONE
    assert statuses(report)["conditional PUT"] is CheckStatus.WARN


def test_a_server_that_wants_content_md5_gets_it(moto_server: S3Server) -> None:
    """The short way of small objects sends none: it is tried, refused, and not taken; all else works. With the twin above."""
    bucket = new_bucket(moto_server)
    with recording(moto_server.endpoint, wants_md5=True) as proxy:
        through = S3Server(proxy.endpoint, moto_server.access_key, moto_server.secret_key)
        report = ask(through, country="US", bucket=bucket)
        assert not report.capabilities.small_put
        assert statuses(report)["small PUT"] is CheckStatus.WARN
        assert report.capabilities.conditional_put
        assert report.exit is ExitCode.DONE
        refused = [seen.target for seen in proxy.seen if seen.status == 400 and "/small" in seen.target]
        assert len(refused) == 1
        store = s3_store(through, bucket, "", report.capabilities)
        put = store.put(
            "k", b"x", attributes=Attributes(), tags={}, md5=hashlib.md5(b"x", usedforsecurity=False).digest()
        )
        assert put.etag == store.head("k").etag
        store.close()


def test_where_object_lock_is_on_each_put_goes_with_its_md5(moto_server: S3Server) -> None:
    """Whatever the trial showed: the bucket may get a retention period tomorrow, and S3 wants Content-MD5 then."""
    bucket = f"b-{uuid.uuid4().hex[:20]}"
    client: Any = moto_server.boto3()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    report = ask(moto_server, country="US", bucket=bucket)
    assert (report.capabilities.object_lock, report.capabilities.small_put) == (True, False)
    assert statuses(report)["small PUT"] is CheckStatus.OK
    with recording(moto_server.endpoint) as proxy:
        through = S3Server(proxy.endpoint, moto_server.access_key, moto_server.secret_key)
        store = s3_store(through, bucket, "", report.capabilities)
        store.put("k", b"x", attributes=Attributes(), tags={}, md5=hashlib.md5(b"x", usedforsecurity=False).digest())
        store.close()
    assert [seen.headers.get("content-md5") for seen in proxy.seen if seen.method == "PUT"] == [
        "ndTkYSaMgDT1yFZOFVxnpg=="
    ]


def test_a_kms_key_is_tried_out(real: S3Server) -> None:
    """On Ceph and moto: the answer to a PUT shows the key, and the object's headers that it is encrypted."""
    report = ask(real, country="US", kms_key="dublin-key")
    assert (statuses(report)["kms"], report.exit) == (CheckStatus.OK, ExitCode.DONE)


def test_a_kms_key_that_is_not_taken_is_found(real: S3Server, rclone_server: S3Server) -> None:
    """The corrupted twins: an answer with another key, and rclone, which drops the header. Policy refuses such a target."""
    with recording(real.endpoint, shows_kms_key="hamar-key") as proxy:
        through = S3Server(proxy.endpoint, real.access_key, real.secret_key)
        report = ask(through, country="US", bucket=new_bucket(real), kms_key="dublin-key")
    for found in (report, ask(rclone_server, kms_key="dublin-key")):
        assert (statuses(found)["kms"], found.exit) == (CheckStatus.FAIL, ExitCode.REFUSED)


@pytest.mark.realstore
@pytest.mark.xdist_group("rgw")
def test_a_kms_key_that_the_server_does_not_know_is_found(rgw_server: S3Server) -> None:
    """Ceph refuses the PUT, and the line says what to allow."""
    report = ask(rgw_server, kms_key="nobodys-key")
    assert (statuses(report)["kms"], report.exit) == (CheckStatus.FAIL, ExitCode.UNREACHABLE)


@pytest.mark.realstore
@pytest.mark.xdist_group("rgw")
def test_versions_that_a_bucket_retains_are_said(rgw_server: S3Server) -> None:
    """With a default retention each version of the trial stays, behind a delete marker. (moto lets them be deleted.)"""
    bucket = f"b-{uuid.uuid4().hex[:20]}"
    client: Any = rgw_server.boto3()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    report = ask(rgw_server, bucket=bucket)
    found = next(check for check in report.checks if check.name == "delete")
    assert (found.status, report.exit) == (CheckStatus.WARN, ExitCode.DONE)
    assert "retains" in found.finding


def test_moto_says_where_it_is(moto_server: S3Server) -> None:
    """GetBucketLocation is asked, and for AWS held against the site's country (invariant 7)."""
    report = ask(moto_server, Role.SOURCE, country="IE", is_aws=True)
    assert statuses(report)["region"] is CheckStatus.FAIL
    assert report.exit is ExitCode.REFUSED
    assert statuses(ask(moto_server, Role.SOURCE, country="US", is_aws=True))["region"] is CheckStatus.OK


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off_is_found(moto_server: S3Server, minutes: int) -> None:
    """By the server's Date header."""
    report = ask(moto_server, Role.SOURCE, ahead=timedelta(minutes=minutes), country="US")
    assert statuses(report)["clock"] is CheckStatus.FAIL
    assert statuses(ask(moto_server, Role.SOURCE, country="US"))["clock"] is CheckStatus.OK


def test_a_bucket_that_is_not_there_is_unreachable(moto_server: S3Server) -> None:
    """One line with the exit code 69."""
    store = s3_store(moto_server, "no-such-bucket-here", "", TO_BE_PROBED)
    report = probe(store, Role.TARGET, S3Questions(store, is_aws=False), country="US")
    assert [check.status for check in report.checks] == [CheckStatus.FAIL]
    assert report.exit is ExitCode.UNREACHABLE
    store.close()
