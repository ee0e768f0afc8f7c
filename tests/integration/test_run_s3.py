"""The commands between two S3 servers, with everything that passes to the sources written down."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy import RecordingProxy
from s3world import credentials, look, on_s3
from servers import S3Server
from smallworld import MIB, body_of, build

USERS = 12


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[RecordingProxy]:
    forwarder = RecordingProxy(moto_server.endpoint)
    forwarder.start()
    yield forwarder
    forwarder.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sources_are_only_ever_read(
    tmp_path: Path, moto_server: S3Server, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """doctor, plan, run and verify at both ends send the sources GET and HEAD, and nothing else (Invariants 1 and 8).

    So it is with the backup, also where it is what an object is copied from, and with worker processes.
    """
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=USERS, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, source_endpoint=proxy.endpoint)
    client: Any = moto_server.boto3()
    for key, size in (("small", 300), ("large", 6 * MIB)):
        body = body_of(key, size)
        client.put_object(Bucket=buckets["singapore"], Key=f"data/users/u002/only-{key}", Body=body, ContentType="a/b")
    before = {name: look(moto_server, buckets[name]) for name in ("us", "singapore")}
    path = world.root / "plans" / "small.toml"
    path.write_text(path.read_text() + '\n[reconcile.backup_only]\nrestricted = "copy"\n')
    spec = str(path)
    doctor = world.migrate("doctor", spec)
    assert doctor.code == 0, doctor.out + doctor.err
    for words in (
        ["plan", spec],
        ["run", "--wave", "all", "--workers", workers],
        ["verify", "--level", "both-ends", "--workers", workers],
        ["verify", "--wave", "all", "--level", "listing", "--workers", workers],
    ):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.out + answer.err
    assert len(proxy.seen) > 2 * USERS * 6
    assert proxy.methods == {"GET", "HEAD"}
    assert {name: look(moto_server, buckets[name]) for name in ("us", "singapore")} == before
    held = [look(moto_server, buckets[name]) for name in ("dublin-1", "dublin-2", "hamar")]
    keys = sorted(key for bucket in held for key in bucket)
    wanted = {**before["singapore"], **before["us"]}
    assert len(wanted) == len(before["us"]) + 2
    assert keys == sorted([*wanted, *wanted])
    for bucket in held:
        for key, facts in bucket.items():
            assert facts == wanted[key]


def test_a_store_that_changed_since_doctor_is_not_probed(
    tmp_path: Path, moto_server: S3Server, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning says so, and what to do; with nothing changed it knows all five (the twin)."""
    for name, value in credentials(moto_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=2, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, source_endpoint=proxy.endpoint)
    path = world.root / "plans" / "small.toml"
    assert world.migrate("doctor", str(path)).code == 0
    assert "not probed" not in world.migrate("plan", str(path), "--dry-run").err
    path.write_text(path.read_text().replace(f"s3://{buckets['hamar']}/data/", f"s3://{buckets['hamar']}/other/"))
    answer = world.migrate("plan", str(path), "--dry-run")
    assert "not probed, or changed since: hamar." in " ".join(answer.err.split())
    assert "run `migrate doctor` again" in " ".join(answer.err.split())


def test_the_proxy_would_see_a_write(moto_server: S3Server, proxy: RecordingProxy) -> None:
    """The corrupted twin: what does write shows up in the record."""
    through = S3Server(proxy.endpoint, moto_server.access_key, moto_server.secret_key)
    client: Any = through.boto3()
    client.create_bucket(Bucket=f"b-{uuid.uuid4().hex[:12]}")
    assert "PUT" in proxy.methods
