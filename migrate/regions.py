"""In which country an AWS region is, and what region an S3 endpoint of AWS is in. Pure.

Source: AWS documentation, "AWS Regions and Availability Zones" (the country of each region), read in November 2026; a test holds
the table against the regions that botocore knows. A region that is not in it is not guessed at. The isolated partitions
(`aws-iso` and its like) are left out: no public document says where they are.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

REGION_COUNTRIES = {
    "af-south-1": "ZA",
    "ap-east-1": "HK",
    "ap-east-2": "TW",
    "ap-northeast-1": "JP",
    "ap-northeast-2": "KR",
    "ap-northeast-3": "JP",
    "ap-south-1": "IN",
    "ap-south-2": "IN",
    "ap-southeast-1": "SG",
    "ap-southeast-2": "AU",
    "ap-southeast-3": "ID",
    "ap-southeast-4": "AU",
    "ap-southeast-5": "MY",
    "ap-southeast-6": "NZ",
    "ap-southeast-7": "TH",
    "ca-central-1": "CA",
    "ca-west-1": "CA",
    "cn-north-1": "CN",
    "cn-northwest-1": "CN",
    "eu-central-1": "DE",
    "eu-central-2": "CH",
    "eu-north-1": "SE",
    "eu-south-1": "IT",
    "eu-south-2": "ES",
    "eu-west-1": "IE",
    "eu-west-2": "GB",
    "eu-west-3": "FR",
    "eusc-de-east-1": "DE",
    "il-central-1": "IL",
    "me-central-1": "AE",
    "me-south-1": "BH",
    "mx-central-1": "MX",
    "sa-east-1": "BR",
    "us-east-1": "US",
    "us-east-2": "US",
    "us-gov-east-1": "US",
    "us-gov-west-1": "US",
    "us-west-1": "US",
    "us-west-2": "US",
}

# S3 API reference, GetBucketLocation: the two names that are no regions' names
_OLD_LOCATIONS = {"": "us-east-1", "EU": "eu-west-1"}

_AWS_HOST = re.compile(r"(?:.*\.)?amazonaws\.(?:com|com\.cn|eu)\.?|.*\.aws\.?", re.IGNORECASE)
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]+"
_REGION_LABEL = re.compile(rf"(?:s3-)?({_REGION})")
# AWS General Reference, "Amazon S3 endpoints and quotas", and S3 User Guide, "AWS PrivateLink for Amazon S3"
_TAKES_BUCKETS = re.compile(
    rf"(?:s3(?:-fips)?(?:\.dualstack)?(?:[.-](?:{_REGION}|external-1))?|bucket\.vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce)"
    r"\.amazonaws\.(?:com|com\.cn|eu)\.?"
)


def is_aws(endpoint: str | None) -> bool:
    """Whether requests go to AWS: no endpoint of one's own, or one of AWS's hosts."""
    return endpoint is None or _AWS_HOST.fullmatch(urlsplit(endpoint).hostname or "") is not None


def takes_buckets(endpoint: str) -> bool:
    """Whether an endpoint of AWS's takes a bucket in the path, as all requests to an endpoint have it.

    Not so a bucket's own host (`BUCKET.s3…`), where the path's first step is a part of the key, an access point, or S3 Transfer
    Acceleration, where the bytes enter at whatever place of AWS's is near.
    """
    return _TAKES_BUCKETS.fullmatch(urlsplit(endpoint).hostname or "") is not None


def aws_regions(endpoint: str | None, region: str | None) -> set[str]:
    """The regions that a store at AWS is said to be in: by its endpoint's host, and by `region`.

    More than one is a contradiction. A host that names none is us-east-1's, and so are requests without a host or a region.
    """
    if endpoint is None:
        return {region or "us-east-1"}
    labels = (urlsplit(endpoint).hostname or "").split(".")
    named = {match[1] for label in labels if (match := _REGION_LABEL.fullmatch(label))} or {"us-east-1"}
    return named | {region} if region is not None else named


def region_of_location(location: str) -> str:
    """The region that GetBucketLocation's answer means."""
    return _OLD_LOCATIONS.get(location, location)


def region_of_arn(arn: str) -> str | None:
    """The region in an ARN; None where it names none."""
    parts = arn.split(":")
    return parts[3] or None if len(parts) >= 6 and parts[0] == "arn" else None
