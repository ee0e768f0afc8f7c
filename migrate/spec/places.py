"""Where a store is: how its bucket, endpoint and folder are written, and which two of them are one place. Pure.

One place can be written in many ways, and two stores at one place would list each other's objects. So what is not written in a
way that this module understands is refused, and what it understands is compared without its spelling. Links in a folder's
path, and names that lead to one server, cannot be seen here: the door follows the links, and `migrate doctor` asks the server.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from os.path import normpath
from pathlib import Path
from urllib.parse import urlsplit

from migrate.regions import is_aws, takes_buckets

# S3 User Guide, "General purpose bucket naming rules". The endings are those of aliases, which stand for a bucket of another
# name, and of buckets that are no general purpose ones.
_BUCKET = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:[a-z0-9-]|\.(?!\.))*[a-z0-9]\Z")
_NO_BUCKET = re.compile(r"xn--.*|sthree-.*|amzn-s3-demo-.*|.*-s3alias|.*--ol-s3|.*\.mrap|.*--x-s3|.*--table-s3|[0-9.]+")
_ENDPOINT = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?/?", re.IGNORECASE)
_DEFAULT_PORTS = (None, 80, 443)


def check_url(url: str) -> str:
    """A store's URL as it was given. ValueError, without the URL, for one that is not understood."""
    scheme, _, rest = url.partition(":")
    if "\0" in rest:
        raise ValueError("no key and no folder holds a NUL")
    if scheme == "file":
        if not rest or rest.startswith("//"):
            raise ValueError("a folder is written file:FOLDER or file:/FOLDER, with one slash at most before it")
    elif scheme == "s3" and rest.startswith("//"):
        bucket, _, prefix = rest[2:].partition("/")
        if not _BUCKET.match(bucket) or _NO_BUCKET.fullmatch(bucket):
            raise ValueError(
                "a bucket's name has 3 to 63 lower-case letters, digits, hyphens and dots, as S3's naming rules say; "
                "it is no alias and no address, and nothing stands before or after it"
            )
        if prefix and any(step in ("", ".", "..") for step in prefix.removesuffix("/").split("/")):
            raise ValueError("no step of a prefix is empty, `.` or `..`: some servers would look for it elsewhere")
    elif scheme != "memory" or not rest:
        raise ValueError("a store is s3://BUCKET/PREFIX/ or file:FOLDER")
    return url


def check_endpoint(endpoint: str) -> str:
    """An endpoint's URL as it was given. ValueError, without the URL, for one that is not understood."""
    if not _ENDPOINT.fullmatch(endpoint):
        raise ValueError("an endpoint is http(s)://HOST or http(s)://HOST:PORT, and nothing more")
    try:
        host, port = _host(endpoint), urlsplit(endpoint).port
        if ":" in host or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
            ip_address(host)
    except ValueError:
        raise ValueError("the endpoint's address or port is none: write 192.0.2.1, [2001:db8::1], :9000") from None
    if port == 0 or "" in host.split("."):
        raise ValueError("the endpoint's host or port is empty")
    if is_aws(endpoint) and not takes_buckets(endpoint):
        raise ValueError(
            "of AWS's hosts an endpoint is one that takes a bucket in the path, such as https://s3.eu-west-1.amazonaws.com; "
            "a bucket's own host, an access point or S3 Transfer Acceleration is not"
        )
    return endpoint


def place_of(url: str, endpoint: str | None) -> tuple[str, ...]:
    """Where a store is, step by step, from a `url` and `endpoint` that were checked: equal for one place however it is written.

    AWS is one server, whatever its regions: a bucket's name is taken once there. Of any other server the host and the port
    count, and the scheme and the default ports do not. All of this machine's own addresses are one.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return (scheme, *Path(normpath(rest)).parts)
    server = "" if scheme != "s3" else "aws" if endpoint is None or is_aws(endpoint) else _server(endpoint)
    return (scheme, server, *rest.strip("/").split("/"))


def _server(endpoint: str) -> str:
    host, port = _host(endpoint), urlsplit(endpoint).port
    try:
        address = ip_address(host)
    except ValueError:
        own = host == "localhost" or host.endswith(".localhost")
    else:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        host, own = str(address), address.is_loopback or address.is_unspecified
    host = "localhost" if own else host
    return host if port in _DEFAULT_PORTS else f"{host}:{port}"


def _host(endpoint: str) -> str:
    """In lower case, and without the dot that may end a name."""
    return (urlsplit(endpoint).hostname or "").removesuffix(".")
