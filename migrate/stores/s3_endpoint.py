"""Where a bucket is to be found: the URL under which its keys hang, and whose certificates are trusted there."""

from __future__ import annotations

import os
import re
from functools import lru_cache

import botocore.session


def base_url(bucket: str, endpoint: str | None, region: str) -> str:
    """The URL before `/KEY`. With an `endpoint`: path style, which every server knows. Without: AWS, by virtual host.

    A bucket whose name holds a dot stays in the path, since a TLS certificate's `*` covers no dot.
    """
    if endpoint is not None:
        return f"{endpoint.rstrip('/')}/{bucket}"
    host = aws_host(region)
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket):
        return f"https://{bucket}.{host}"
    return f"https://{host}/{bucket}"


@lru_cache
def aws_host(region: str) -> str:
    """AWS's S3 host of a region, out of botocore's tables, which know all partitions (`.amazonaws.eu` and others)."""
    resolver = botocore.session.Session().get_component("endpoint_resolver")
    found = resolver.construct_endpoint("s3", region)
    return str(found["hostname"]) if found else f"s3.{region}.amazonaws.com"


def own_certificates() -> str | None:
    """The file of certificates that AWS_CA_BUNDLE names, as for the AWS tools: for servers of one's own. None without it."""
    return os.environ.get("AWS_CA_BUNDLE") or None
