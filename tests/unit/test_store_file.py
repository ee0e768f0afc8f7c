"""What is special about a folder as a store, beyond the contract: plain files, odd names, crashes, links, the reserved folder."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    RefusedError,
    StoreError,
    TransientStoreError,
    UnreachableError,
    UnreadableError,
)
from migrate.model import Attributes, ObjectInfo
from migrate.stores import file_reserve
from migrate.stores.base import PartInfo
from migrate.stores.file import FileStore
from migrate.stores.file_keys import RESERVED

TEXT = Attributes(content_type="text/plain")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(root: Path) -> Iterator[Callable[..., FileStore]]:
    """Opens the store as often as a test asks."""
    stores: list[FileStore] = []

    def open_one(**options: Any) -> FileStore:
        stores.append(FileStore("folder", root, writable=True, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def put(store: FileStore, key: str, body: bytes = b"x", attributes: Attributes = TEXT, **options: Any) -> str:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    tags = options.pop("tags", {})
    return store.put(key, body, attributes=attributes, tags=tags, md5=digest, **options).etag


def get(store: FileStore, key: str) -> bytes:
    with store.get(key) as download:
        return download.read()


def infos(store: FileStore, prefix: str = "", after: str = "") -> list[ObjectInfo]:
    return [info for page in store.list(prefix, start_after=after) for info in page]


def keys(store: FileStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key for info in infos(store, prefix, after)]


def records(root: Path) -> list[Path]:
    return [path for path in (root / ".migrate-store" / "records").rglob("*") if path.is_file()]


# plain files


def test_any_folder_is_readable_as_it_is(root: Path) -> None:
    """Keys are the paths, nothing is known of the content type, and the ETag is not taken for an MD5."""
    (root / "a").mkdir()
    (root / "a" / "b.txt").write_bytes(b"hello")
    store = FileStore("folder", root)
    [info] = infos(store)
    assert (info.key, info.size, info.etag_md5) == ("a/b.txt", 5, None)
    head = store.head("a/b.txt")
    assert (head.etag, head.attributes, head.tag_count) == (info.etag, Attributes(), 0)
    with store.get("a/b.txt", if_match=info.etag) as download:
        assert download.read() == b"hello"
    assert store.get_tags("a/b.txt") == {}
    store.close()


def test_reading_makes_nothing(root: Path) -> None:
    """A source stays as it is, to the last name."""
    (root / "a").write_bytes(b"x")
    store = FileStore("folder", root)
    assert keys(store) == ["a"]
    get(store, "a")
    assert list(store.list_uploads()) == []
    with pytest.raises(RefusedError):
        store.delete("a")
    store.close()
    assert os.listdir(root) == ["a"]


def test_a_changed_plain_file_has_another_etag(root: Path) -> None:
    """Drift is seen: a GET with the old ETag is refused."""
    (root / "a").write_bytes(b"old")
    store = FileStore("folder", root)
    etag = store.head("a").etag
    (root / "a").write_bytes(b"new!")
    with pytest.raises(PreconditionError):
        store.get("a", if_match=etag)
    store.close()


def test_a_plain_file_changed_under_a_get_is_corrupt(root: Path) -> None:
    """Never half old, half new."""
    (root / "a").write_bytes(b"old" * 1000)
    store = FileStore("folder", root)
    with store.get("a") as download:
        (root / "a").write_bytes(b"new" * 1000)
        os.utime(root / "a", ns=(1, 1))
        with pytest.raises(CorruptBodyError):
            download.read()
    with store.get("a") as download:
        (root / "a").write_bytes(b"short")
        with pytest.raises(CorruptBodyError):
            b"".join(download.chunks(100))
    store.close()


def test_a_get_goes_on_with_the_file_that_was_replaced(opened: Callable[..., FileStore]) -> None:
    """It is read to its end as it was when it was opened, with its own attributes."""
    store = opened()
    put(store, "k", b"old" * 1000, Attributes(content_type="old"))
    with store.get("k") as download:
        put(store, "k", b"new", Attributes(content_type="new"))
        assert download.read() == b"old" * 1000
        assert download.info.attributes.content_type == "old"
    assert store.head("k").attributes.content_type == "new"


def test_a_file_edited_by_hand_is_a_plain_file(root: Path, opened: Callable[..., FileStore]) -> None:
    """Attributes never stand beside bytes that they did not come with."""
    store = opened()
    put(store, "k", b"ours", tags={"a": "b"})
    (root / "k").write_bytes(b"by hand")
    info = store.head("k")
    assert (info.attributes, info.tag_count, info.etag_md5) == (Attributes(), 0, None)
    put(store, "k", b"ours again")
    assert store.head("k").attributes == TEXT


def test_a_plain_file_can_be_tagged(root: Path, opened: Callable[..., FileStore]) -> None:
    """And keeps its ETag."""
    (root / "k").write_bytes(b"by hand")
    store = opened()
    before = store.head("k").etag
    store.put_tags("k", {"a": "b"})
    assert (store.get_tags("k"), store.head("k").etag) == ({"a": "b"}, before)


# names


def test_plain_keys_are_plain_files(root: Path, opened: Callable[..., FileStore]) -> None:
    """What a person would look for is where they would look for it."""
    store = opened()
    for key in ("a/b.txt", "%25", "a%2Fb", "x=", "é", "tab\tstop"):
        put(store, key, key.encode())
        assert (root / key).read_bytes() == key.encode()


def test_a_file_beside_a_folder_of_its_name(root: Path, opened: Callable[..., FileStore]) -> None:
    """`a` beside `a/b`, whichever came first, and after each was deleted and written again."""
    store = opened()
    for order in (["a", "a/b", "a/b/c"], ["a/b/c", "a/b", "a"]):
        for key in order:
            put(store, key, key.encode(), create_only=True)
        assert keys(store) == ["a", "a/b", "a/b/c"]
        for key in order:
            assert get(store, key) == key.encode()
            with pytest.raises(PreconditionError):
                put(store, key, b"again", create_only=True)
        for key in order:
            store.delete(key)
        assert keys(store) == []


def test_a_key_stays_where_it_is(root: Path, opened: Callable[..., FileStore]) -> None:
    """Written again when its plain place has become free, it does not stand in two places."""
    store = opened()
    put(store, "a", b"file")
    put(store, "a/b", b"one")
    store.delete("a")
    put(store, "a/b", b"two")
    assert (keys(store), get(store, "a/b")) == (["a/b"], b"two")
    assert not (root / "a").exists()


def test_names_that_look_encoded_are_plain(root: Path, opened: Callable[..., FileStore]) -> None:
    """A file `%2Flead=` put by hand is the key `%2Flead=`, beside the encoded `/lead`."""
    (root / "%2Flead=").write_bytes(b"by hand")
    store = opened()
    put(store, "/lead", b"encoded")
    assert keys(store) == ["%2Flead=", "/lead"]
    assert (get(store, "%2Flead="), get(store, "/lead")) == (b"by hand", b"encoded")


def test_the_reserved_folder_is_no_key(root: Path, opened: Callable[..., FileStore]) -> None:
    """It is in no listing; keys of its name are kept elsewhere."""
    store = opened()
    put(store, ".migrate-store/format-1", b"x")
    put(store, ".migrate-store", b"y")
    put(store, "a/.migrate-store/z", b"z")
    assert keys(store) == [".migrate-store", ".migrate-store/format-1", "a/.migrate-store/z"]
    with pytest.raises(NotFoundError):
        store.head(".migrate-store/lock")


def test_two_files_for_one_key_stop_the_listing(root: Path, opened: Callable[..., FileStore]) -> None:
    """Invariant 4: a file that was put by hand at a taken key's plain place is not lost silently."""
    store = opened()
    put(store, "a", b"file")
    put(store, "a/b", b"odd")
    (root / "a").unlink()
    (root / "a").mkdir()
    (root / "a" / "b").write_bytes(b"by hand")
    with pytest.raises(UnreadableError):
        keys(store)


def test_what_is_no_object_stops_the_listing(root: Path) -> None:
    """Invariant 4: a name that is not UTF-8, a key that is too long, a pipe. The remedy says how to find it."""
    store = FileStore("folder", root)
    strange = os.fsencode(root) + b"/caf\xe9"
    with open(strange, "wb"):
        pass
    with pytest.raises(UnreadableError) as caught:
        keys(store)
    assert "find" in caught.value.remedy
    assert "caf" not in str(caught.value)
    os.unlink(strange)
    deep = root.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "x").touch()
    with pytest.raises(UnreadableError):
        keys(store)
    (deep / "x").unlink()
    os.mkfifo(root / "pipe")
    with pytest.raises(UnreadableError):
        keys(store)
    with pytest.raises(UnreadableError):
        store.get("pipe")
    store.close()


@pytest.mark.parametrize("target", ["outside", "inside"])
def test_links_are_refused(tmp_path: Path, root: Path, opened: Callable[..., FileStore], target: str) -> None:
    """Invariant 7: a link may lead to another country's folder, and what it leads to can change after any check."""
    store = opened()
    elsewhere = tmp_path / "elsewhere" if target == "outside" else root / "real"
    elsewhere.mkdir()
    (elsewhere / "f").write_bytes(b"x")
    (root / "folder").symlink_to(elsewhere)
    (root / "file").symlink_to(elsewhere / "f")
    attempts: list[Callable[[], object]] = [
        lambda: keys(store),
        lambda: store.head("file"),
        lambda: store.get("file"),
        lambda: store.head("folder/f"),
        lambda: store.get("folder/f"),
        lambda: put(store, "folder/new"),
        lambda: put(store, "file"),
        lambda: store.delete("folder/f"),
        lambda: store.delete("file"),
    ]
    for attempt in attempts:
        with pytest.raises(RefusedError):
            attempt()
    assert os.listdir(elsewhere) == ["f"]


def test_folders_that_become_empty_go(root: Path, opened: Callable[..., FileStore]) -> None:
    """Their names may hold a user's id."""
    store = opened()
    put(store, "u/4711/a")
    put(store, "u/4711/b")
    put(store, "u//" + "o" * 100)
    store.delete("u/4711/a")
    assert (root / "u" / "4711").is_dir()
    store.delete("u/4711/b")
    store.delete("u//" + "o" * 100)
    assert os.listdir(root) == [".migrate-store"]
    assert os.listdir(root / ".migrate-store" / "odd") == []
    assert records(root) == []


# listing


def test_order_is_by_bytes_of_the_key(root: Path, opened: Callable[..., FileStore]) -> None:
    """`a-` comes before `a/b`, which comes before `a0`; plain and odd keys are merged."""
    store = opened()
    wanted = ["a", "a!", "a-", "a-/x", "a.", "a//b", "a/b", "a/b/", "a0", "b", "é", "\uffff", "\U0001f600"]
    for key in reversed(wanted):
        put(store, key)
    assert keys(store) == sorted(wanted, key=str.encode)
    ordered = sorted(wanted, key=str.encode)
    for number, key in enumerate(ordered):
        assert keys(store, after=key) == ordered[number + 1 :]
    assert keys(store, "a/") == ["a//b", "a/b", "a/b/"]
    assert keys(store, "a/b") == ["a/b", "a/b/"]
    assert keys(store, "a", after="a-") == [key for key in ordered if key > "a-" and key[0] == "a"]


def test_a_start_behind_a_folder_does_not_open_it(
    root: Path, opened: Callable[..., FileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that goes on from a key does not walk what lies before it."""
    store = opened()
    for folder in ("a", "b", "c"):
        put(store, f"{folder}/x")
    looked: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda fd: looked.append(fd) or scandir(fd))
    assert keys(store, after="b0") == ["c/x"]
    assert len(looked) == 3  # the root, `c`, and the folder of odd names


# conditions


def test_of_many_creations_one_wins(opened: Callable[..., FileStore]) -> None:
    """Invariant 5 for names: sixteen threads over two openings of the store, plain and odd key."""
    stores = [opened(), opened()]
    for key in ("k", "odd//k"):
        won: list[int] = []
        gate = threading.Barrier(16)

        def create(number: int, key: str = key, won: list[int] = won, gate: threading.Barrier = gate) -> None:
            gate.wait()
            try:
                put(stores[number % 2], key, b"%d" % number, create_only=True)
            except PreconditionError:
                return
            won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert get(stores[0], key) == b"%d" % won[0]


def test_of_many_replacements_of_one_etag_one_wins(root: Path, opened: Callable[..., FileStore]) -> None:
    """If-Match is compare and swap: a counter that sixteen threads count up loses nothing."""
    stores = [opened(), opened()]
    put(stores[0], "n", b"0")

    def count(store: FileStore) -> None:
        for _ in range(5):
            while True:
                with store.get("n") as download:
                    value, etag = int(download.read()), download.info.etag
                try:
                    put(store, "n", b"%d" % (value + 1), if_match=etag)
                except PreconditionError:
                    continue
                break

    threads = [threading.Thread(target=count, args=(stores[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(stores[0], "n") == b"40"
    assert len(records(root)) == 1


def test_readers_never_see_mixed_versions(root: Path, opened: Callable[..., FileStore]) -> None:
    """Invariant 2: bytes, ETag, attributes and tags that a reader gets belong to one another, while a writer replaces them."""
    store, other = opened(), opened()
    wrong: list[object] = []
    done = threading.Event()

    def version(number: int) -> tuple[bytes, Attributes]:
        return b"%05d" % number, Attributes(content_type=f"{number:05d}")

    put(store, "k", *version(0))

    def read() -> None:
        while not done.is_set():
            with other.get("k") as download:
                body, info = download.read(), download.info
            listed = infos(other)
            if info.attributes.content_type != body.decode() or info.etag_md5 != hashlib.md5(body).digest():
                wrong.append(info)
            if len(listed) != 1 or listed[0].etag_md5 is None:
                wrong.append(listed)
            if other.head("k").attributes.content_type is None:
                wrong.append("head")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for number in range(1, 150):
        put(store, "k", *version(number))
    done.set()
    for thread in readers:
        thread.join()
    assert wrong == []
    assert len(records(root)) == 1


# crashes


class DeadError(BaseException):
    """The process ended here."""


class Mortality:
    """Lets the process do `calls` system calls that change something, and none after them."""

    NAMES = ("open", "rename", "link", "unlink", "mkdir", "rmdir", "write", "fsync", "utime")

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        for name in self.NAMES:
            patch.setattr(os, name, self._mortal(name, getattr(os, name)))

    def _mortal(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if self.left <= 0:
                raise DeadError(name)
            self.left -= 1
            return real(*arguments, **options)

        return call


def die_after(store: FileStore, calls: int, work: Callable[[FileStore], object]) -> bool:
    """Do `work` in a process that dies on the way; whether it did. Its locks go with it, as the kernel would have it."""
    with pytest.MonkeyPatch.context() as patch:
        Mortality(patch, calls)
        try:
            work(store)
        except DeadError:
            died = True
        else:
            died = False
    session = store._reserve._session
    if session is not None:
        store._reserve._session = None
        os.close(session[1])
    return died


OLD, NEW = (b"old bytes", Attributes(content_type="old")), (b"new", Attributes(content_type="new"))


def state(store: FileStore, key: str) -> tuple[bytes, Attributes] | None:
    try:
        with store.get(key) as download:
            return download.read(), download.info.attributes
    except NotFoundError:
        return None


@pytest.mark.parametrize("key", ["user/k", "odd//k"])
@pytest.mark.parametrize(
    ("begin", "work", "ends"),
    [
        ([OLD], lambda store, key: put(store, key, *NEW), [OLD, NEW]),
        ([], lambda store, key: put(store, key, *NEW, create_only=True), [None, NEW]),
        ([OLD], lambda store, key: store.delete(key), [OLD, None]),
    ],
    ids=["replace", "create", "delete"],
)
def test_a_crash_at_any_call_leaves_old_or_new(
    tmp_path: Path,
    key: str,
    begin: list[tuple[bytes, Attributes]],
    work: Callable[[FileStore, str], object],
    ends: list[tuple[bytes, Attributes] | None],
) -> None:
    """Invariants 1 and 2: never bytes with another's attributes; and the next writer leaves no record that belongs to nothing."""
    seen = set()
    for calls in range(1000):
        root = tmp_path / str(calls)
        root.mkdir()
        first = FileStore("folder", root, writable=True)
        put(first, "first")
        for body, attributes in begin:
            put(first, key, body, attributes)
        died = die_after(first, calls, lambda store: work(store, key))
        second = FileStore("folder", root, writable=True)
        found = state(second, key)
        assert found in ends
        seen.add(ends.index(found))
        assert [listed for listed in keys(second) if listed != "first"] == ([] if found is None else [key])
        put(second, "another")
        assert len(records(root)) == len(keys(second))
        assert len(os.listdir(root / ".migrate-store" / "temporary")) == 1
        second.close()
        first.close()  # what the kernel does for the dead
        if not died:
            break
    assert seen == {0, 1}
    assert calls >= 5


def test_a_failed_write_leaves_nothing(
    root: Path, opened: Callable[..., FileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, at any call: an error, the old object, and no leftovers."""
    store = opened()
    put(store, "k", *OLD)
    before = sorted(str(path) for path in root.rglob("*"))
    for name in ("write", "fsync", "rename", "utime"):
        real = getattr(os, name)

        def fail(*arguments: Any, **options: Any) -> Any:
            raise OSError(28, "No space left on device", "user-4711")

        monkeypatch.setattr(os, name, fail)
        with pytest.raises(StoreError) as caught:
            put(store, "k", *NEW)
        monkeypatch.setattr(os, name, real)
        assert not isinstance(caught.value, TransientStoreError | PermanentStoreError)
        assert "4711" not in str(caught.value)
        assert state(store, "k") in (OLD, NEW)
        if name != "fsync":
            assert sorted(str(path) for path in root.rglob("*")) == before


def test_a_time_that_is_taken_is_not_taken_again(opened: Callable[..., FileStore]) -> None:
    """Two writers at one instant with files of one size: each has its own record."""
    store = opened(clock_ns=lambda: 10**18)
    put(store, "k", b"1", Attributes(content_type="one"))
    put(store, "k", b"2", Attributes(content_type="two"))
    assert state(store, "k") == (b"2", Attributes(content_type="two"))


def test_attributes_move_with_the_files(tmp_path: Path, root: Path, opened: Callable[..., FileStore]) -> None:
    """A folder that is copied with its times (`cp -a`, `rsync -a`) keeps everything, inode numbers or not."""
    store = opened()
    put(store, "a/b", b"x", tags={"t": "v"})
    put(store, "odd//k", b"y")
    moved = tmp_path / "moved"
    for folder, _, names in os.walk(root):
        there = moved / Path(folder).relative_to(root)
        there.mkdir()
        for name in names:
            (there / name).write_bytes((Path(folder) / name).read_bytes())
            times = (Path(folder) / name).stat()
            os.utime(there / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy = FileStore("moved", moved)
    for key in ("a/b", "odd//k"):
        assert copy.head(key) == store.head(key)
        assert copy.get_tags(key) == store.get_tags(key)
    copy.close()


# the reserved folder


def test_a_foreign_folder_of_the_reserved_name_is_refused(root: Path) -> None:
    """Its files would be in no listing."""
    (root / RESERVED.decode()).mkdir()
    (root / RESERVED.decode() / "photo.jpg").touch()
    with pytest.raises(RefusedError):
        FileStore("folder", root)
    (root / RESERVED.decode() / "photo.jpg").unlink()
    FileStore("folder", root).close()


def test_a_newer_format_is_refused(root: Path, opened: Callable[..., FileStore]) -> None:
    """Invariant 12."""
    put(opened(), "k")
    (root / ".migrate-store" / "format-2").mkdir()
    with pytest.raises(RefusedError, match="newer"):
        FileStore("folder", root)


def test_a_record_that_does_not_parse_is_not_passed_over(root: Path, opened: Callable[..., FileStore]) -> None:
    """Invariant 4: the object is unreadable, and not one without attributes."""
    store = opened()
    put(store, "k")
    [record] = records(root)
    record.write_bytes(b"{")
    for attempt in (lambda: store.head("k"), lambda: keys(store)):
        with pytest.raises(UnreadableError):
            attempt()


def test_two_openings_share_one_folder(root: Path, opened: Callable[..., FileStore]) -> None:
    """A reader that was open before anything was written sees it; the cleaning leaves living writers alone."""
    reader = FileStore("folder", root)
    assert keys(reader) == []
    one, other = opened(), opened()
    put(one, "a//b", tags={"t": "v"})
    put(other, "c", *OLD)
    assert reader.get_tags("a//b") == {"t": "v"}
    assert state(reader, "c") == OLD
    upload = one.create_upload("u", attributes=TEXT)
    third = opened()
    put(third, "d")
    etag = one.put_part("u", upload, 1, b"part", md5=hashlib.md5(b"part").digest())
    one.complete_upload("u", upload, [PartInfo(1, etag, 4)], tags={})
    assert keys(reader) == ["a//b", "c", "d", "u"]
    reader.close()


def test_a_held_lock_ends_in_another_try(
    root: Path, opened: Callable[..., FileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 11: a process that was stopped with the lock in its hands blocks nobody for ever."""
    one, other = opened(), opened()
    put(one, "a")
    put(other, "b")
    monkeypatch.setattr(file_reserve, "LOCK_WAIT_SECONDS", 0.05)
    with one._reserve.locked(), pytest.raises(TransientStoreError):
        put(other, "c")
    put(other, "c")


def test_a_folder_that_is_not_there_is_unreachable(root: Path) -> None:
    """None is made: the disk that holds it may not be mounted. And of a folder that went, nothing is said to be missing."""
    with pytest.raises(UnreachableError):
        FileStore("folder", root / "nowhere")
    store = FileStore("folder", root)
    root.rmdir()
    with pytest.raises(UnreachableError):
        store.head("k")
    store.close()


def test_a_part_that_changed_on_disk_is_not_joined(root: Path, opened: Callable[..., FileStore]) -> None:
    """The corrupted twin of joining."""
    store = opened()
    upload = store.create_upload("k", attributes=TEXT)
    etag = store.put_part("k", upload, 1, b"part", md5=hashlib.md5(b"part").digest())
    [part] = (root / ".migrate-store" / "uploads" / upload).glob("00001-*")
    part.write_bytes(b"rot!")
    with pytest.raises(CorruptBodyError):
        store.complete_upload("k", upload, [PartInfo(1, etag, 4)], tags={})
    assert keys(store) == []
    assert records(root) == []
