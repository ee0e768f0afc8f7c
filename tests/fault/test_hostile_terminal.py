"""Nothing hostile reaches a terminal or a log as it is: every command, on a pty as in a pipe, over a world of hostile names.

Hostile are user ids, countries, keys (one of 1,024 bytes), metadata, tags, ETags, a folder's name, who operates, names of plans'
folders, and the words of the command line: escape sequences of seven and eight bits, an OSC, markup, bidi and zero-width
characters, line ends, backslashes. What rich itself sends to a terminal is a short list, and everything else must be printable.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from commands import SPEC, is_harmless
from hostile import Shown, in_a_pipe, spec_of

from migrate.cli import app, boundary
from migrate.cli.output import safe
from migrate.model import Attributes
from migrate.stores.file import FileStore

EVIL = "[red]\x1b[5;41m\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066\u200b\u0085"
USER = f"u{EVIL}"
KEYS = (f"{EVIL}.jpg", f"{EVIL}\r\n\\x1b.jpg", "%1b[2J", f"changed{EVIL}", f"gone{EVIL}", f"occupied{EVIL}")
LONG = f"users/{USER}/" + "\u202e" * ((1024 - len(f"users/{USER}/".encode())) // 3)
STRANGE = f"nobody's/{EVIL}"
COUNTRIES = {USER: "IE", "bert": "NO", f"where{EVIL}": f"X{EVIL}", "carl": "US"}
FOLDER = "ha\x1b[5;41m\u202e[red]mar"
_TOML = json.dumps(FOLDER)[1:-1]

# what rich sends: colours and weights (none blinks), the cursor, and lines that it draws anew
_OURS = re.compile(r"\x1b\[(?:(?!5;41m)[0-9;]*m|\?25[lh]|2K|1A)|\r")


Way = Callable[[Sequence[str]], Shown]


def on_a_terminal(words: Sequence[str]) -> Shown:
    """Both streams on a pseudo terminal."""
    own, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                chunk = os.read(own, 65536)
            except OSError:  # Linux: nobody has the other side any more
                return
            if not chunk:
                return
            shown.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w", encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
        assert sys.stdout.isatty()
        code = boundary.run(words)
    reader.join()
    os.close(own)
    return Shown(int(code), "", shown.decode())


@pytest.fixture(params=[in_a_pipe, on_a_terminal])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("MIGRATE_OPERATOR", f"operator{EVIL}")
    monkeypatch.setenv("COLUMNS", "5000")  # so wide that no name is folded
    monkeypatch.delenv("NO_COLOR", raising=False)
    found: Way = request.param
    return found


@contextmanager
def opened(root: Path, name: str, folder: str | None = None) -> Iterator[FileStore]:
    store = FileStore(name, root / "stores" / (folder or name), writable=True)
    try:
        yield store
    finally:
        store.close()


def put(store: FileStore, key: str, body: bytes) -> None:
    attributes = Attributes(content_type=f"image/{EVIL}", metadata=(("note", EVIL),))
    store.put(
        key, body, attributes=attributes, tags={EVIL: EVIL}, md5=hashlib.md5(body, usedforsecurity=False).digest()
    )


def world(root: Path) -> str:
    """The workspace; the spec's path."""
    (root / "plans").mkdir()
    for name in ("us", "singapore", "dublin-1", FOLDER):
        (root / "stores" / name).mkdir(parents=True)
    spec_of(root).write_text(SPEC.replace("file:stores/hamar", f"file:stores/{_TOML}"))
    quoted = "".join(f'"{user}","{country}"\n' for user, country in COUNTRIES.items())
    (root / "users.csv").write_text("user_id,country\n" + quoted, newline="")
    keys = [*(f"users/{user}/{key}" for user in COUNTRIES for key in KEYS), LONG, STRANGE, f"users/stranger{EVIL}/x"]
    with opened(root, "us") as us, opened(root, "singapore") as singapore:
        for key in keys:
            put(us, key, b"one")
            put(singapore, key, b"two" if "changed" in key else b"one")
        put(singapore, f"users/{USER}/backup only{EVIL}", b"one")
    return str(spec_of(root))


class Watched:
    """Runs commands one way, and looks at all that is shown."""

    def __init__(self, root: Path, way: Way) -> None:
        self._root = root
        self._way = way
        self.all = ""

    def __call__(self, *words: str, code: int | None = 0) -> str:
        done = self._way(["--workspace", str(self._root), *words])
        shown = done.out + done.err
        rest = _OURS.sub("", shown) if self._way is on_a_terminal else shown
        assert is_harmless(rest), (words, [char for char in rest if not (char == "\n" or char.isprintable())][:5])
        assert "\x1b[5;41m" not in shown
        assert not list(self._root.rglob("crash-*")), (words, shown)
        assert code in (None, done.code), (words, shown)
        self.all += rest
        return re.sub(r"\s+", "", rest)


def seen(text: object) -> str:
    """How a text is shown, without the blanks between which a table's cell goes on."""
    return re.sub(r"\s+", "", safe(text))


def accepting_all(root: Path) -> list[str]:
    """The words that accept what blocks the plan: four kinds of hostile names."""
    blockers = json.loads(in_a_pipe(["--workspace", str(root), "show", "--json"]).out)["blockers"]
    assert {blocker["kind"] for blocker in blockers} == {"unclassified", "orphan", "review", "backup_only"}
    return [word for blocker in blockers for word in ("--accept", blocker["accept"])]


def test_every_command_shows_hostile_names_as_text(way: Way, tmp_path: Path) -> None:
    """Shown whole, with their escapes: nothing is obeyed, and nothing is dropped either."""
    spec = world(tmp_path)
    run = Watched(tmp_path, way)
    (tmp_path / "stores" / FOLDER).rename(tmp_path / "away")
    assert seen(FOLDER) in run("doctor", spec, code=69)
    (tmp_path / "away").rename(tmp_path / "stores" / FOLDER)
    run("doctor", spec)
    run("plan", spec, "--dry-run")
    run("--debug", "plan", spec)
    run("plans")
    run("show")
    accepted = accepting_all(tmp_path)
    assert seen(STRANGE) in run("show", "--list", "unclassified")
    assert seen(f"stranger{EVIL}") in run("show", "--list", "orphan")
    assert seen(f"where{EVIL}") in run("show", "--list", "review")
    for user in COUNTRIES:
        assert seen(user) in run("explain", "--", user)
    run("run", "--dry-run", code=77)
    run("run", code=77)
    with opened(tmp_path, "dublin-1") as dublin, opened(tmp_path, "us") as us:
        put(dublin, f"users/{USER}/{KEYS[5]}", b"something else")
        put(us, f"users/{USER}/{KEYS[3]}", b"another content")
        us.delete(f"users/{USER}/{KEYS[4]}")
    run("--debug", "run", "--wave", "all", *accepted, code=4)
    failures = run("status", "--failures")
    for key in KEYS[3:]:
        assert seen(f"users/{USER}/{key}") in failures
    with opened(tmp_path, "hamar", FOLDER) as store:
        put(store, f"users/{USER}/extra{EVIL}", b"one")
        store.delete(f"users/{USER}/{KEYS[0]}")
    run("verify", "--wave", "all", code=3)
    failures = run("status", "--failures")
    assert "EXTRA" in failures
    assert seen(f"extra{EVIL}") in failures
    assert "MISSING" in failures
    assert seen(f"operator{EVIL}") in run("status")
    assert seen(USER) in run("hold", f"--user={USER}", "--reason", EVIL)
    assert seen(EVIL) in run("hold")
    assert seen(USER) in run("cutover", "--wave", "all", "--dry-run", code=4)
    assert seen(USER) in run("rollback", f"--user={USER}", "--dry-run", code=4)
    assert seen(USER) in run("purge", "--wave", "all", "--dry-run", code=4)
    assert seen(USER) in run("status", f"--user={USER}")
    for user in COUNTRIES:
        assert seen(user) in run("where", "--", user)
    with opened(tmp_path, "dublin-1") as dublin:
        put(dublin, f"users/stranger{EVIL}/{KEYS[0]}", b"one")
    strays = run("sweep", "--list", "stray", code=3)
    assert seen(f"users/stranger{EVIL}/{KEYS[0]}") in strays
    assert seen(FOLDER) not in run("sweep", code=3)
    spec_of(tmp_path).write_text(SPEC.replace("file:stores/hamar", f"file:stores/{_TOML}/"))
    first = _digests(run)[0]
    run("plan", spec, code=None)
    after = next(digest for digest in _digests(run) if digest != first)
    assert seen(FOLDER) in run("diff", first, after)
    assert seen(USER) in run("forget", f"--user={USER}", "--dry-run", code=None)
    bad = tmp_path / ".migrate" / "plans" / f"bad{FOLDER}"
    bad.mkdir()
    (bad / "plan.json").write_text("\x1b[2J")
    assert seen(bad.name) in run("plans", code=None)
    run("ledger", "backup", str(tmp_path / f"copy{FOLDER}"))
    run("ledger", "upgrade")
    assert set(app.COMMANDS) - {"demo", "init"} == {
        "doctor", "plan", "plans", "show", "explain", "diff", "delta", "run", "verify", "cutover", "rollback", "purge", "hold",
        "forget", "status", "where", "sweep", "ledger",
    }  # fmt: skip
    assert "owned" in run.all  # the text of the escape sequence, as text


def _digests(run: Watched) -> list[str]:
    return re.findall(r"(?<![0-9a-f])([0-9a-f]{12})small", run("plans"))


@pytest.mark.parametrize(
    "words",
    [
        (EVIL,),
        ("plan", EVIL),
        ("plan", f"--{EVIL}", "x"),
        ("show", EVIL),
        ("show", "--list", EVIL),
        ("explain", EVIL),
        ("status", f"--user={EVIL}"),
        ("where", EVIL),
        ("where", "x", "--plan", EVIL),
        ("sweep", EVIL),
        ("sweep", "--list", EVIL),
        ("diff", EVIL, EVIL),
        ("hold", f"--user={EVIL}"),
        ("forget", f"--user={EVIL}"),
        ("run", "--wave", EVIL),
        ("cutover", "--wave", EVIL),
        ("rollback", "--wave", EVIL),
        ("rollback", f"--user={EVIL}"),
        ("purge", "--wave", EVIL),
        ("purge", "--wave", "0", "--confirm", EVIL),
        ("run", "--accept", EVIL),
        ("run", "--for", EVIL),
        ("run", "--until", EVIL),
        ("run", "--limit-bytes", EVIL),
        ("run", "--workers", EVIL),
        ("verify", "--level", EVIL),
        ("verify", "--sample", EVIL),
        ("--ledger", f"sqlite:///{EVIL}/x", "status"),
        ("--ledger", EVIL, "status"),
        ("--ledger", f"postgresql://{EVIL}@127.0.0.1:1/x", "status"),
        ("--ledger", "postgresql://a:b@127.0.0.1:port/x", "status"),
        ("ledger", "backup", f"/nowhere/{EVIL}"),
        ("--workspace", f"/proc/{EVIL}", "init"),
        ("show", "\udcff"),
        ("explain", "\udcff"),
        ("status", "--user=\udcff"),
    ],
    ids=lambda words: " ".join(word if word.isascii() and word.isprintable() else "EVIL" for word in words),
)
def test_hostile_words_are_refused_and_shown_as_text(way: Way, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A wrong word of the command line comes back in an error, harmless, with a code of the table and no crash."""
    run = Watched(tmp_path, way)
    shown = run(*words, code=None)
    assert "error:" in shown
    assert "unexpected" not in shown


def test_workers_in_processes_of_their_own_are_harmless_too(tmp_path: Path) -> None:
    """What they log goes to the same stderr, past the parent."""
    spec = world(tmp_path)
    place = ["--workspace", str(tmp_path)]
    assert in_a_pipe([*place, "plan", spec]).code == 0
    with opened(tmp_path, "us") as us:
        us.delete(f"users/{USER}/{KEYS[4]}")
    words = [*place, "--debug", "run", "--wave", "all", "--workers", "2", *accepting_all(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "migrate", *words], capture_output=True, timeout=120, check=False)
    assert done.returncode == 4, done.stderr
    assert is_harmless(done.stdout.decode() + done.stderr.decode())


def test_an_environment_that_is_not_utf8_is_refused(way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database takes it: better before anything is begun than in the middle."""
    monkeypatch.setenv("MIGRATE_OPERATOR", "bj\udcf6rn")
    shown = Watched(tmp_path, way)("plans", code=2)
    assert "MIGRATE_OPERATORintheenvironmentisnotUTF-8" in shown


def test_a_country_of_a_hostile_name_is_refused(way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says where a worker runs says it in two letters, or is not let in."""
    monkeypatch.setenv("MIGRATE_COUNTRY", EVIL)
    spec = world(tmp_path)
    Watched(tmp_path, way)("plan", spec, code=2)


@pytest.mark.parametrize("raw", [b"bj\xf6rn\n", b"\xff"])
def test_an_id_on_stdin_that_is_not_utf8_is_refused(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    """In a UTF-8 locale Python cannot read it, in another one it reads surrogates: both are told alike."""
    spec = world(tmp_path)
    run = Watched(tmp_path, way)
    run("plan", spec)
    for errors in ("strict", "surrogateescape"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8", errors=errors))
        assert "theuser'sidonstdinisnotUTF-8" in run("explain", "-", code=2)


def test_what_would_be_obeyed_is_found() -> None:
    """The corrupted twin: each kind of hostile text, unescaped, fails the look that the tests above take."""
    for text in (
        "\x1b[5;41m",
        "\x1b[2J",
        "\x1b]0;owned\x07",
        "\x9b31m",
        "\u202e",
        "\u2066",
        "\u200b",
        "\u0085",
        "\ufeff",
    ):
        assert not is_harmless(_OURS.sub("", f"\x1b[1mx{text}\x1b[0m\r\n"))
    assert is_harmless(_OURS.sub("", f"\x1b[1m{safe(EVIL)}\x1b[0m\r\n"))
