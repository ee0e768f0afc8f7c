"""A small world whose stores are buckets, and a look at them that shares no code with the product."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection
from typing import Any

from servers import S3Server
from smallworld import SmallWorld, body_of

MIB = 2**20


def credentials(server: S3Server) -> dict[str, str]:
    """The environment that the spec's references to secrets need."""
    return {"WORLD_ACCESS_KEY_ID": server.access_key, "WORLD_SECRET_ACCESS_KEY": server.secret_key}


def on_s3(
    world: SmallWorld,
    server: S3Server,
    *,
    source_endpoint: str | None = None,
    target_endpoint: str | None = None,
    per_user: int = 6,
    locked: Collection[str] = (),
) -> dict[str, str]:
    """Put the world's stores on new buckets, `per_user` objects a user and one in parts; bucket names by store. Those of the
    stores in `locked` keep versions and know object lock.

    The product reaches the stores by the endpoints that are given, a proxy's perhaps; they are filled without.
    """
    client: Any = server.boto3()
    buckets = {name: f"{name}-{uuid.uuid4().hex[:12]}" for name in ("us", "singapore", "dublin-1", "dublin-2", "hamar")}
    spec = world.root / "plans" / "small.toml"
    text = spec.read_text()
    for name, bucket in buckets.items():
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=name in locked)
        place = (source_endpoint if name in ("us", "singapore") else target_endpoint) or server.endpoint
        text = text.replace(
            f'url = "file:stores/{name}"',
            f'url = "s3://{bucket}/data/"\nendpoint = "{place}"\nregion = "us-east-1"\ncredentials = "env:WORLD"',
        )
    spec.write_text(text)
    for user in world.users:
        for number in range(per_user):
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
    # afterwards: Ceph's gateway drops those that are given at the beginning, and answers nothing when it is asked for them
    tags = {"TagSet": [{"Key": "kind", "Value": "film"}]}
    client.put_object_tagging(Bucket=buckets["us"], Key=film, Tagging=tags)
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


def open_uploads(server: S3Server, bucket: str) -> int:
    """How many multipart uploads of the bucket were neither completed nor aborted."""
    client: Any = server.boto3()
    return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))
