"""The door: who is let in, to which place, to do what; and that there is no other way to the data."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import migrate
from migrate.errors import MigrateError, RefusedError, SpecError, UnreachableError
from migrate.model import Attributes, Purpose
from migrate.spec import Spec, spec_from_data
from migrate.stores.base import Capabilities
from migrate.stores.door import Door, Visitor
from migrate.stores.memory import forget_places, place
from migrate.workspace import Workspace

PACKAGE = Path(migrate.__file__).parent

IRELAND: dict[str, Any] = {"url": "s3://photos/p", "endpoint": "https://s3.dublin.example", "credentials": "env:EU"}


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))


def spec(**stores: dict[str, Any]) -> Spec:
    """A spec with a source `us` and a target `dublin`; more stores, or other ones, by name."""
    tables: dict[str, dict[str, Any]] = {
        "us": {"site": "us", "role": "source", "url": "memory:us"},
        "dublin": {"site": "dublin", "role": "target", "url": "memory:dublin"},
    }
    for name, table in stores.items():
        role = "target" if name.startswith("dublin") else "source"
        tables[name] = {"site": "us" if role == "source" else "dublin", "role": role, **table}
    return spec_from_data(
        {
            "format": 1,
            "name": "t",
            "sites": {"us": {"country": "US"}, "dublin": {"country": "IE"}, "singapore": {"country": "SG"}},
            "stores": tables,
            "directory": {"path": "d.csv", "as_of": "2026-11-01T00:00:00Z"},
            "layout": {"rules": [{"name": "all", "pattern": "{user}/{rest}", "category": "restricted"}]},
            "placement": {"rules": [{"name": "all", "countries": ["*"], "home": ["dublin"]}]},
            "residency": {"target_countries": ["IE", "NO"], "worker_countries": ["IE", "US"]},
        },
        place="t.toml",
    )


def door(
    root: Path,
    of: Spec | None = None,
    purpose: Purpose = Purpose.COPY,
    country: str | None = "IE",
    capabilities: dict[str, Capabilities] | None = None,
    log: Log | None = None,
) -> Door:
    visitor = Visitor("ann", "host", country, purpose, "0123456789abcdef0123")
    environment = {"EU_ACCESS_KEY_ID": "id", "EU_SECRET_ACCESS_KEY": "very-secret"}
    return Door(
        of or spec(),
        Workspace(root),
        visitor,
        capabilities=capabilities or {},
        environment=environment,
        log=log or Log(),
    )


@pytest.fixture(autouse=True)
def _clean_places() -> Iterator[None]:
    yield
    forget_places()


def write(one: Door, name: str) -> None:
    one.open(name).put(
        "k", b"", attributes=Attributes(), tags={}, md5=bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")
    )


# who


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("country", [None, "SG", "ie"])
def test_a_worker_elsewhere_is_refused(tmp_path: Path, purpose: Purpose, country: str | None) -> None:
    """Invariant 7: for every purpose, sources and targets alike; an undeclared country is no country."""
    one = door(tmp_path, purpose=purpose, country=country)
    for name in ("us", "dublin"):
        with pytest.raises(RefusedError) as caught:
            one.open(name)
        assert caught.value.exit_code == 77


def test_a_worker_in_an_allowed_country_comes_in(tmp_path: Path) -> None:
    """The twin."""
    assert door(tmp_path).open("us").name == "us"


@pytest.mark.parametrize(
    ("country", "more"),
    [
        ("SG", {}),
        ("IE", {"credentials": "env:NOBODY"}),
        ("IE", {"credentials": "profile:nobody"}),
        ("IE", {"endpoint": None, "region": "us-east-1"}),
        ("IE", {"url": "file:nowhere", "endpoint": None, "credentials": None}),
    ],
)
def test_who_only_asks_is_refused_as_who_opens(tmp_path: Path, country: str, more: dict[str, Any]) -> None:
    """Invariant 7: `admit` says what `open` says; and lets in who is let in."""
    given = {name: value for name, value in {**IRELAND, **more}.items() if value is not None}
    said = []
    for ask in (Door.admit, Door.open):
        with pytest.raises(MigrateError) as caught:
            ask(door(tmp_path, spec(dublin=given), country=country), "dublin")
        said.append((type(caught.value), caught.value.what))
    assert said[0] == said[1]
    door(tmp_path, spec(dublin=IRELAND)).admit("dublin")


# what for


@pytest.mark.parametrize(
    ("purpose", "name", "writable"),
    [
        (Purpose.COPY, "dublin", True),
        (Purpose.DOCTOR, "dublin", True),
        (Purpose.PLAN, "dublin", False),
        (Purpose.VERIFY, "dublin", False),
        (Purpose.FORGET, "dublin", False),
        (Purpose.SEND_BACK, "us", True),
        *[(purpose, "us", False) for purpose in Purpose if purpose is not Purpose.SEND_BACK],
    ],
)
def test_sources_are_written_to_by_an_approved_way_back_alone(
    tmp_path: Path, purpose: Purpose, name: str, writable: bool
) -> None:
    """Else sources are read, and so are targets by who plans or verifies: nothing reaches the store."""
    asked: list[str] = []
    place(name).fault = lambda operation, key: asked.append(operation)
    one = door(tmp_path, purpose=purpose)
    if writable:
        write(one, name)
        assert asked == ["put"]
        return
    with pytest.raises(RefusedError):
        write(one, name)
    assert asked == []


DELETING = {
    "us": {Purpose.ROLLBACK, Purpose.SEND_BACK, Purpose.PURGE},
    "dublin": {Purpose.COPY, Purpose.DOCTOR, Purpose.FORGET},
}


@pytest.mark.parametrize("name", DELETING)
@pytest.mark.parametrize("purpose", Purpose)
def test_who_may_delete_where_is_named(tmp_path: Path, purpose: Purpose, name: str) -> None:
    """A source by who purges or takes back, a target by who copies or erases; for anybody else nothing reaches the store."""
    asked: list[str] = []
    place(name).fault = lambda operation, key: asked.append(operation)
    store = door(tmp_path, purpose=purpose).open(name)
    if purpose in DELETING[name]:
        store.delete("k")
        assert asked == ["delete"]
        return
    with pytest.raises(RefusedError):
        store.delete("k")
    assert asked == []


@pytest.mark.parametrize("role", ["source", "backup", "reports"])
def test_every_role_but_target_is_read_only(tmp_path: Path, role: str) -> None:
    """Folders too."""
    (tmp_path / "f").mkdir()
    table = {"role": role, "url": "file:f", **({"backup_of": "us"} if role == "backup" else {})}
    one = door(tmp_path, spec(other=table), Purpose.DOCTOR)
    with pytest.raises(RefusedError):
        write(one, "other")
    assert os.listdir(tmp_path / "f") == []


# where


def test_a_target_in_a_forbidden_country_is_refused(tmp_path: Path) -> None:
    """Invariant 7, at the opening as well: a spec that came by another way than parsing does not help."""
    allowed = spec()
    changed = allowed.model_copy(
        update={"residency": allowed.residency.model_copy(update={"target_countries": ("NO",)})}
    )
    with pytest.raises(RefusedError, match="IE"):
        door(tmp_path, changed).open("dublin")


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"endpoint": None, "region": "us-east-1"}, "US"),
        ({"endpoint": None}, "US"),
        ({"endpoint": "https://s3.eu-central-1.amazonaws.com"}, "DE"),
        ({"endpoint": "https://s3.eu-west-1.amazonaws.com", "region": "eu-west-2"}, "GB"),
        ({"endpoint": None, "region": "eu-atlantis-1"}, "not known"),
        ({"endpoint": "https://s3.amazonaws.com", "region": "eu-west-1"}, "US"),
        ({"kms_key": "arn:aws:kms:eu-west-2:111122223333:key/1"}, "GB"),
        ({"kms_key": "arn:aws:kms::111122223333:key/1"}, "does not say"),
        ({"endpoint": None, "region": "eu-west-1", "kms_key": "arn:aws:kms:us-east-1:111122223333:key/1"}, "US"),
    ],
)
def test_a_region_or_key_elsewhere_is_refused(tmp_path: Path, store: dict[str, Any], said: str) -> None:
    """Invariant 7: what AWS's names show is held against the site's country; what is unknown is not guessed."""
    with pytest.raises(RefusedError, match=said):
        door(tmp_path, spec(dublin={**IRELAND, **store})).open("dublin")


@pytest.mark.parametrize("endpoint", [None, "https://s3.eu-central-1.amazonaws.com"])
def test_a_key_of_another_region_is_refused(tmp_path: Path, endpoint: str | None) -> None:
    """In the same country too: S3 takes no such key, and one that it took would make the data depend on two regions."""
    of = {
        **IRELAND,
        "endpoint": endpoint,
        "region": "eu-central-1",
        "kms_key": "arn:aws-eusc:kms:eusc-de-east-1:1:key/1",
    }
    german = spec(dublin=of)
    sites = {**german.sites, "dublin": german.sites["dublin"].model_copy(update={"country": "DE"})}
    residency = german.residency.model_copy(update={"target_countries": ("DE",)})
    with pytest.raises(RefusedError, match="the KMS key is in eusc-de-east-1, and the bucket in eu-central-1"):
        door(tmp_path, german.model_copy(update={"sites": sites, "residency": residency})).open("dublin")


@pytest.mark.parametrize(
    "store",
    [
        {},
        {"region": "anything"},
        {"endpoint": None, "region": "eu-west-1"},
        {"endpoint": "https://s3.eu-west-1.amazonaws.com", "kms_key": "arn:aws:kms:eu-west-1:111122223333:key/1"},
    ],
)
def test_a_region_at_home_is_let_through(tmp_path: Path, store: dict[str, Any]) -> None:
    """The twin. Another server's name shows nothing: doctor asks it."""
    one = door(tmp_path, spec(dublin={**IRELAND, **store}))
    assert one.open("dublin").name == "dublin"
    one.close()


def test_an_s3_source_elsewhere_than_it_says_is_refused(tmp_path: Path) -> None:
    """The spec's sites are what every report speaks of: they must be true for sources too."""
    table = {"url": "s3://photos", "region": "ap-southeast-1", "credentials": "env:EU"}
    with pytest.raises(RefusedError, match="SG"):
        door(tmp_path, spec(us=table)).open("us")


# folders


@pytest.mark.parametrize(("one", "other"), [("file:a", "file:link"), ("file:link/b", "file:a")])
def test_folders_that_share_files_are_refused(tmp_path: Path, one: str, other: str) -> None:
    """What lies in two stores would be in two countries. The spec sees it in the names; the door follows links as well."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(RefusedError, match=r"us and dublin|dublin and us"):
        door(tmp_path, spec(us={"url": one}, dublin={"url": other}))


@pytest.mark.parametrize("url", ["file:.", "file:.migrate", "file:.migrate/plans"])
def test_the_workspace_itself_is_no_store(tmp_path: Path, url: str) -> None:
    """Ledger and manifests are not to be copied, and no copy is to lie among them."""
    with pytest.raises(RefusedError, match="workspace"):
        door(tmp_path, spec(us={"url": url}))


def test_one_folder_written_from_two_roots_is_refused(tmp_path: Path) -> None:
    """From the workspace and from the machine's root: the spec cannot see it, the door can."""
    (tmp_path / "a").mkdir()
    with pytest.raises(RefusedError, match="us and dublin"):
        door(tmp_path, spec(us={"url": "file:a"}, dublin={"url": f"file:{tmp_path}/a/inner"}))


def test_folders_are_found_from_the_workspace(tmp_path: Path) -> None:
    """Wherever the process stands; a leading `/` is the machine's root."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "k").write_bytes(b"x")
    (tmp_path / "two").mkdir()
    opened = door(tmp_path, spec(us={"url": "file:one"}, dublin={"url": f"file:{tmp_path}/two"}))
    assert opened.open("us").head("k").size == 1
    write(opened, "dublin")
    assert (tmp_path / "two" / "k").exists()
    opened.close()


def test_a_folder_that_became_a_link_is_refused(tmp_path: Path) -> None:
    """Between the door's making and the opening."""
    for name in ("one", "elsewhere"):
        (tmp_path / name).mkdir()
    one = door(tmp_path, spec(dublin={"url": "file:one"}))
    (tmp_path / "one").rmdir()
    (tmp_path / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="link"):
        one.open("dublin")


def test_a_missing_folder_is_unreachable(tmp_path: Path) -> None:
    """None is made."""
    with pytest.raises(UnreachableError):
        door(tmp_path, spec(dublin={"url": "file:nowhere"})).open("dublin")
    assert not (tmp_path / "nowhere").exists()


# the opening itself


def test_a_store_is_opened_once_and_logged(tmp_path: Path) -> None:
    """Who reads the log sees what was opened for what; no secret, no key."""
    log = Log()
    one = door(tmp_path, spec(dublin=IRELAND), log=log)
    assert one.open("dublin") is one.open("dublin")
    [(event, values)] = log.lines
    assert (event, values["store"], values["purpose"], values["country"]) == ("store_opened", "dublin", "copy", "IE")
    assert values["plan"] == "0123456789abcdef"
    assert "very-secret" not in repr(values)
    one.close()


def test_nothing_is_logged_of_a_refusal(tmp_path: Path) -> None:
    """The log says what was opened, not what was tried."""
    log = Log()
    with pytest.raises(RefusedError):
        door(tmp_path, country="SG", log=log).open("us")
    assert log.lines == []


def test_capabilities_are_what_doctor_found(tmp_path: Path) -> None:
    """Of an S3 server that nobody probed, nothing is assumed; who probes must not be stopped by that."""
    found = {"dublin": Capabilities(tags=True)}
    s3 = spec(dublin=IRELAND)
    assert door(tmp_path, s3).open("dublin").capabilities == Capabilities()
    assert door(tmp_path, s3, capabilities=found).open("dublin").capabilities == found["dublin"]
    assert door(tmp_path, s3, Purpose.DOCTOR, capabilities=found).open("dublin").capabilities.multipart


@pytest.mark.parametrize("reference", ["env:NOBODY", "file:none.toml", "profile:no-such-profile-anywhere"])
def test_missing_credentials_stop_the_opening(tmp_path: Path, reference: str) -> None:
    """With exit code 78, before anything is sent."""
    with pytest.raises(SpecError):
        door(tmp_path, spec(dublin={**IRELAND, "credentials": reference})).open("dublin")


def test_a_profile_gives_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of the AWS configuration files."""
    (tmp_path / "aws").write_text("[profile clover]\naws_access_key_id = id\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    one = door(tmp_path, spec(dublin={**IRELAND, "credentials": "profile:clover"}))
    assert one.open("dublin").name == "dublin"
    one.close()


def test_folders_do_not_pay_for_s3() -> None:
    """The door loads the AWS libraries when the first s3 store is opened, and not before."""
    code = (
        "import sys, migrate.stores.door; print(sorted({'boto3', 'botocore', 'obstore', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# no other way

STORES = {"S3Store", "FileStore", "MemoryStore"}
CLIENTS = {"boto3.client", "boto3.resource", "boto3.session.Session", "boto3.Session", "S3Client", "FastWriter"}
MAY = {"stores/door.py", "stores/s3.py"}  # the door; and S3Store, which makes its own two clients


def constructions(source: str) -> list[str]:
    """Calls that make a store or a client of one, under whatever name they were imported, and imports that could."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
                if (node.module or "").split(".")[0] == "obstore" and alias.name.endswith("Store"):
                    names[alias.asname or alias.name] = "S3Client"
                if node.module in ("boto3", "boto3.session"):
                    names[alias.asname or alias.name] = "boto3.client"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            first, _, rest = called.partition(".")
            whole = names.get(first, first) + (f".{rest}" if rest else "")
            if whole in CLIENTS or whole.split(".")[-1] in STORES or (whole.startswith("obstore.store.")):
                found.append(whole)
    return found


def test_only_the_door_constructs_stores() -> None:
    """One door to the data: no module of the product goes round it."""
    found = {
        str(path.relative_to(PACKAGE)): made
        for path in sorted(PACKAGE.rglob("*.py"))
        if str(path.relative_to(PACKAGE)) not in MAY and (made := constructions(path.read_text(encoding="utf-8")))
    }
    # obstore's client is made where it is used; and who imagines the demo's world must fill its sources, which no visitor may
    assert set(found) <= {"stores/s3_fast.py", "demo/world.py"}


@pytest.mark.parametrize(
    "source",
    [
        "from migrate.stores.s3 import S3Store\nS3Store('a', 'b')",
        "from migrate.stores.file import FileStore as Folder\nFolder('a', p)",
        "from migrate.stores import memory\nmemory.MemoryStore('a', p)",
        "import boto3\nboto3.client('s3')",
        "import boto3 as b\nb.session.Session()",
        "from boto3 import client\nclient('s3')",
        "from obstore.store import S3Store as Fast\nFast('b')",
        "import obstore\nobstore.store.from_url('s3://b')",
    ],
)
def test_a_way_round_the_door_is_found(source: str) -> None:
    """The corrupted twins."""
    assert constructions(source) != []
