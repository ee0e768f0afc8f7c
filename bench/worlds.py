"""Workspaces and data for the benchmarks: specs, directories, objects at a source.

Sizes and bodies follow from their numbers, so that every run has the same.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store
from servers import S3Server

from bench.pairs import Command, Ended, measure

KIB, MIB = 2**10, 2**20
PART_BYTES = 16 * MIB
THREADS = 32
TARGETS = ("home", "backup")

SPEC = """format = 1
name = "bench"
[sites]
us = {{ country = "US" }}
singapore = {{ country = "SG" }}
home = {{ country = "IE" }}
backup = {{ country = "NO" }}
[stores]
{stores}
[directory]
path = "users.csv"
as_of = {as_of}
[layout]
rules = [{{ name = "files", pattern = "users/{{user}}/{{rest}}", category = "restricted" }}]
[placement]
rules = [{{ name = "all", countries = ["*"], home = ["home"], backup = [{backup}] }}]
[residency]
target_countries = ["IE", "NO"]
worker_countries = ["IE"]
[waves]
canary = "1%"
count = 1
{more}
[run]
country = "IE"
{limits}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket at a server, or, without a server, a folder."""

    bucket: str
    server: S3Server | None = None
    more: str = ""  # of its table in the spec

    def written(self, site: str, role: str, more: str = "") -> str:
        more += self.more
        if self.server is None:
            return f'{{ site = "{site}", role = "{role}", url = "file:{self.bucket}"{more} }}'
        where = f'endpoint = "{self.server.endpoint}", region = "us-east-1", credentials = "env:{site.upper()}"'
        return f'{{ site = "{site}", role = "{role}", url = "s3://{self.bucket}/", {where}{more} }}'


@dataclass(frozen=True, slots=True)
class World:
    """A workspace, and what its commands need in their environment."""

    root: Path
    environment: Mapping[str, str]

    @property
    def private(self) -> Path:
        return self.root / ".migrate"

    def migrate(self, *words: str, codes: Sequence[int] = (0,)) -> Ended:
        """The tool's own command line, in a process of its own."""
        command: Command = [sys.executable, "-m", "migrate", "--workspace", self.root, *words]
        return measure(command, folder=self.root, environment=self.environment, codes=codes)

    def doctor(self) -> Ended:
        return self.migrate("doctor", str(self.root / "plans" / "bench.toml"), "--json")

    def plan(self) -> Ended:
        return self.migrate("plan", str(self.root / "plans" / "bench.toml"), "--json")

    def run(self, *words: str, codes: Sequence[int] = (0,)) -> Ended:
        return self.migrate("run", "--wave", "all", *words, "--json", codes=codes)

    def forget(self, *, plans: bool = True) -> None:
        """Ledger, seals and, if asked for, plans are gone; what doctor found stays."""
        for path in self.private.iterdir():
            if path.name.startswith("ledger") or path.name in ("seals", "scratch", *(["plans"] if plans else [])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_world(
    root: Path,
    source: Place,
    targets: Mapping[str, Place],
    users: Sequence[str],
    *,
    listing: bool = False,
    second: Place | None = None,
    more: str = "",
    limits: str = "",
) -> World:
    """A workspace whose plan copies from `source` to `targets` (`home`, and `backup` if it is there).

    With `listing`, the source's objects are in `listing.parquet` of the workspace, and else they are listed live. `second` is a
    backup of the source, whose objects are in `second.parquet`.
    """
    (root / "plans").mkdir(parents=True, exist_ok=True)
    as_of = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    inventory = f', inventory = {{ kind = "listing", path = "listing.parquet", as_of = {as_of} }}' if listing else ""
    lines = [f"us = {source.written('us', 'source', inventory)}"]
    if second is not None:
        written = ', backup_of = "us"' + inventory.replace("listing.parquet", "second.parquet")
        lines.append(f"singapore = {second.written('singapore', 'backup', written)}")
    lines += [f"{site} = {place.written(site, 'target')}" for site, place in targets.items()]
    text = SPEC.format(
        stores="\n".join(lines),
        as_of=as_of,
        backup='"backup"' if "backup" in targets else "",
        more=more,
        limits=limits,
    )
    if second is None:
        text = text.replace('singapore = { country = "SG" }\n', "")
    if "backup" not in targets:
        text = text.replace('backup = { country = "NO" }\n', "")
    (root / "plans" / "bench.toml").write_text(text, encoding="utf-8")
    (root / "users.csv").write_text("user_id,country\n" + "".join(f"{user},IE\n" for user in users), encoding="utf-8")
    environment = {"MIGRATE_OPERATOR": "bench"}
    for site, place in {"us": source, **targets, **({"singapore": second} if second else {})}.items():
        if place.server is not None:
            environment[f"{site.upper()}_ACCESS_KEY_ID"] = place.server.access_key
            environment[f"{site.upper()}_SECRET_ACCESS_KEY"] = place.server.secret_key
    return World(root, environment)


@dataclass(frozen=True, slots=True)
class Item:
    """An object to be: its key, its size, and the seed of its bytes."""

    key: str
    size: int
    seed: int

    def body(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


def user_names(count: int) -> list[str]:
    return [f"u{number:07d}" for number in range(count)]


def small_items(count: int, users: int) -> list[Item]:
    """`count` objects of 2 to 64 KiB, spread evenly over the users."""
    chance = random.Random(1)
    names = user_names(users)
    return [
        Item(f"users/{names[number % users]}/photo-{number:07d}.jpg", chance.randint(2 * KIB, 64 * KIB), number)
        for number in range(count)
    ]


def tiny_items(count: int, users: int) -> list[Item]:
    """`count` objects of 1 KiB, spread evenly over the users."""
    names = user_names(users)
    return [Item(f"users/{names[number % users]}/note-{number:07d}.txt", KIB, number) for number in range(count)]


def large_items(count: int, size: int, huge: int) -> list[Item]:
    """`count` objects of one size, and a huge one."""
    return [
        *(Item(f"users/u{number:07d}/film-{number}.mov", size, number) for number in range(count)),
        Item(f"users/u{count:07d}/film-huge.mov", huge, count),
    ]


def obstore_of(server: S3Server, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "10m"},
    )


def put_up(server: S3Server, bucket: str, items: Sequence[Item]) -> None:
    """Put the items into the bucket: those over 100 MiB in parts, all with a content type and metadata."""
    store = obstore_of(server, bucket)

    def put(item: Item) -> None:
        if item.size > 100 * MIB:
            _put_in_parts(server, bucket, item)
            return
        attributes = {"Content-Type": "image/jpeg", "camera": f"number {item.seed % 7}"}
        obstore.put(store, item.key, item.body(), attributes=attributes, use_multipart=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, items))


def _put_in_parts(server: S3Server, bucket: str, item: Item) -> None:
    client: Any = server.boto3()
    made = client.create_multipart_upload(Bucket=bucket, Key=item.key, ContentType="video/quicktime")
    where = {"Bucket": bucket, "Key": item.key, "UploadId": made["UploadId"]}
    parts = []
    for number, size in enumerate(part_sizes(item.size), start=1):
        body = random.Random(item.seed * 100_000 + number).randbytes(size)
        parts.append({"PartNumber": number, "ETag": client.upload_part(**where, PartNumber=number, Body=body)["ETag"]})
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})


def part_sizes(size: int) -> Iterator[int]:
    for start in range(0, size, PART_BYTES):
        yield min(PART_BYTES, size - start)
