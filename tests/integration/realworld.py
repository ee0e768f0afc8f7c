"""A world of real files on real S3 servers: what the integration test migrates.

The files are this machine's own (documentation, Python's library, locale data), so names, sizes and contents are as people and
programs made them. They are spread over synthetic users, with metadata and tags, beside every odd key that S3 allows, objects
with older versions, deleted ones, and one large object in parts.
"""

from __future__ import annotations

import csv
import hashlib
import mimetypes
import os
import random
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import obstore
from obstore.store import S3Store
from servers import S3Server

USERS = 250
FILES = 5_600
LARGEST_FILE = 256 * 2**10
HUGE_BYTES = 200_000_000
PART_BYTES = 16 * 2**20
SOURCES = ("clover-us", "clover-singapore")
TARGETS = ("clover-dublin-1", "clover-dublin-2", "clover-hamar")
US = SOURCES[0]
COUNTRIES = ("DE", "FR", "NO", "IE", "SE", "UK", "el", "PL", "IT", "FI")
STAYING = "US"
REAL_FILES = ("/usr/share", "/usr/lib/python3", sysconfig.get_path("stdlib"))


@dataclass(frozen=True, slots=True)
class Item:
    """An object to be: its key, where its bytes are, and what it carries."""

    key: str
    body: Path | bytes
    content_type: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def read(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else self.body.read_bytes()


@dataclass(frozen=True, slots=True)
class RealWorld:
    """What was put up. `moving` counts the objects that must arrive, each at two sites."""

    moving: int
    huge_key: str


def real_files(count: int, folders: Iterable[str] = REAL_FILES) -> list[Path]:
    """`count` plain files of the machine up to LARGEST_FILE, from all over the folders: those whose paths hash lowest."""
    found = [
        path
        for folder in folders
        for place, _, names in os.walk(folder)
        for path in (Path(place, name) for name in names)
        if path.suffix != ".pyc" and _is_plain(path)
    ]
    if len(set(found)) < count:
        raise LookupError(f"only {len(set(found))} of {count} files to make objects of")
    return sorted(set(found), key=lambda path: hashlib.sha256(bytes(path)).digest())[:count]


def _is_plain(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= LARGEST_FILE and os.access(path, os.R_OK)


def user_id(number: int) -> str:
    return f"person-{number:04d}"


def country(number: int) -> str:
    """Every tenth user stays, the others are spread over Europe."""
    return STAYING if number % 10 == 9 else COUNTRIES[number % len(COUNTRIES)]


def items(odd_keys: Iterable[str]) -> Iterator[Item]:
    """All small objects: real files spread over the users, and the odd keys, which belong to the first of them."""
    for path in real_files(FILES):
        name = str(path).lstrip("/")
        chance = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        yield Item(
            key=f"users/{user_id(chance % USERS)}/files/{name}",
            body=path,
            content_type=mimetypes.guess_type(path.name)[0],
            metadata=(("depth", str(name.count("/"))), ("made-by", "realworld")) if chance % 2 else (),
            tags=(("depth", str(name.count("/"))), ("made from", "a file: of this machine +/@"))
            if chance % 7 == 0
            else (),
        )
    for number, key in enumerate(odd_keys):
        yield Item(odd_key(key), f"odd {number}".encode(), "text/plain", (("odd", "yes"),), (("odd", "yes"),))


def odd_key(key: str) -> str:
    """`key` below the folder of the first user, cut to what S3 allows."""
    whole = f"users/{user_id(0)}/files/{key}"
    return whole.encode()[:1024].decode(errors="ignore")


def build(source: S3Server, target: S3Server, workspace: Path, odd_keys: Iterable[str]) -> RealWorld:
    """Put the world up on two servers, and the directory of its users into `workspace`."""
    client = source.boto3()
    for bucket in SOURCES:
        client.create_bucket(Bucket=bucket)
    for bucket in TARGETS:
        target.boto3().create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=US, VersioningConfiguration={"Status": "Enabled"})
    everything = list({item.key: item for item in items(odd_keys)}.values())
    everything += [Item(f"shared/sticker-{number}.svg", b"<svg/>", "image/svg+xml") for number in range(5)]
    _add_history(client, everything)
    with ThreadPoolExecutor(10) as pool:
        for bucket in SOURCES:
            list(pool.map(_putter(source, client, bucket), everything))
    huge_key = f"users/{user_id(1)}/files/holiday.mov"
    for bucket in SOURCES:
        _put_huge(client, bucket, huge_key)
    _write_directory(workspace / "directory.csv")
    staying = tuple(f"users/{user_id(number)}/" for number in range(USERS) if country(number) == STAYING)
    moving = sum(item.key.startswith("users/") and not item.key.startswith(staying) for item in everything)
    return RealWorld(moving + 1, huge_key)


def _add_history(client: Any, everything: list[Item]) -> None:
    """Older versions below some objects, and some keys that were deleted: only current versions move."""
    for item in everything[::200]:
        client.put_object(Bucket=US, Key=item.key, Body=b"an older state")
    for number in range(10):
        key = f"users/{user_id(number)}/files/deleted.txt"
        client.put_object(Bucket=US, Key=key, Body=b"gone")
        client.delete_object(Bucket=US, Key=key)


def _putter(source: S3Server, client: Any, bucket: str) -> Callable[[Item], None]:
    """How one item is written: by obstore, which is quick, or by boto3 where there are tags or an odd key."""
    quick = S3Store(
        bucket,
        endpoint=source.endpoint,
        region=source.region,
        access_key_id=source.access_key,
        secret_access_key=source.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    def put(item: Item) -> None:
        headers = {"ContentType": item.content_type} if item.content_type else {}
        metadata = dict(item.metadata)
        if item.tags or "odd" in metadata:
            client.put_object(
                Bucket=bucket,
                Key=item.key,
                Body=item.read(),
                Tagging=urlencode(item.tags),
                Metadata=metadata,
                **headers,
            )
        else:
            obstore.put(quick, item.key, item.read(), attributes={**headers_of(item), **metadata}, use_multipart=False)

    return put


def headers_of(item: Item) -> dict[str, str]:
    return {"Content-Type": item.content_type} if item.content_type else {}


def _put_huge(client: Any, bucket: str, key: str) -> None:
    """An object in parts at the source as well: its ETag is a composite one."""
    upload = client.create_multipart_upload(
        Bucket=bucket, Key=key, ContentType="video/quicktime", Metadata={"take": "3"}
    )
    where = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}
    sizes = [min(PART_BYTES, HUGE_BYTES - start) for start in range(0, HUGE_BYTES, PART_BYTES)]

    def send(number: int) -> dict[str, Any]:
        body = random.Random(number).randbytes(sizes[number - 1])
        return {"PartNumber": number, "ETag": client.upload_part(**where, PartNumber=number, Body=body)["ETag"]}

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(send, range(1, len(sizes) + 1)))
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    client.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [{"Key": "size", "Value": "huge"}]})


def _write_directory(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "country"])
        writer.writerows((user_id(number), country(number)) for number in range(USERS))


def snapshot(server: S3Server, buckets: Iterable[str] = SOURCES) -> dict[tuple[str, str, str], object]:
    """What the stores show of their objects: versions, delete markers, ETags, sizes, times, and every tenth's tags."""
    client = server.boto3()
    shown: dict[tuple[str, str, str], object] = {}
    for bucket in buckets:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for version in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                facts = (version.get("ETag"), version.get("Size"), version["LastModified"], version["IsLatest"])
                shown[bucket, version["Key"], version["VersionId"]] = facts
        current = [key for key in shown if key[0] == bucket and shown[key][3] and shown[key][0]][::10]  # type: ignore[index]

        def tags(where: tuple[str, str, str]) -> object:
            return client.get_object_tagging(Bucket=where[0], Key=where[1])["TagSet"]

        with ThreadPoolExecutor(10) as pool:
            for where, found in zip(current, pool.map(tags, current), strict=True):
                shown[where] = (shown[where], found)
    return shown
