"""AWS regions and their countries."""

from __future__ import annotations

import botocore.session
import pytest

from migrate.regions import REGION_COUNTRIES, aws_regions, is_aws, region_of_arn, region_of_location

# words in botocore's description of a region, and the country that they mean
PLACES = {
    "Cape Town": "ZA", "Hong Kong": "HK", "Taipei": "TW", "Tokyo": "JP", "Seoul": "KR", "Osaka": "JP", "Mumbai": "IN",
    "Hyderabad": "IN", "Singapore": "SG", "Sydney": "AU", "Jakarta": "ID", "Melbourne": "AU", "Malaysia": "MY",
    "New Zealand": "NZ", "Thailand": "TH", "Canada": "CA", "Frankfurt": "DE", "Zurich": "CH", "Stockholm": "SE",
    "Milan": "IT", "Spain": "ES", "Ireland": "IE", "London": "GB", "Paris": "FR", "Tel Aviv": "IL", "UAE": "AE",
    "Bahrain": "BH", "Mexico": "MX", "Sao Paulo": "BR", "US East": "US", "US West": "US", "US-East": "US",
    "US-West": "US", "Beijing": "CN", "Ningxia": "CN", "Germany": "DE",
}  # fmt: skip


def test_the_table_is_botocores() -> None:
    """Each public region that botocore knows is in the table, with the country that its description names, and no other."""
    data = botocore.session.Session().get_component("data_loader").load_data("endpoints")
    known = {
        region: next(country for words, country in PLACES.items() if words in entry["description"])
        for partition in data["partitions"]
        if not partition["partition"].startswith("aws-iso")
        for region, entry in partition["regions"].items()
    }
    assert known == REGION_COUNTRIES


@pytest.mark.parametrize(
    ("endpoint", "region", "found"),
    [
        (None, "eu-west-1", {"eu-west-1"}),
        (None, None, {"us-east-1"}),
        ("https://s3.eu-west-1.amazonaws.com", None, {"eu-west-1"}),
        ("https://s3-eu-west-1.amazonaws.com", None, {"eu-west-1"}),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", {"eu-west-1"}),
        ("https://s3.us-gov-west-1.amazonaws.com", None, {"us-gov-west-1"}),
        ("https://bucket.vpce-1a2b-3c4d.s3.eu-west-1.vpce.amazonaws.com", None, {"eu-west-1"}),
        ("https://s3.cn-north-1.amazonaws.com.cn", None, {"cn-north-1"}),
        ("https://s3.eusc-de-east-1.amazonaws.eu", None, {"eusc-de-east-1"}),
        ("https://s3.us-east-1.amazonaws.com", "eu-west-1", {"us-east-1", "eu-west-1"}),
        ("https://s3.amazonaws.com", None, {"us-east-1"}),
        ("https://s3.amazonaws.com", "eu-west-1", {"us-east-1", "eu-west-1"}),
        ("https://s3-external-1.amazonaws.com", "eu-west-1", {"us-east-1", "eu-west-1"}),
    ],
)
def test_regions_are_read_from_aws_hosts(endpoint: str | None, region: str | None, found: set[str]) -> None:
    """And from the spec: where the two differ, both count."""
    assert is_aws(endpoint)
    assert aws_regions(endpoint, region) == found


@pytest.mark.parametrize(
    "endpoint", ["https://s3.example.eu", "http://127.0.0.1:9000", "https://amazonaws.com.example.eu"]
)
def test_other_hosts_are_not_aws(endpoint: str) -> None:
    """Nothing is guessed from their names."""
    assert not is_aws(endpoint)


def test_old_names_of_locations() -> None:
    """GetBucketLocation says nothing for us-east-1, and EU for eu-west-1."""
    assert [region_of_location(name) for name in ("", "EU", "eu-north-1")] == ["us-east-1", "eu-west-1", "eu-north-1"]


def test_an_arn_names_its_region() -> None:
    """Or nothing does."""
    assert region_of_arn("arn:aws:kms:eu-west-1:111122223333:key/1234") == "eu-west-1"
    assert region_of_arn("alias/photos") is None
    assert region_of_arn("arn:aws:kms::111122223333:key/1234") is None
