"""The commands between two S3 servers, with everything that passes to the sources written down."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy import RecordingProxy
from servers import S3Server
from smallworld import SmallWorld, body_of, build

USERS = 12
MIB = 2**20


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[RecordingProxy]:
    forwarder = RecordingProxy(moto_server.endpoint)
    forwarder.start()
    yield forwarder
    forwarder.stop()


def on_s3(world: SmallWorld, server: S3Server, proxy: RecordingProxy) -> dict[str, str]:
    """Put the world's stores on buckets, the sources behind the proxy; bucket names by store."""
    client: Any = server.boto3()
    buckets = {name: f"{name}-{uuid.uuid4().hex[:12]}" for name in ("us", "singapore", "dublin-1", "dublin-2", "hamar")}
    spec = world.root / "plans" / "small.toml"
    text = spec.read_text()
    for name, bucket in buckets.items():
        client.create_bucket(Bucket=bucket)
        place = proxy.endpoint if name in ("us", "singapore") else server.endpoint
        text = text.replace(
            f'url = "file:stores/{name}"',
            f'url = "s3://{bucket}/data/"\nendpoint = "{place}"\nregion = "us-east-1"\ncredentials = "env:MOTO"',
        )
    spec.write_text(text)
    for user in world.users:
        for number in range(6):
            key = f"users/{user}/photo {number}+ü.jpg"
            body = body_of(key, 300)
            for name in ("us", "singapore"):
                client.put_object(
                    Bucket=buckets[name],
                    Key=f"data/{key}",
                    Body=body,
                    ContentType="image/jpeg",
                    Metadata={"camera": str(number)},
                    Tagging=f"n={number}" if number % 2 else "",
                )
    film = "data/users/u001/film"
    upload = client.create_multipart_upload(Bucket=buckets["us"], Key=film, ContentType="video/mp4")["UploadId"]
    parts = []
    for number in (1, 2, 3):
        body = body_of(f"film-{number}", 5 * MIB if number < 3 else MIB)
        etag = client.upload_part(Bucket=buckets["us"], Key=film, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        parts.append({"ETag": etag, "PartNumber": number})
    client.complete_multipart_upload(Bucket=buckets["us"], Key=film, UploadId=upload, MultipartUpload={"Parts": parts})
    return buckets


def look(server: S3Server, bucket: str) -> dict[str, tuple[str, str, dict[str, str], list[Any]]]:
    """Everything in a bucket, seen without the product's code: digest, type, metadata, tags."""
    client: Any = server.boto3()
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            answer = client.get_object(Bucket=bucket, Key=item["Key"])
            tags = client.get_object_tagging(Bucket=bucket, Key=item["Key"])["TagSet"]
            digest = hashlib.sha256(answer["Body"].read()).hexdigest()
            found[item["Key"]] = (digest, answer["ContentType"], answer["Metadata"], tags)
    return found


def test_sources_are_only_ever_read(
    tmp_path: Path, moto_server: S3Server, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """doctor, plan, run and verify at both ends send the sources GET and HEAD, and nothing else (Invariants 1 and 8)."""
    monkeypatch.setenv("MOTO_ACCESS_KEY_ID", moto_server.access_key)
    monkeypatch.setenv("MOTO_SECRET_ACCESS_KEY", moto_server.secret_key)
    world = build(tmp_path, users=USERS, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, proxy)
    before = {name: look(moto_server, buckets[name]) for name in ("us", "singapore")}
    spec = str(world.root / "plans" / "small.toml")
    doctor = world.migrate("doctor", spec)
    assert doctor.code == 0, doctor.out + doctor.err
    for words in (
        ["plan", spec],
        ["run", "--wave", "all"],
        ["verify", "--level", "both-ends"],
        ["verify", "--level", "listing"],
    ):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.out + answer.err
    assert len(proxy.seen) > 2 * USERS * 6
    assert proxy.methods == {"GET", "HEAD"}
    assert {name: look(moto_server, buckets[name]) for name in ("us", "singapore")} == before
    held = [look(moto_server, buckets[name]) for name in ("dublin-1", "dublin-2", "hamar")]
    keys = sorted(key for bucket in held for key in bucket)
    assert keys == sorted([*before["us"], *before["us"]])
    for bucket in held:
        for key, facts in bucket.items():
            assert facts == before["us"][key]


def test_a_store_that_changed_since_doctor_is_not_probed(
    tmp_path: Path, moto_server: S3Server, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning says so, and what to do; with nothing changed it knows all five (the twin)."""
    monkeypatch.setenv("MOTO_ACCESS_KEY_ID", moto_server.access_key)
    monkeypatch.setenv("MOTO_SECRET_ACCESS_KEY", moto_server.secret_key)
    world = build(tmp_path, users=2, per_user=0, odd=False, large=False)
    buckets = on_s3(world, moto_server, proxy)
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
