"""Inventories of a store that an S3 server holds: what is listed is what was put there, key by key."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import duckdb
import pytest
from odd_keys import ALL_ODD, ODD_KEYS
from servers import S3Server

from migrate.errors import InputError
from migrate.inventory.directory import read_directory
from migrate.inventory.files import InventoryFile
from migrate.inventory.live import list_live
from migrate.inventory.reverse import check_complete
from migrate.inventory.sample import check_sample
from migrate.inventory.take import take_inventory
from migrate.spec import Directory, InventorySource, StoreSpec
from migrate.stores.base import Capabilities
from migrate.stores.s3 import S3Store
from migrate.stores.s3_sign import S3Credentials
from migrate.workspace import Workspace

PREFIX = "europe é/"

# moto's routes stop at a line break, and it writes what XML cannot hold into its listings
ODD_AT_MOTO = [key for key in ODD_KEYS if not re.search("[\x00-\x08\n\x0b-\x1f\ufffe\uffff]", key)]
USERS = [f"users/{number:04d}/a+b c.txt" for number in range(1200)] + ["top", "users"]
LONGEST = 1024 - len(PREFIX.encode())


@dataclass(frozen=True)
class World:
    """A filled bucket at a server."""

    server: S3Server
    client: Any
    keys: list[str]
    bucket: str
    reports: str

    def store(self, bucket: str, prefix: str = "") -> S3Store:
        return S3Store(
            bucket,
            bucket,
            prefix,
            endpoint=self.server.endpoint,
            region=self.server.region,
            credentials=S3Credentials(self.server.access_key, self.server.secret_key),
            capabilities=Capabilities(versions=True, multipart=True, **ALL_ODD, tags=True, metadata=True),
        )

    def source(self) -> S3Store:
        return self.store(self.bucket, PREFIX)

    def expected(self) -> dict[str, tuple[int, str]]:
        bodies = {key: key.encode() for key in self.keys} | {"top": b"again"}
        return {key: (len(body), hashlib.md5(body, usedforsecurity=False).hexdigest()) for key, body in bodies.items()}

    def take(self, root: Path, **inventory: Any) -> InventoryFile:
        source = InventorySource(**inventory)
        spec = StoreSpec(
            site="us", role="source", url=f"s3://{self.bucket}/{PREFIX}", credentials="env:US", inventory=source
        )
        return take_inventory(
            "us",
            spec,
            self.source(),
            opener=self.store,
            workspace=Workspace(root),
            scratch=Workspace(root).scratch,
            now=now,
        )


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module", params=["moto_server", pytest.param("rgw_server", marks=pytest.mark.realstore)])
def world(request: pytest.FixtureRequest) -> World:
    server: S3Server = request.getfixturevalue(request.param)
    odd = ODD_AT_MOTO if request.param == "moto_server" else ODD_KEYS
    keys = sorted({*USERS, *(key for key in odd if len(key.encode()) <= LONGEST)})
    client: Any = server.boto3()
    bucket, reports = (f"b-{uuid.uuid4().hex[:20]}" for _ in range(2))  # a server may be shared by processes
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=PREFIX + key, Body=key.encode()), keys))
    client.put_object(Bucket=bucket, Key=PREFIX + "top", Body=b"again")
    client.put_object(Bucket=bucket, Key=PREFIX + "gone", Body=b"x")
    client.delete_object(Bucket=bucket, Key=PREFIX + "gone")
    client.put_object(Bucket=bucket, Key=PREFIX, Body=b"")
    client.put_object(Bucket=bucket, Key="elsewhere", Body=b"x")
    client.create_multipart_upload(Bucket=bucket, Key=PREFIX + "huge")
    client.create_bucket(Bucket=reports)
    return World(server, client, keys, bucket, reports)


def objects(pattern: str) -> dict[str, tuple[int, str]]:
    with duckdb.connect() as connection:
        found = connection.execute("SELECT key, size, etag FROM read_parquet(?)", [pattern]).fetchall()
    assert len(found) == len({row[0] for row in found})
    return {key: (size, etag) for key, size, etag in found}


def test_live_listing_of_s3_holds_every_odd_key(tmp_path: Path, world: World) -> None:
    """Every key that S3 allows is listed as it is, and versions, markers and uploads are counted beside."""
    taken = world.take(tmp_path)
    assert objects(taken.glob) == world.expected()
    assert (taken.noncurrent, taken.delete_markers, taken.open_uploads, taken.left_out) == (2, 1, 1, 1)
    store = world.source()
    report = check_sample(taken, store, count=200, seed="s", scratch=tmp_path)
    assert (report.asked, report.same) == (200, 200)


def test_listing_of_s3_in_chains_is_the_same(tmp_path: Path, world: World) -> None:
    """Cut into intervals, the server's own listing order loses no key (invariant 4)."""
    listed = list_live(
        world.source(),
        place="here",
        folder=tmp_path / "live",
        scratch=tmp_path,
        max_age_seconds=3600,
        now=now,
        is_stopping=lambda: False,
        on_progress=lambda _name, _rows: None,
        segment_rows=100,
    )
    assert len(list(listed.folder.glob("chain-*.json"))) > 10
    assert objects(f"{listed.folder}/*.parquet") == world.expected()


def test_inventory_and_directory_are_fetched_from_s3(tmp_path: Path, world: World) -> None:
    """A delivered S3 Inventory shows the same objects as the listing, and its keys are there when asked for.

    What the store lists is in it; of an inventory that ends early it is not (invariant 4).
    """
    rows = [
        f'"{world.bucket}","{quote_plus(PREFIX + key, safe="/")}","{size}","2026-01-01T00:00:00.000Z","{etag}"'
        for key, (size, etag) in world.expected().items()
    ]
    data = gzip.compress(("\n".join(rows) + "\n").encode())
    manifest = json.dumps(
        {
            "sourceBucket": world.bucket,
            "destinationBucket": f"arn:aws:s3:::{world.reports}",
            "version": "2016-11-30",
            "creationTimestamp": str(int(now().timestamp() * 1000)),
            "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
            "files": [{"key": "c/data/0.csv.gz", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
        }
    ).encode()
    world.client.put_object(Bucket=world.reports, Key="c/data/0.csv.gz", Body=data)
    world.client.put_object(Bucket=world.reports, Key="c/1/manifest.json", Body=manifest)
    world.client.put_object(
        Bucket=world.reports, Key="c/1/manifest.checksum", Body=hashlib.md5(manifest).hexdigest().encode()
    )
    world.client.put_object(Bucket=world.reports, Key="users.csv", Body=b"user_id,country\n0001,IE\n")
    taken = world.take(tmp_path, kind="s3-inventory", path=f"store:{world.reports}/c/1/manifest.json")
    assert objects(taken.glob) == world.expected()
    store = world.source()
    assert check_sample(taken, store, count=100, seed="s", scratch=tmp_path).same == 100
    later = replace(taken, as_of=now() + timedelta(days=2))  # by then all of it should be in an inventory
    assert check_complete(later, store, seed="s", scratch=tmp_path) >= 1000
    part = tmp_path / "part.parquet"
    duckdb.execute(f"COPY (SELECT * FROM '{taken.path}' WHERE key < 'users/1') TO '{part}' (FORMAT parquet)")
    with pytest.raises(InputError, match="not in its inventory"):
        check_complete(replace(later, path=part), store, seed="s", scratch=tmp_path)
    workspace = Workspace(tmp_path)
    directory = read_directory(
        Directory(path=f"store:{world.reports}/users.csv", as_of=now()),
        opener=world.store,
        workspace=workspace,
        scratch=workspace.scratch,
        now=now,
    )
    assert directory.rows == 1
