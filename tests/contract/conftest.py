"""What contract tests share: `place`, so that a test runs on every store in `places.PLACES`, and a certificate for TLS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from places import PLACES, Place
from servers import S3Server

from migrate.stores.base import Store


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.realstore, pytest.mark.xdist_group("rgw")] if "rgw" in name else [])
        for name in PLACES
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """An empty store of each implementation."""
    return PLACES[request.param](request)


@pytest.fixture
def store(place: Place) -> Store:
    """The same, to be written."""
    return place.store


@pytest.fixture(
    params=["moto_server", pytest.param("rgw_server", marks=[pytest.mark.realstore, pytest.mark.xdist_group("rgw")])]
)
def real(request: pytest.FixtureRequest) -> S3Server:
    """A server that does what S3 does: moto, and Ceph's gateway."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's own server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
