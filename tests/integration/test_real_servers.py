"""A whole migration between two real S3 servers, killed three times, and then looked at without the tool.

What the tool claims is held against what rclone and boto3 find. The world is `realworld`'s; the servers are Ceph's.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import realworld
from odd_keys import ODD_KEYS
from realworld import PART_BYTES, TARGETS, US, RealWorld
from servers import S3Server

LIMIT_SECONDS = 120  # for what is waited for

SPEC = """
format = 1
name = "real"
[sites]
us = { country = "US" }
singapore = { country = "SG" }
dublin-1 = { country = "IE" }
dublin-2 = { country = "IE" }
hamar = { country = "NO" }
[stores]
us = { site = "us", role = "source", url = "s3://clover-us", endpoint = "SOURCE", region = "us-east-1", credentials = "env:S" }
singapore = { site = "singapore", role = "backup", backup_of = "us", url = "s3://clover-singapore", endpoint = "SOURCE", \
region = "us-east-1", credentials = "env:S" }
dublin-1 = { site = "dublin-1", role = "target", url = "s3://clover-dublin-1", endpoint = "TARGET", region = "us-east-1", \
credentials = "env:T" }
dublin-2 = { site = "dublin-2", role = "target", url = "s3://clover-dublin-2", endpoint = "TARGET", region = "us-east-1", \
credentials = "env:T" }
hamar = { site = "hamar", role = "target", url = "s3://clover-hamar", endpoint = "TARGET", region = "us-east-1", \
credentials = "env:T" }
[directory]
path = "directory.csv"
as_of = AS_OF
[layout]
rules = [
  { name = "files", pattern = "users/{user}/files/{rest}", category = "restricted" },
  { name = "shared", pattern = "shared/{rest}", shared = true },
]
[placement]
rules = [
  { name = "nordic", countries = ["NO", "SE", "FI"], home = ["hamar"], backup = ["dublin-1", "dublin-2"] },
  { name = "others", countries = ["*"], home = ["dublin-1", "dublin-2"], backup = ["dublin-1", "dublin-2", "hamar"] },
]
[residency]
target_countries = ["IE", "NO"]
worker_countries = ["IE"]
[waves]
canary = "2%"
count = 3
[batches]
copies_max = 500
[run]
workers = 2
concurrency = 12
country = "IE"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The workspace, the two servers, and what is in the world."""

    root: Path
    source: S3Server
    target: S3Server
    world: RealWorld

    @property
    def environment(self) -> dict[str, str]:
        secrets = {
            f"{prefix}_{name}": value
            for prefix, server in (("S", self.source), ("T", self.target))
            for name, value in (("ACCESS_KEY_ID", server.access_key), ("SECRET_ACCESS_KEY", server.secret_key))
        }
        return {**os.environ, **secrets, "MIGRATE_OPERATOR": "test"}

    def migrate(self, *arguments: str) -> Any:
        """What the command answers with `--json`; it must end with 0."""
        command = [sys.executable, "-m", "migrate", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr.decode()[-4000:]}"
        return json.loads(done.stdout)

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Start a run, and `kill -9` it with its workers as soon as it is `reached()`. It must be alive then."""
        command = [sys.executable, "-m", "migrate", "run", "--wave", "all", "--limit-bytes", "40MB/s"]
        log = (self.root / "killed.log").open("ab")
        with (
            log,
            subprocess.Popen(command, cwd=self.root, env=self.environment, stderr=log, process_group=0) as process,
        ):
            try:
                until = time.monotonic() + LIMIT_SECONDS
                while not reached():
                    assert process.poll() is None, (self.root / "killed.log").read_text()[-4000:]
                    assert time.monotonic() < until
                    time.sleep(0.3)
                assert process.poll() is None
            finally:
                os.killpg(process.pid, signal.SIGKILL)

    def listed(self, bucket: str) -> dict[str, tuple[int, str]]:
        """Size and ETag of every object in a target's bucket."""
        pages = self.target.boto3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {item["Key"]: (item["Size"], item["ETag"]) for page in pages for item in page.get("Contents", ())}

    def at_targets(self) -> dict[tuple[str, str], tuple[int, str]]:
        """The same for all targets, by bucket and key."""
        return {(bucket, key): shown for bucket in TARGETS for key, shown in self.listed(bucket).items()}

    def parts_under_way(self) -> int:
        """The largest number of parts that an open upload at the targets has."""
        client = self.target.boto3()
        uploads = [
            (bucket, upload["Key"], upload["UploadId"])
            for bucket in TARGETS
            for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        ]
        return max((parts_of(client, *upload) for upload in uploads), default=0)


def parts_of(client: Any, bucket: str, key: str, upload_id: str) -> int:
    """How many parts an upload has; none if it has just ended."""
    try:
        return len(client.list_parts(Bucket=bucket, Key=key, UploadId=upload_id).get("Parts", ()))
    except client.exceptions.NoSuchUpload:
        return 0


@pytest.fixture
def site(tmp_path: Path, rgw_server: S3Server, second_rgw_server: S3Server) -> Site:
    """Both servers with the world on them, and a workspace with its spec."""
    world = realworld.build(rgw_server, second_rgw_server, tmp_path, ODD_KEYS)
    as_of = (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds")
    text = SPEC.replace("SOURCE", rgw_server.endpoint).replace("TARGET", second_rgw_server.endpoint)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "real.toml").write_text(text.replace("AS_OF", as_of), encoding="utf-8")
    return Site(tmp_path, rgw_server, second_rgw_server, world)


@pytest.mark.realstore
@pytest.mark.timeout(900)
def test_a_migration_between_real_servers_survives_three_kills_whole(site: Site) -> None:
    """Invariants 1 to 3, 8: killed thrice with -9, it ends complete, verified at both ends, with untouched sources."""
    before = realworld.snapshot(site.source)
    site.migrate("doctor", "plans/real.toml")
    plan = site.migrate("plan", "plans/real.toml")
    copies = plan["copies"]
    assert copies == 2 * site.world.moving
    at_hamar = sum(row["copies"] for row in plan["by_site"] if row["name"] == "hamar")

    site.run_until(lambda: len(site.listed("clover-hamar")) >= at_hamar // 10)
    site.run_until(lambda: len(site.listed("clover-hamar")) >= at_hamar // 2)
    site.run_until(lambda: site.parts_under_way() >= 3)
    standing = site.migrate("run", "--wave", "all")["standing"]

    outcomes = sum((Counter(wave["outcomes"]) for wave in standing), Counter[str]())
    assert outcomes["copied"] + outcomes["present"] == copies == sum(wave["copies"] for wave in standing)
    verified = site.migrate("verify", "--level", "both-ends")["pass"]
    assert verified["verdicts"] == {"match": copies, "mismatch": 0, "missing": 0, "unknown": 0, "extra": 0}
    assert open_uploads(site) == 0

    expect_each_object_twice(site)
    expect_same_headers_and_tags(site)
    expect_same_parts(site)
    rclone_finds_no_difference(site)
    assert realworld.snapshot(site.source) == before


def open_uploads(site: Site) -> int:
    client = site.target.boto3()
    return sum(len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())) for bucket in TARGETS)


def expect_each_object_twice(site: Site) -> None:
    """Every object that moves is at two sites, and there is nothing else."""
    moving = [key for key in keys_of_us(site) if moves(key)]
    assert len(moving) == site.world.moving
    assert Counter(key for _, key in site.at_targets()) == dict.fromkeys(moving, 2)


def keys_of_us(site: Site) -> list[str]:
    pages = site.source.boto3().get_paginator("list_objects_v2").paginate(Bucket=US)
    return [item["Key"] for page in pages for item in page["Contents"]]


def moves(key: str) -> bool:
    """Whether the world means this key to move."""
    area, _, rest = key.partition("/")
    return area == "users" and realworld.country(int(rest[7:11])) != realworld.STAYING


def expect_same_headers_and_tags(site: Site) -> None:
    """What rclone does not compare: headers, user metadata and tags; of some hundred, of odd keys and of the huge object."""
    found = list(site.at_targets())
    chosen = [place for place in found if "/person-0000/" in place[1] or place[1] == site.world.huge_key]
    chosen += random.Random(0).sample(found, 400)
    source, target = site.source.boto3(), site.target.boto3()

    def both(place: tuple[str, str]) -> tuple[object, object]:
        return facts(source, US, place[1]), facts(target, *place)

    with ThreadPoolExecutor(8) as pool:
        for place, (one, two) in zip(chosen, pool.map(both, chosen), strict=True):
            assert one == two, place


def facts(client: Any, bucket: str, key: str) -> object:
    shown = client.head_object(Bucket=bucket, Key=key)
    headers = [
        shown.get(name) for name in ("ContentType", "ContentEncoding", "CacheControl", "ContentLength", "Metadata")
    ]
    tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return headers, sorted((tag["Key"], tag["Value"]) for tag in tags)


def expect_same_parts(site: Site) -> None:
    """The huge object has the source's parts at both targets, so that its composite ETag is the same."""
    source = site.source.boto3().head_object(Bucket=US, Key=site.world.huge_key)
    assert source["ETag"].endswith(f'-{-(-realworld.HUGE_BYTES // PART_BYTES)}"')
    assert [etag for (_, key), (_, etag) in site.at_targets().items() if key == site.world.huge_key] == [
        source["ETag"],
        source["ETag"],
    ]


def rclone_finds_no_difference(site: Site) -> None:
    """`rclone check --download` of each target bucket against the source, over all keys that rclone can name.

    The user with the odd keys is checked by a list of names, the others by listings, which is quicker by far.
    """
    odd_user = f"users/{realworld.user_id(0)}/"
    for bucket in TARGETS:
        keys = site.listed(bucket)
        named = [key for key in keys if key.startswith(odd_user) and rclone_names(key)]
        others = [key for key in keys if not key.startswith(odd_user)]
        names = site.root / f"{bucket}.txt"
        names.write_text("".join(f"{key}\n" for key in named), encoding="utf-8")
        rclone_check(site, bucket, len(others), "--fast-list", "--exclude", f"/{odd_user}**")
        if named:
            rclone_check(site, bucket, len(named), "--files-from-raw", str(names))


def rclone_names(key: str) -> bool:
    """Keys that rclone takes as they are: no empty or dotted segment, nothing that a list of file names cannot hold."""
    return key.isprintable() and not set(key.split("/")) & {"", ".", ".."} and len(key) < 250 and key == key.strip()


def rclone_check(site: Site, bucket: str, expected: int, *arguments: str) -> None:
    program = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert program is not None
    remotes = {
        f"RCLONE_CONFIG_{remote}_{name}": value
        for remote, server in (("SOURCE", site.source), ("TARGET", site.target))
        for name, value in {
            "TYPE": "s3",
            "PROVIDER": "Ceph",
            "ENDPOINT": server.endpoint,
            "ACCESS_KEY_ID": server.access_key,
            "SECRET_ACCESS_KEY": server.secret_key,
        }.items()
    }
    command = [
        program,
        "check",
        "--download",
        "--one-way",
        "--no-unicode-normalization",
        "--checkers",
        "16",
        *arguments,
    ]
    done = subprocess.run(
        [*command, f"target:{bucket}", f"source:{US}"],
        env={**os.environ, **remotes, "RCLONE_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "0 differences found" in done.stderr
    assert f"{expected} matching files" in done.stderr
