"""Places: one place is one however it is written, two are two, and what is not understood is refused without being repeated."""

from __future__ import annotations

from itertools import combinations

import pytest

from migrate.spec.places import check_endpoint, check_url, place_of

AWS = [
    None,
    "https://s3.amazonaws.com",
    "https://s3.amazonaws.com:443/",
    "http://s3.amazonaws.com:80",
    "https://S3.EU-WEST-1.amazonaws.com.",
    "https://s3-eu-west-1.amazonaws.com",
    "https://s3.dualstack.eu-west-1.amazonaws.com",
    "https://s3-fips.us-east-1.amazonaws.com",
    "https://s3-external-1.amazonaws.com",
    "https://bucket.vpce-1a2b-3c4d.s3.eu-west-1.vpce.amazonaws.com",
    "https://s3.cn-north-1.amazonaws.com.cn",
    "https://s3.eusc-de-east-1.amazonaws.eu",
]
OWN = [
    "https://s3.dublin.example",
    "https://s3.dublin.example/",
    "https://s3.dublin.example:443",
    "https://S3.Dublin.Example.",
    "http://s3.dublin.example",
    "http://s3.dublin.example:80/",
    "HTTPS://s3.dublin.example.:443/",
]
WITH_PORT = ["http://s3.dublin.example:9000", "https://s3.dublin.example.:9000/", "https://S3.dublin.example:09000"]
SIXES = ["http://[2001:db8::1]", "https://[2001:DB8:0:0::0:1]/", "http://[2001:0db8:0000:0000:0000:0000:0000:0001]:80"]
FOURS = ["http://192.0.2.1", "http://[::ffff:192.0.2.1]", "http://[::ffff:c000:201]:80"]
HERE = [
    f"http://{host}:9000" for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]")
]
SPELLINGS: list[list[str | None]] = [AWS, [*OWN], [*WITH_PORT], [*SIXES], [*FOURS], [*HERE]]


@pytest.mark.parametrize("endpoints", SPELLINGS)
def test_one_server_is_one_place_however_it_is_written(endpoints: list[str | None]) -> None:
    """And each way of writing it is a good endpoint."""
    for endpoint in endpoints:
        assert endpoint is None or check_endpoint(endpoint) == endpoint
    assert len({place_of("s3://photos/p/", endpoint) for endpoint in endpoints}) == 1


def test_two_servers_are_two_places() -> None:
    """The twin: nothing is folded that differs."""
    servers = [endpoints[0] for endpoints in SPELLINGS]
    others = ["http://127.0.0.1:9001", "https://s3.dublin.example2", "http://192.0.2.11", "http://[2001:db8::2]"]
    assert all(place_of("s3://b", one) != place_of("s3://b", two) for one, two in combinations([*servers, *others], 2))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("s3://photos", "s3://photos/"),
        ("s3://photos/p", "s3://photos/p/"),
        ("file:a/b", "file:./a//c/../b/"),
        ("file:/srv/a", "file:/srv/./a"),
    ],
)
def test_two_spellings_of_an_url_are_one_place(one: str, two: str) -> None:
    """A last slash, and steps that lead nowhere."""
    assert place_of(check_url(one), None) == place_of(check_url(two), None)


@pytest.mark.parametrize(
    ("one", "two"),
    [("s3://photos", "s3://photos-2"), ("s3://b-1/p", "s3://b-1/pq"), ("file:a", "file:/a"), ("file:a", "file:A")],
)
def test_other_urls_are_other_places(one: str, two: str) -> None:
    """The twin."""
    assert place_of(check_url(one), None) != place_of(check_url(two), None)


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3:///p", "s3:photos", "s3://ab", "s3://" + "a" * 64, "s3://Photos", "s3://photos_1", "s3://-photos",
        "s3://photos.", "s3://pho..tos", "s3://192.168.5.4", "s3://xn--photos", "s3://sthree-photos", "s3://photos-s3alias",
        "s3://photos--ol-s3", "s3://photos.mrap", "s3://photos--euw1-az1--x-s3", "s3://photos#p", "s3://photos?p", "s3://key@photos",
        "s3://photos:443", "s3://photos\n", "s3://phötos", "s3://photos//p", "s3://photos/./p", "s3://photos/a/../p",
        "s3://photos/p//", "s3://photos/a\0b", "file://host/folder", "file:///folder", "file:a\0b", "ftp://x",
    ],
)  # fmt: skip
def test_an_url_that_is_not_understood_is_refused(url: str) -> None:
    """Bucket names keep S3's rules; a prefix and a folder have one way to be read. The message does not repeat it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - pydantic takes its text
        check_url(url)
    assert url not in str(caught.value)


@pytest.mark.parametrize("url", ["file:", "memory:"])
def test_an_url_that_leads_nowhere_is_refused(url: str) -> None:
    """A scheme is no place."""
    with pytest.raises(ValueError, match=r"written file:FOLDER|is s3://BUCKET/PREFIX/ or file:FOLDER"):
        check_url(url)


@pytest.mark.parametrize(
    "endpoint",
    [
        "s3.example", "ftp://s3.example", "https://", "https:///", "https://s3.example/path", "https://s3.example?", "https://s3.example#",
        "https://s3.example/?a=b", "https://key:secret@s3.example", "https://@s3.example", "https://s3.example:", "https://s3.example:0",
        "https://s3.example:65536", "https://s3.example:-1", "https://.s3.example", "https://s3..example", "https://.", "https://s3%2eexample",
        "https://s3.example\\.other", "https://sß.example", "https://s3.example\n", " https://s3.example", "https://127.1", "http://2130706433",
        "http://0x7f.0.0.1", "http://0x7f000001", "http://127.0.0.01", "http://256.0.0.1", "http://[::1", "http://[::1::2]", "http://[fe80::1%eth0]",
        "http://::1", "https://photos.s3.amazonaws.com", "https://photos.s3.eu-west-1.amazonaws.com", "https://s3-accelerate.amazonaws.com",
        "https://s3-website-eu-west-1.amazonaws.com", "https://s3-website.eu-west-1.amazonaws.com", "https://s3-control.eu-west-1.amazonaws.com",
        "https://x-1.s3-accesspoint.eu-west-1.amazonaws.com", "https://photos.vpce-1.s3.eu-west-1.vpce.amazonaws.com",
        "https://s3.eu-west-1.api.aws",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_not_understood_is_refused(endpoint: str) -> None:
    """Scheme, host and port, and nothing that a client could read as another host. The message does not repeat it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - pydantic takes its text
        check_endpoint(endpoint)
    assert endpoint not in str(caught.value)
    assert "secret" not in str(caught.value)
