"""Trying a target out: each ability is used once, under a scratch prefix that is emptied at the end whatever happened.

The prefix of a trial has the time when it began in its name, below one that all trials share. So a trial first clears away what
earlier ones have left there that were killed: those older than an hour, which no live one is.

The capability that a store gets for it is what it did, not what it answered: after a PUT that must be refused, the key is
looked at. The odd keys stay under the scratch prefix even at a server that takes keys for paths and resolves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from migrate.errors import (
    ExitCode,
    InterruptedRun,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    StoreError,
    UnsupportedError,
)
from migrate.model import Attributes, Tags
from migrate.stores.base import Capabilities, PartInfo, PutResult, Store
from migrate.stores.keys import ODD_KEYS
from migrate.stores.probe_checks import Checks, Questions

TRIALS = ".migrate-probe/"
_TIME = "%Y%m%dT%H%M%SZ"
_TRIAL_LASTS = timedelta(hours=1)
_PLAIN = Attributes(content_type="text/plain")
_BODY = b"written by migrate doctor"
_OTHER = b"written over by migrate doctor"
_TAGS = {"migrate probe": "a/b +c"}
_SMALL = Attributes(content_type="text/plain", cache_control="no-store", metadata=(("migrate-probe", "small"),))
_METADATA = (("migrate-probe", "plain"),)
_HEADERS = Attributes(
    content_type="text/plain",
    content_encoding="gzip",
    content_language="de",
    content_disposition='attachment; filename="a b.txt"',
    cache_control="private, max-age=60",
    expires="Thu, 01 Dec 2033 16:00:00 GMT",
    metadata=_METADATA,
)
_FOREIGN_METADATA = (("migrate-probe", "grün"),)
_ODD_NAMES = {
    "empty_segments": ["a//b", "/lead"],
    "trailing_slashes": ["trail/"],
    "dot_segments": ["a/../b", "a/./b"],
    "line_breaks": ["n\nl", "r\rl"],
    "control_characters": ["t\tb", "c\x01d", "d\x7f\x85", "x\ufffe\uffff"],
}


class TargetTrial:
    """One trial of one target, begun at `started` by this machine's clock. `token` tells it from others of that second."""

    def __init__(
        self,
        store: Store,
        questions: Questions,
        checks: Checks,
        *,
        started: datetime,
        token: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._questions = questions
        self._checks = checks
        self._started = started.astimezone(UTC)
        self._scratch = f"{TRIALS}{self._started:{_TIME}}-{token}/"
        self._is_stopping = is_stopping

    def run(self) -> Capabilities:
        """What the store was found to do. Nothing is left behind, or a check says so. InterruptedRun between two steps."""
        try:
            self._clear_abandoned()
            return self._try()
        finally:
            self._clean()

    def _go_on(self) -> None:
        if self._is_stopping():
            raise InterruptedRun("stopped while a store was tried out")

    def _try(self) -> Capabilities:
        found = Capabilities()
        with self._checks.needed("kms", "Allow this machine's credentials the key (kms:GenerateDataKey, kms:Decrypt)."):
            self._encrypts()
        if not self._checks.any_failed:
            with self._checks.needed("write, read, list", "Allow PutObject, GetObject and ListBucket."):
                found = replace(found, etag_is_md5=self._write_and_read())
        if self._checks.any_failed:
            return found
        self._go_on()
        md5, sha256 = self._refuses()
        found = replace(found, refuses_wrong_md5=md5, refuses_wrong_sha256=sha256)
        steps: tuple[tuple[str, Callable[[Capabilities], bool]], ...] = (
            ("conditional_put", lambda _: self._honours_conditions()),
            ("small_put", lambda found: found.etag_is_md5 and self._takes_small_puts(found.conditional_put)),
            ("tags", lambda _: self._keeps_tags()),
            ("metadata", lambda _: self._keeps_metadata()),
            ("versions", lambda _: self._has_versions()),
            ("multipart", lambda _: self._joins_parts()),
        )
        for name, step in steps:
            self._go_on()
            found = replace(found, **{name: step(found)})
        self._go_on()
        return replace(found, **self._keeps_odd_keys())

    def _encrypts(self) -> None:
        """Whether what is written lies under the KMS key that the spec names."""
        shown = self._questions.put_encrypted(self._scratch + "kms", _BODY)
        if shown is None:
            return
        fix = "Let the server know the key, or name the one that the bucket is to use. Without it nothing is copied to here."
        kept = self._store.head(self._scratch + "kms").encryption
        if not (shown.algorithm or "").startswith("aws:kms") or not (kept or "").startswith("aws:kms"):
            self._checks.fail("kms", "the store did not encrypt with a KMS key", fix, ExitCode.REFUSED)
        elif not shown.is_right:
            self._checks.fail(
                "kms", "the store encrypted with another KMS key than the spec names", fix, ExitCode.REFUSED
            )
        else:
            self._checks.ok("kms", "what is written is encrypted with the key of the spec")

    def _put(
        self,
        name: str,
        body: bytes = _BODY,
        *,
        attributes: Attributes = _PLAIN,
        tags: Tags | None = None,
        create_only: bool = False,
        if_match: str | None = None,
    ) -> PutResult:
        return self._store.put(
            self._scratch + name,
            body,
            attributes=attributes,
            tags=tags or {},
            md5=hashlib.md5(body, usedforsecurity=False).digest(),
            create_only=create_only,
            if_match=if_match,
        )

    def _read(self, name: str) -> bytes:
        with self._store.get(self._scratch + name) as download:
            return download.read()

    def _listed(self, prefix: str) -> set[str]:
        return {info.key for page in self._store.list(prefix) for info in page}

    def _write_and_read(self) -> bool:
        etag = self._put("plain").etag
        info = self._store.head(self._scratch + "plain")
        if self._read("plain") != _BODY or info.attributes.content_type != _PLAIN.content_type:
            raise StoreError(self._store.name, "read", "what was written is not what is read")
        if self._scratch + "plain" not in self._listed(self._scratch):
            raise StoreError(self._store.name, "list", "what was written is not listed")
        self._checks.ok("write, read, list", "an object was written, read back and listed")
        return self._checks.tell(
            "ETag",
            etag == hashlib.md5(_BODY, usedforsecurity=False).hexdigest(),
            "is the MD5 of the content",
            "is not the MD5 of the content, as with KMS: other proofs are used, or each object is read again after its PUT",
        )

    def _honours_conditions(self) -> bool:
        fix = "Before each PUT the tool looks whether the key is there. Let nobody else write to this store meanwhile."
        with self._checks.wanted("conditional PUT", fix):
            exists = self._is_refused(create_only=True)
            another = self._is_refused(if_match="0" * 32)
            return self._checks.judge(
                "conditional PUT",
                exists and another and self._read("plain") == _BODY,
                "If-None-Match and If-Match are honoured",
                "is not honoured: what exists is overwritten",
                fix,
            )
        return False

    def _is_refused(self, *, create_only: bool = False, if_match: str | None = None) -> bool:
        try:
            self._put("plain", _OTHER, create_only=create_only, if_match=if_match)
        except PreconditionError:
            return True
        return False

    def _refuses(self) -> tuple[bool, bool]:
        fix = "What is stored is compared by its ETag, or read again, after each PUT."
        with self._checks.wanted("wrong checksums", fix):
            found = self._questions.refusals(self._scratch + "checksum")
            otherwise = "is not refused: what is stored is compared by its ETag, or read again, after each PUT"
            self._checks.tell("wrong MD5", found.md5, "is refused", otherwise)
            # no warning: nothing relies on it where the MD5 serves
            self._checks.ok("wrong SHA-256", "is refused" if found.sha256 else "is not refused; nothing relies on it")
            return found.md5, found.sha256
        return False, False

    def _takes_small_puts(self, conditional: bool) -> bool:
        """Small plain objects are sent another way than all else (`s3_fast`): it is tried as it is used."""
        fix = "Nothing. Small objects go the way of all others, which takes more CPU."
        name, key = "small PUT", f"{self._scratch}small"
        with self._checks.wanted(name, fix):
            result = self._questions.put_small(key, _BODY, _SMALL)
            if result is None:
                return False
            self._put("signed", attributes=_SMALL)
            found, signed = self._store.head(key), self._store.head(f"{self._scratch}signed")
            same = result.etag == found.etag == signed.etag and found.attributes == signed.attributes
            same = same and self._read("small") == _BODY and (not conditional or self._keeps_what_is_there(key))
            otherwise = "does not arrive as others do: small objects go the way of all others, which takes more CPU"
            return self._checks.tell(name, same, "arrives as any other", otherwise)
        return False

    def _keeps_what_is_there(self, key: str) -> bool:
        with suppress(PreconditionError):
            self._questions.put_small(key, _OTHER, _SMALL, create_only=True)
        return self._read("small") == _BODY

    def _keeps_tags(self) -> bool:
        fix = "Objects with tags cannot be copied to this store; give them another target."
        with self._checks.wanted("tags", fix):
            self._put("tags", tags=_TAGS)
            at_once = dict(self._store.get_tags(self._scratch + "tags"))
            self._store.put_tags(self._scratch + "plain", _TAGS)
            afterwards = dict(self._store.get_tags(self._scratch + "plain"))
            kept = at_once == afterwards == _TAGS
            return self._checks.judge("tags", kept, "are kept", "come back as others than were set", fix)
        return False

    def _keeps_metadata(self) -> bool:
        fix = "Objects with user metadata or content headers cannot be copied to this store; give them another target."
        with self._checks.wanted("user metadata", fix):
            kept = self._attributes_after("metadata", _HEADERS) == _HEADERS
            self._checks.judge("user metadata", kept, "is kept", "is not kept", fix)
            if kept:
                self._look_at_foreign_metadata()
            return kept
        return False

    def _look_at_foreign_metadata(self) -> None:
        fix = "Objects with such metadata will be quarantined as cannot_keep."
        with self._checks.wanted("non-ASCII metadata", fix):
            wanted = replace(_PLAIN, metadata=_FOREIGN_METADATA)
            kept = self._attributes_after("foreign", wanted) == wanted
            self._checks.judge("non-ASCII metadata", kept, "is kept", "comes back as another text", fix)

    def _attributes_after(self, name: str, attributes: Attributes) -> Attributes:
        self._put(name, attributes=attributes)
        return self._store.head(self._scratch + name).attributes

    def _has_versions(self) -> bool:
        try:
            for _ in self._store.list_versions(self._scratch):
                pass
        except StoreError:
            self._checks.ok("versions", "cannot be listed; where some are kept, `forget` and `purge` need that")
            return False
        self._checks.ok("versions", "can be listed")
        return True

    def _joins_parts(self) -> bool:
        fix = "Large objects cannot be copied to this store; give them another target."
        key = self._scratch + "parted"
        md5 = hashlib.md5(_BODY, usedforsecurity=False).digest()
        with self._checks.wanted("multipart", fix):
            dropped = self._store.create_upload(key, attributes=_PLAIN)
            etag = self._store.put_part(key, dropped, 1, _BODY, md5=md5)
            parts = [(part.number, part.etag, part.size) for part in self._store.list_parts(key, dropped)]
            uploads = {upload.upload_id for upload in self._store.list_uploads(key)}
            self._store.abort_upload(key, dropped)
            is_gone = dropped not in {upload.upload_id for upload in self._store.list_uploads(key)}
            joined = self._store.create_upload(key, attributes=_PLAIN)
            part = PartInfo(1, self._store.put_part(key, joined, 1, _BODY, md5=md5), len(_BODY))
            self._store.complete_upload(key, joined, [part], tags={})
            good = parts == [(1, etag, len(_BODY))] and dropped in uploads and is_gone
            return self._checks.judge(
                "multipart",
                good and self._read("parted") == _BODY,
                "parts are sent, listed, joined and dropped",
                "parts or uploads are not listed as they are, so that nothing could be resumed or cleaned up",
                fix,
            )
        return False

    def _keeps_odd_keys(self) -> dict[str, bool]:
        """By kind. Each is tried in a place of its own, so that none is blamed for another."""
        fix = "Such keys cannot be copied to this store: give them another target store, or another key by the layout."
        kept = dict.fromkeys(ODD_KEYS, False)
        for kind in kept:
            with self._checks.wanted("odd keys", fix):
                kept[kind] = self._arrive(f"odd/{kind}/", self._odd_names(kind))
        bent = ", ".join(kind.replace("_", " ") for kind, is_kept in kept.items() if not is_kept)
        self._checks.judge(
            "odd keys", not bent, "arrive under their own names", f"are bent or refused where they have {bent}", fix
        )
        return kept

    def _odd_names(self, kind: str) -> Sequence[str]:
        if kind == "dot_segments":  # one that is resolved stays in its place all the same
            return [*_ODD_NAMES[kind], f"../../../../{self._scratch}odd/{kind}/up"]
        return _ODD_NAMES[kind]

    def _arrive(self, folder: str, names: Sequence[str]) -> bool:
        """Whether objects written under these names are there afterwards, each with its content, and nothing else is."""
        for name in names:
            with suppress(StoreError):  # refused, in whatever words: what is there afterwards counts
                self._put(folder + name, name.encode())
        if self._listed(self._scratch + folder) != {self._scratch + folder + name for name in names}:
            return False
        return all(self._read(folder + name) == name.encode() for name in names)

    # cleaning

    def _clean(self) -> None:
        fix = f"Allow DeleteObject and AbortMultipartUpload, then delete what is under {self._scratch}."
        with self._checks.needed("delete", fix):
            retained = self._remove(self._scratch)
            left = self._listed(self._scratch)
            if left:
                raise StoreError(self._store.name, "delete", f"{len(left)} objects of the trial are still there")
            self._checks.judge(
                "delete",
                not retained,
                "what was written for the trial is gone",
                f"{retained} versions of the trial stay, behind delete markers: the bucket retains what is written, or does not "
                "let them be deleted",
                f"Delete the versions under {self._scratch} when their retention has ended, or allow DeleteObjectVersion.",
            )

    def _clear_abandoned(self) -> None:
        """Remove what trials have left that began more than an hour ago. One that cannot be removed is nobody's fault here."""
        with self._checks.wanted("earlier trials", f"Look at what is under {TRIALS}, and delete it."):
            names = set(self._listed(TRIALS))
            with suppress(UnsupportedError):
                names |= {upload.key for upload in self._store.list_uploads(TRIALS)}
            trials = {TRIALS + name.removeprefix(TRIALS).partition("/")[0] + "/" for name in names}
            abandoned = sorted(trial for trial in trials if self._is_abandoned(trial))
            for trial in abandoned:
                self._go_on()
                self._remove(trial)
            if abandoned:
                self._checks.ok(
                    "earlier trials", f"{len(abandoned)} that was or were killed had left objects here: they are gone"
                )

    def _is_abandoned(self, trial: str) -> bool:
        try:
            began = datetime.strptime(trial.removeprefix(TRIALS).partition("-")[0], _TIME).replace(tzinfo=UTC)
        except ValueError:
            return False  # not a trial's name: not ours to remove
        return self._started - began > _TRIAL_LASTS

    def _remove(self, prefix: str) -> int:
        """Remove uploads, objects and versions under the prefix; how many versions the store has kept."""
        with suppress(UnsupportedError):
            for upload in self._store.list_uploads(prefix):
                self._store.abort_upload(upload.key, upload.upload_id)
        for key in self._listed(prefix):
            with suppress(NotFoundError):
                self._store.delete(key)
        try:
            versions = [
                info for page in self._store.list_versions(prefix) for info in page if info.version_id is not None
            ]
        except StoreError:  # a store without versions
            return 0
        kept: set[str] = set()
        count = 0
        for info in sorted(versions, key=lambda info: info.is_delete_marker):
            if info.is_delete_marker and info.key in kept:
                continue  # without its marker, what is kept would be listed again
            try:
                self._store.delete(info.key, version_id=info.version_id)
            except PermanentStoreError:
                kept.add(info.key)
                count += 1
        return count
