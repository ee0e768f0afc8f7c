"""A planted secret and a planted person are looked for everywhere after the whole way: in files, their names, Parquet, the
ledger, outputs, crash files and the arguments of processes (Invariant 10). A leak that is planted on purpose is found."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psycopg
import pytest
from s3world import credentials, on_s3
from servers import S3Server
from smallworld import SmallWorld, build

from migrate.privacy import Pseudonyms

PERSON = "zq-canary-person-7f3a"
KEY = "canarykey-51c9"
PASSWORD = "canarypassword-a2d4"
ENVIRONMENT_SECRET = "canarysecret-env-9b17"
PROFILE_SECRET = "canarysecret-profile-03ce"
FILE_SECRET = "canarysecret-file-d8f0"
SECRETS = (PASSWORD, ENVIRONMENT_SECRET, PROFILE_SECRET, FILE_SECRET)
SECONDS = 120

# Loaded by each Python that a test starts: a bug at the place that CANARY_BUG names, whose text holds all that must not be shown.
BUGS = """
import os, sys
where = os.environ.get("CANARY_BUG")
if where and "migrate" in " ".join(sys.orig_argv):
    import importlib
    module, _, name = where.rpartition(".")
    found = importlib.import_module(module)
    def bug(*arguments, **options):
        local = os.environ["CANARY_TEXT"]
        raise KeyError(local) from ValueError(repr(arguments)[:100_000] + local)
    setattr(found, name, bug)
"""


@dataclass
class Seen:
    """Everything that was seen: by place, its bytes. `asked` are outputs that were asked for by name."""

    texts: dict[str, bytes] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def add(self, place: str, text: bytes | str, *, asked: bool = False) -> None:
        self.texts[place] = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
        if asked:
            self.asked.add(place)

    def add_folder(self, folder: Path) -> None:
        """Names and content of all files; what Parquet compresses is read as rows."""
        for path in sorted(folder.rglob("*")):
            place = str(path.relative_to(folder))
            self.add(f"name {place}", place)
            if path.is_file() and not path.is_symlink():
                self.add(f"file {place}", path.read_bytes() + rows_of(path))

    def places(self, *needles: str) -> set[str]:
        return {place for place, text in self.texts.items() if any(needle.encode() in text for needle in needles)}


def rows_of(path: Path) -> bytes:
    if path.suffix != ".parquet":
        return b""
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT * FROM read_parquet('{path}', hive_partitioning = false)").fetchall()
    return repr(rows).encode()


def dump(url: str) -> str:
    """Every row of every table of a PostgreSQL database."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = {
            name: connection.execute(f'SELECT t::text FROM "{name}" AS t').fetchall()  # type: ignore[call-overload]
            for (name,) in names
        }
    return repr(rows)


def command_lines(pid: int) -> Iterator[tuple[str, bytes]]:
    """The arguments of a process and of its children, as every user of the machine sees them."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (str(pid), *children):
            yield each, Path(f"/proc/{each}/cmdline").read_bytes()
    except OSError:
        return  # it has ended


@dataclass
class Way:
    """The whole way, command by command, with everything that was said."""

    world: SmallWorld
    environment: dict[str, str]
    seen: Seen = field(default_factory=Seen)
    number: int = 0

    def go(self, *words: str, code: int | None, asked: bool = False, **environment: str) -> str:
        """Run a command, with --debug; what it said."""
        self.number += 1
        process = self.start(*words, **environment)
        while process.poll() is None:
            self.watch(process)
            time.sleep(0.02)
        out, err = process.communicate(timeout=SECONDS)
        place = f"output {self.number} {words[0]} {process.returncode}"
        self.seen.add(place, out + err, asked=asked)
        if code is not None:
            assert process.returncode == code, (words, out.decode(), err.decode())
        return (out + err).decode()

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "migrate", "--workspace", str(self.world.root), "--debug", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **self.environment, **environment},
            start_new_session=True,
            umask=0o022,
        )

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        for pid, line in command_lines(process.pid):
            self.seen.add(f"arguments {self.number} {pid} {len(line)}", line)


@pytest.fixture
def way(tmp_path: Path, moto_server: S3Server, postgres_url: str) -> Way:
    """A world on buckets with a canary user, whose secrets come by environment, profile and file, and a ledger with a password.

    The workspace's private folder is there already, and is open to all.
    """
    world = build(tmp_path / "w", users=4, per_user=0, copies_max=8, odd=False, large=False)
    world.users[PERSON] = "SE"
    directory = world.root / "users.csv"
    directory.write_text(directory.read_text() + f"{PERSON},SE\n")
    on_s3(world, moto_server, per_user=2)
    client = moto_server.boto3()
    spec = world.root / "plans" / "small.toml"
    text = spec.read_text()
    buckets = dict(re.findall(r'\[stores\.([\w-]+)\]\n(?:.*\n)*?url = "s3://([^/]+)/', text))
    for name in ("us", "singapore"):
        for number in range(3):
            body = f"{number}".encode()
            client.put_object(Bucket=buckets[name], Key=f"data/users/{PERSON}/{KEY}-{number}", Body=body)  # type: ignore[attr-defined]
    client.put_object(Bucket=buckets["us"], Key=f"data/nobody/{PERSON}/{KEY}", Body=b"unclassified")  # type: ignore[attr-defined]
    profile, home = world.root.parent / "aws", world.root.parent / "key.toml"
    profile.write_text(f"[profile canary]\naws_access_key_id = id\naws_secret_access_key = {PROFILE_SECRET}\n")
    home.write_text(f'access_key_id = "id"\nsecret_access_key = "{FILE_SECRET}"\n')
    home.chmod(0o600)
    for name, reference in (("singapore", "profile:canary"), ("hamar", f"file:{home}")):
        place = text.index(f"[stores.{name}]")
        text = text[:place] + text[place:].replace("env:WORLD", reference, 1)
    spec.write_text(text)
    for folder in (".migrate", ".migrate/plans", ".migrate/seals", ".migrate/scratch"):
        (world.root / folder).mkdir(mode=0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sitecustomize.py").write_text(BUGS)
    environment = {
        **credentials(moto_server),
        "WORLD_SECRET_ACCESS_KEY": ENVIRONMENT_SECRET,
        "AWS_CONFIG_FILE": str(profile),
        "MIGRATE_LEDGER": postgres_url.replace("postgres@", f"postgres:{PASSWORD}@"),
        "PYTHONPATH": str(tools),
        "CANARY_TEXT": " ".join((PERSON, KEY, *SECRETS)),
    }
    return Way(world, environment)


def occupy(way: Way, server: S3Server) -> None:
    """Something else stands at every target key of the canary user: its copies are quarantined."""
    text = (way.world.root / "plans" / "small.toml").read_text()
    client = server.boto3()
    for name in ("dublin-1", "dublin-2", "hamar"):
        bucket = re.search(rf"\[stores\.{name}\]\n(?:.*\n)*?url = \"s3://([^/]+)/", text)
        assert bucket is not None
        for number in range(3):
            key = f"data/users/{PERSON}/{KEY}-{number}"
            client.put_object(Bucket=bucket[1], Key=key, Body=b"another's")  # type: ignore[attr-defined]


def killed(way: Way, *words: str) -> None:
    """Kill a run with -9 once it has workers."""
    way.number += 1
    process = way.start(*words)
    until = time.monotonic() + SECONDS
    while process.poll() is None and len(list(command_lines(process.pid))) < 3:
        assert time.monotonic() < until
        way.watch(process)
        time.sleep(0.01)
    way.watch(process)
    os.killpg(process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    way.seen.add(f"output {way.number} killed", out + err)


def test_no_secret_and_no_person_is_where_it_must_not_be(way: Way, moto_server: S3Server, postgres_url: str) -> None:
    """Secrets are nowhere; the person is in the manifests, the ledger and outputs that were asked for by name (Invariant 10)."""
    spec = str(way.world.root / "plans" / "small.toml")
    way.go("init", code=0)
    way.go("doctor", spec, code=0)
    way.go("plan", spec, code=5, CANARY_BUG="migrate.planner.build.take_census")
    way.go("plan", spec, code=0)
    way.go("show", code=0)
    listed = way.go("show", "--list", "unclassified", code=0, asked=True)
    explained = way.go("explain", PERSON, code=0, asked=True)
    way.go("explain", "nobody-at-all", code=2)
    way.go("run", code=77, MIGRATE_COUNTRY="US")
    blocked = way.go("run", "--wave", "all", code=77)
    accept = re.findall(r"--accept ([\w:]+)", blocked)
    words = ["run", "--wave", "all", *(word for name in accept for word in ("--accept", name))]
    occupy(way, moto_server)
    way.go(*words, code=5, CANARY_BUG="migrate.worker.copying.copy_whole")
    way.go(*words, "--workers", "2", code=5, CANARY_BUG="migrate.worker.copying.copy_whole")
    way.go(*words, code=5, CANARY_BUG="migrate.jobs.copying.choose_waves")
    killed(way, *words, "--workers", "2", "--limit-bytes", "1B/s")
    copied = way.go(*words, "--workers", "2", code=4)
    way.go("run", "--wave", "all", "--retry-quarantined", "--json", code=4)
    way.go("verify", "--workers", "2", code=4)
    way.go("status", code=0)
    way.go("status", "--json", code=0)
    of_user = way.go("status", "--user", PERSON, code=0, asked=True)
    failures = way.go("status", "--failures", code=0, asked=True)
    way.go("plans", code=0)

    root = way.world.root
    way.seen.add_folder(root)
    way.seen.add("ledger", dump(postgres_url))
    # what was asked for by name is there, or nothing would be shown by its absence elsewhere
    for text in (listed, explained, of_user, failures):
        assert PERSON in text
    pseudonym = Pseudonyms((root / ".migrate" / "pseudonym.key").read_bytes().strip()).user(PERSON)
    assert pseudonym in of_user
    assert f"user={pseudonym}" in copied

    crashes = sorted(place for place in way.seen.texts if place.startswith("file .migrate/crash-"))
    assert len(crashes) == 4
    bug = b"KeyError"
    assert all(bug in way.seen.texts[place] and b"sitecustomize" in way.seen.texts[place] for place in crashes)
    arguments = [text for place, text in way.seen.texts.items() if place.startswith("arguments")]
    assert any(b"engines.child" in text for text in arguments)

    assert way.seen.places(*SECRETS) == set()
    secret = (root / ".migrate" / "pseudonym.key").read_text().strip()
    assert way.seen.places(secret) == {"file .migrate/pseudonym.key"}
    allowed = {"ledger", "file users.csv", *way.seen.asked, *(place for place in way.seen.texts if is_manifest(place))}
    by_name = {
        place for place, text in way.seen.texts.items() if place.startswith("arguments") and b"\0explain\0" in text
    }
    by_name |= {
        place for place, text in way.seen.texts.items() if place.startswith("arguments") and b"\0--user\0" in text
    }
    found = way.seen.places(PERSON, KEY)
    assert found - allowed - by_name == set()
    assert {"ledger", "file users.csv"} <= found
    assert any(is_manifest(place) for place in found)
    assert_private(root / ".migrate")


def is_manifest(place: str) -> bool:
    """A plan's tables; an inventory, and the last key that its listing came to."""
    return bool(
        re.fullmatch(r"file \.migrate/((plans|scratch)/.+\.parquet|scratch/live-[a-z0-9-]+/chain-\d+\.json)", place)
    )


def assert_private(folder: Path) -> None:
    """Folders 0700, files 0600, whatever the umask was, and whatever was there before."""
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert len(modes) > 10
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


# A child that is given as an argument what its parent was told in private.
_LEAKING = (
    "import subprocess, sys; word = sys.stdin.readline().strip(); "
    "subprocess.run([sys.executable, '-c', 'import sys; sys.stdin.read()', word])"
)


@pytest.mark.parametrize("kind", ["text", "name", "parquet", "ledger", "arguments"])
def test_a_planted_leak_is_found(kind: str, tmp_path: Path, postgres_url: str) -> None:
    """The twin: what the search goes through is searched, compressed Parquet and another process's arguments among it."""
    seen = Seen()
    if kind == "text":
        (tmp_path / "a.log").write_text(f"x{PASSWORD}x")
    elif kind == "name":
        (tmp_path / f"{PASSWORD}.log").touch()
    elif kind == "parquet":
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT repeat('{PASSWORD[:9]}', 1) || '{PASSWORD[9:]}' AS a FROM range(500)) "
                f"TO '{tmp_path}/a.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )
    elif kind == "ledger":
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE leak (a text)")
            connection.execute("INSERT INTO leak VALUES (%s)", [PASSWORD])
        seen.add("ledger", dump(postgres_url))
    else:
        process = subprocess.Popen([sys.executable, "-c", _LEAKING], stdin=subprocess.PIPE, start_new_session=True)
        try:
            assert process.stdin is not None
            process.stdin.write(PASSWORD.encode() + b"\n")
            process.stdin.flush()
            until = time.monotonic() + SECONDS
            while not seen.places(PASSWORD):
                assert time.monotonic() < until
                for pid, line in command_lines(process.pid):
                    seen.add(f"arguments {pid}", line)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    seen.add_folder(tmp_path)
    assert len(seen.places(PASSWORD)) >= 1
    assert seen.places("not-" + PASSWORD) == set()


def test_a_password_in_an_argument_is_refused(tmp_path: Path) -> None:
    """Everybody sees a process's arguments: 2, and what to do instead; the words do not repeat it."""
    world = build(tmp_path, users=1, per_user=1, odd=False, large=False)
    for url in (f"postgresql://a:{PASSWORD}@127.0.0.1:9/x", f"postgresql://127.0.0.1:9/x?user=a&password={PASSWORD}"):
        world.ledger = url
        answer = world.migrate("status")
        assert answer.code == 2
        assert "MIGRATE_LEDGER" in answer.err
        assert PASSWORD not in answer.out + answer.err


def test_what_was_open_to_all_becomes_private(tmp_path: Path) -> None:
    """A ledger and folders that others could read, and an umask of 022: after the way all of it is the owner's alone."""
    world = build(tmp_path / "w", users=3, per_user=2, odd=False, large=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    world.ledger = f"sqlite:///{elsewhere}/ledger.sqlite"
    (elsewhere / "ledger.sqlite").touch(mode=0o644)
    for folder in (".migrate", ".migrate/plans", ".migrate/seals", ".migrate/scratch"):
        (world.root / folder).mkdir(mode=0o755)
    spec = str(world.root / "plans" / "small.toml")
    before = os.umask(0o022)
    try:
        for words in (
            ("init",),
            ("doctor", spec),
            ("plan", spec),
            ("run", "--wave", "all"),
            ("verify",),
            ("ledger", "backup", str(elsewhere / "backup")),
        ):
            os.umask(0o022)
            assert world.migrate(*words).code == 0, words
    finally:
        os.umask(before)
    assert_private(world.root / ".migrate")
    files = [path for path in elsewhere.iterdir() if path.is_file()]
    assert len(files) >= 3  # the ledger, the run's lock, the backup
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {"0o600"}


def test_pseudonyms_are_the_same_from_every_worker(tmp_path: Path) -> None:
    """HMAC under the referenced key: from two child processes, from this one, and not under another key (Invariant 10)."""
    world = build(tmp_path, users=6, per_user=3, copies_max=6, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    text = spec.read_text()
    keys = {"one": b"k" * 32, "two": b"l" * 32}
    for name, key in keys.items():
        (world.root / name).write_bytes(key)
        (world.root / name).chmod(0o600)
    for store in ("dublin-1", "dublin-2", "hamar"):
        for planned_key, (_, attributes, _) in world.objects.items():
            world.put(store, planned_key, b"another's", attributes, {})
    logged = {}
    for name, workers in (("one", "2"), ("one", "1"), ("two", "2")):
        spec.write_text(f'{text}\n[privacy]\npseudonym_key = "file:{name}"\n')
        assert world.migrate("plan", str(spec)).code == 0  # the same plan, with another reference
        process = world.start("run", "--wave", "all", "--retry-quarantined", "--workers", workers)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 4, err.decode()
        lines = [line for line in err.decode().splitlines() if "event=copy_quarantined" in line]
        assert len(lines) == 2 * len(world.objects)
        assert not any(user in line for line in lines for user in world.users)
        logged[name, workers] = {
            (found[1], found[2])
            for line in lines
            if (found := re.search(r"object=([0-9a-f]{16}).* user=([0-9a-f]{16})", line))
        }
    for (name, _), found in logged.items():
        names = Pseudonyms(keys[name])
        assert found == {(names.object_key("us", key), names.user(key.split("/")[1])) for key in world.objects}
    assert not logged["one", "2"] & logged["two", "2"]
