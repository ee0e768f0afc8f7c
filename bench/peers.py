"""The peers, out of their wheels, with settings that do them no wrong: as many requests at once as we have."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from servers import S3Server

from bench.pairs import CannotMeasureError, Command, Usage, measure
from bench.stage import PEERS
from bench.worlds import THREADS

_AWS_CONFIG = f"""[default]
region = us-east-1
s3 =
  max_concurrent_requests = {THREADS}
  addressing_style = path
"""


def program(name: str) -> Path:
    """Where a peer is installed. CannotMeasureError where it is not."""
    for folder in (PEERS, Path(sys.executable).parent):
        if (folder / name).exists():
            return folder / name
    raise CannotMeasureError(f"{name} is not installed: make bench sets it up")


def rclone_environment(**servers: S3Server) -> dict[str, str]:
    """The remotes `source:`, `target:` and so on, each at its server."""
    found = {"RCLONE_CONFIG": "/dev/null"}
    for name, server in servers.items():
        prefix = f"RCLONE_CONFIG_{name.upper()}_"
        found |= {
            f"{prefix}TYPE": "s3",
            f"{prefix}PROVIDER": "Ceph",
            f"{prefix}ENDPOINT": server.endpoint,
            f"{prefix}ACCESS_KEY_ID": server.access_key,
            f"{prefix}SECRET_ACCESS_KEY": server.secret_key,
            f"{prefix}REGION": "us-east-1",
            f"{prefix}LIST_VERSION": "2",
        }
    return found


def rclone(
    verb: str,
    source: str,
    target: str,
    *words: str,
    folder: Path,
    environment: dict[str, str],
    limit_seconds: float | None = None,
) -> Usage:
    """`rclone copy` or `rclone check` with 32 transfers and checkers. After `limit_seconds` it is killed."""
    command = rclone_command(verb, source, target, *words)
    return measure(command, folder=folder, environment=environment, limit_seconds=limit_seconds).usage


def rclone_command(verb: str, source: str, target: str, *words: str) -> Command:
    return [program("rclone"), verb, source, target, f"--transfers={THREADS}", f"--checkers={THREADS}", *words]


def aws_sync(source: S3Server, source_bucket: str, target: S3Server, target_bucket: str, *, folder: Path) -> Usage:
    """`aws s3 sync` through a folder: from one server to another it knows no other way."""
    config = folder / "aws-config"
    config.write_text(_AWS_CONFIG)

    def sync(server: S3Server, *words: str) -> Usage:
        environment = {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        command: Command = [
            program("aws"),
            "--endpoint-url",
            server.endpoint,
            "s3",
            "sync",
            "--only-show-errors",
            *words,
        ]
        return measure(command, folder=folder, environment=environment).usage

    between = folder / "aws-between"
    shutil.rmtree(between, ignore_errors=True)
    down = sync(source, f"s3://{source_bucket}", str(between))
    up = sync(target, str(between), f"s3://{target_bucket}")
    shutil.rmtree(between)
    return down + up


def s5cmd_copy(source: S3Server, source_bucket: str, target: S3Server, target_bucket: str, *, folder: Path) -> Usage:
    """`s5cmd cp` through a folder, for the same reason."""

    def copy(server: S3Server, *words: str) -> Usage:
        environment = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        environment |= {"AWS_REGION": "us-east-1"}
        command: Command = [
            program("s5cmd"),
            "--endpoint-url",
            server.endpoint,
            "--numworkers",
            str(THREADS),
            "--log",
            "error",
        ]
        return measure([*command, "cp", *words], folder=folder, environment=environment).usage

    between = folder / "s5cmd-between"
    shutil.rmtree(between, ignore_errors=True)
    down = copy(source, f"s3://{source_bucket}/*", f"{between}/")
    up = copy(target, f"{between}/", f"s3://{target_bucket}/")
    shutil.rmtree(between)
    return down + up
