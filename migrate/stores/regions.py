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

_AWS_HOST = re.compile(r"(?:.*\.)?amazonaws\.(?:com|com\.cn|eu)\.?", re.IGNORECASE)
_REGION_LABEL = re.compile(r"(?:s3-)?([a-z]{2,4}(?:-[a-z]+)+-[0-9]+)")


def is_aws(endpoint: str | None) -> bool:
    """Whether requests go to AWS: no endpoint of one's own, or one of AWS's hosts."""
    return endpoint is None or _AWS_HOST.fullmatch(urlsplit(endpoint).hostname or "") is not None


def aws_regions(endpoint: str | None, region: str | None) -> set[str]:
    """The regions that a store at AWS is said to be in: by its endpoint's host, and by `region`.

    More than one is a contradiction. Without either, S3 takes requests as for us-east-1.
    """
    labels = (urlsplit(endpoint).hostname or "").split(".") if endpoint is not None else []
    named = {match[1] for label in labels if (match := _REGION_LABEL.fullmatch(label))}
    if region is not None:
        named.add(region)
    return named or {"us-east-1"}


def region_of_location(location: str) -> str:
    """The region that GetBucketLocation's answer means."""
    return _OLD_LOCATIONS.get(location, location)


def region_of_arn(arn: str) -> str | None:
    """The region in an ARN; None where it names none."""
    parts = arn.split(":")
    return parts[3] or None if len(parts) >= 6 and parts[0] == "arn" else None
