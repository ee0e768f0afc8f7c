"""People go on using the product: users are written, overwritten and deleted without pause, from before the plan until after the
cutover, on a real S3 server. What was acknowledged is at the new home exactly once, and nothing that was deleted is there."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import SmallWorld, build

from migrate.errors import LaterError
from migrate.ledger import Ledger
from migrate.routing import FreezeLimits
from migrate.routing.sql import SqlRouter
from migrate.spec import RoutingColumns

USERS = 4
WRITERS = 2  # a user
PASSES_MAX = 12
TTL_SECONDS = 20


@dataclass
class Acknowledged:
    """What one writer was told to have: the last body of each key, None for a deletion."""

    held: dict[str, bytes | None] = field(default_factory=dict)
    writes: int = 0
    at_home: int = 0  # writes at the new home
    error: BaseException | None = None


class Writer(threading.Thread):
    """Writes one user's objects where the routes say that the user lives, and not while frozen: under names of its own, and
    those of its `share` of what was there before the plan."""

    def __init__(
        self,
        user: str,
        number: int,
        routes: SqlRouter,
        client: Any,
        buckets: dict[str, str],
        share: Mapping[str, bytes],
    ) -> None:
        super().__init__(daemon=True)
        self.user = user
        self._number = number
        self._routes = routes
        self._client = client
        self._buckets = buckets
        self._chance = random.Random(f"{user} {number}")
        self._over = threading.Event()
        self.told = Acknowledged(dict(share))

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._write()
                time.sleep(self._chance.uniform(0.2, 0.8))
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self.told.error = error

    def end(self) -> None:
        self._over.set()
        self.join(30)
        assert not self.is_alive()
        assert self.told.error is None, self.told.error

    def _write(self) -> None:
        chance, known = self._chance, sorted(self.told.held)
        what = chance.random()
        key = chance.choice(known) if known and what < 0.4 else f"users/{self.user}/by-{self._number}/{len(known)}"
        try:
            with self._routes.writing(self.user) as home:
                where = {"Bucket": self._buckets[home], "Key": f"data/{key}"}
                body = None if known and what < 0.15 else f"{key} {self.told.writes} {chance.random()}".encode()
                if body is None:
                    self._client.delete_object(**where)
                else:
                    self._client.put_object(**where, Body=body, ContentType="text/plain")
        except LaterError:
            return
        self.told.held[key] = body
        self.told.writes += 1
        self.told.at_home += home != "us"


@pytest.mark.realstore
@pytest.mark.xdist_group("rgw")
def test_no_acknowledged_write_is_lost_or_doubled_and_no_deletion_undone(
    tmp_path: Path, rgw_server: S3Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta after delta until everybody has moved; the freeze alone keeps the writers off (Invariants 1, 2 and 9)."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)
    for name, value in credentials(rgw_server).items():
        monkeypatch.setenv(name, value)
    world = build(tmp_path, users=USERS, per_user=0, odd=False, large=False)
    world.ledger = postgres_url
    buckets = on_s3(world, rgw_server, per_user=6)
    spec = tmp_path / "plans" / "small.toml"
    text = re.sub(r"\[stores\.singapore\]\n(?:(?!\n?\[).*\n)+", "", spec.read_text()).replace(
        '[sites.singapore]\ncountry = "SG"\n', ""
    )
    more = f'\n[routing]\ndrain_seconds = "5s"\nfreeze_seconds_max = "{TTL_SECONDS}s"\n'
    spec.write_text(text + more, encoding="utf-8")
    client: Any = rgw_server.boto3()
    ledger = Ledger.open(postgres_url)
    try:
        routes = SqlRouter(
            ledger.database,
            "routes",
            RoutingColumns(writers="writers"),
            default_home="us",
            limits=FreezeLimits(5, TTL_SECONDS),
        )
        before = {user: held_at(client, buckets["us"], user) for user in world.users}
        writers = [
            Writer(user, number, routes, client, buckets, dict(list(before[user].items())[number::WRITERS]))
            for user in world.users
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        moved = move_everybody(world)
        time.sleep(1.5)  # at the new homes
        for writer in writers:
            writer.end()
        assert moved == USERS
        homes = {user: routes.read(user).home for user in world.users}
        found = {user: held_at(client, buckets[homes[user]], user) for user in world.users}
    finally:
        ledger.close()
    for user in world.users:
        mine = [writer.told for writer in writers if writer.user == user]
        acknowledged = {key: body for told in mine for key, body in told.held.items()}
        assert len(acknowledged) > len(before[user])
        assert found[user] == {key: body for key, body in acknowledged.items() if body is not None}, user
        assert sum(told.at_home for told in mine) > 0
        assert homes[user] != "us"
        others = [bucket for name, bucket in buckets.items() if name not in ("us", "singapore", homes[user])]
        copies = sum(len(held_at(client, bucket, user)) > 0 for bucket in others)
        assert copies == 1  # the backup
    assert sum(writer.told.writes for writer in writers) > 10 * len(writers)


def move_everybody(world: SmallWorld) -> int:
    """Plan, copy, verify and cut over, then a delta of what has changed since, until all have moved; how many did."""
    answer = world.migrate("doctor", str(world.root / "plans" / "small.toml"), "--json")
    assert answer.code == 0, answer.err
    answer = world.migrate("plan", str(world.root / "plans" / "small.toml"), "--json")
    moved = 0
    for _ in range(PASSES_MAX):
        assert answer.code == 0, answer.err
        answer = world.migrate("run", "--wave", "all", "--json")
        assert answer.code in (0, 4), answer.err
        answer = world.migrate("verify", "--wave", "all", "--json")
        assert answer.code in (0, 3, 4), answer.err
        answer = world.migrate("cutover", "--wave", "all", "--json")
        assert answer.code in (0, 4), (answer.out, answer.err)
        moved += answer.json["users"]["moved"]
        if moved == len(world.users):
            break
        answer = world.migrate("delta", "--json")
    return moved


def held_at(client: Any, bucket: str, user: str) -> dict[str, bytes]:
    """What a bucket has of a user, seen by boto3; each key once."""
    found: dict[str, bytes] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"data/users/{user}/"):
        for item in page.get("Contents", ()):
            key = item["Key"].removeprefix("data/")
            assert key not in found
            found[key] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
    return found
