"""`profile:NAME`: the profile says who we are, and nothing that stands around says it in its place."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from lying import http, lying

from migrate.errors import ExitCode, SpecError
from migrate.stores.s3_credentials import profile_credentials

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"
MACHINE = {"AccessKeyId": "MACHINE", "SecretAccessKey": "s", "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A machine that would lend its role, and keys in the environment: what the machine was asked."""
    requests: list[bytes] = []

    def lend(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(http("200 OK", json.dumps(MACHINE).encode()))

    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with lying(lend) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.endpoint)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        yield requests


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)


def test_a_profile_without_keys_is_refused(tmp_path: Path, asked: list[bytes]) -> None:
    """With exit code 78, and the machine is not even asked for its role."""
    configure(tmp_path, "[profile clover]\nregion = eu-west-1\n")
    with pytest.raises(SpecError, match="'clover' holds no credentials") as caught:
        profile_credentials("clover")
    assert caught.value.exit_code is ExitCode.BAD_SPEC
    assert asked == []


def test_the_machine_would_have_lent_its_role(tmp_path: Path, asked: list[bytes]) -> None:
    """The corrupted twin: botocore's own chain takes the role for the empty profile."""
    configure(tmp_path, "[profile clover]\nregion = eu-west-1\n")
    found = botocore.session.Session(profile="clover").get_credentials()
    assert found is not None
    assert found.access_key == "MACHINE"
    assert asked


@pytest.mark.parametrize("source", ["Ec2InstanceMetadata", "EcsContainer", "Environment"])
@pytest.mark.parametrize("chained", [False, True])
def test_a_profile_that_leaves_it_to_the_machine_is_refused(
    tmp_path: Path, asked: list[bytes], source: str, chained: bool
) -> None:
    """By credential_source, in the profile itself or in one that it takes its credentials from."""
    taking = f"role_arn = arn:aws:iam::1:role/a\ncredential_source = {source}\n"
    if chained:
        configure(
            tmp_path,
            f"[profile clover]\nrole_arn = arn:aws:iam::1:role/b\nsource_profile = base\n[profile base]\n{taking}",
        )
    else:
        configure(tmp_path, f"[profile clover]\n{taking}")
    with pytest.raises(SpecError, match="credential_source"):
        profile_credentials("clover")
    assert asked == []


def test_a_profile_with_keys_is_taken_before_all_else(tmp_path: Path, asked: list[bytes]) -> None:
    """The twin of the refused."""
    configure(tmp_path, f"[profile clover]\naws_access_key_id = PROFILE\naws_secret_access_key = {SECRET}\n")
    found = profile_credentials("clover")()
    assert (found.access_key, found.secret_key, found.token) == ("PROFILE", SECRET, None)
    assert asked == []


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (f"aws_access_key_id =\naws_secret_access_key = {SECRET}", "aws_access_key_id is missing"),
        ("aws_access_key_id = PROFILE\naws_secret_access_key =", "aws_secret_access_key is missing"),
        (f"aws_access_key_id = ASIAPROFILE\naws_secret_access_key = {SECRET}", "aws_session_token is missing"),
        (f"aws_access_key_id = PRO FILE\naws_secret_access_key = {SECRET}", "aws_access_key_id holds blanks"),
    ],
)
def test_a_profile_with_half_a_key_is_refused(tmp_path: Path, asked: list[bytes], keys: str, complaint: str) -> None:
    """By the same rules as env: and file:, and without the secret."""
    configure(tmp_path, f"[profile clover]\n{keys}\n")
    with pytest.raises(SpecError) as caught:
        profile_credentials("clover")
    assert complaint in "".join(caught.value.problems)
    assert SECRET not in "".join([str(caught.value), *caught.value.problems])
    assert asked == []


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path, asked: list[bytes]) -> None:
    """Whatever the environment holds."""
    configure(tmp_path, "")
    with pytest.raises(SpecError, match="ProfileNotFound"):
        profile_credentials("clover")
    assert asked == []
