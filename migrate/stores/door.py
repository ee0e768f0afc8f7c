"""The one door to the data: every store is opened here, after it was asked who comes, what for, and from where.

Nothing else constructs a store; a test reads the source for it. What is checked is policy (design, invariant 7), and each
refusal is a RefusedError: a worker in a country that may not handle the data, a target in a country that may not hold it, an
AWS region or KMS key that lies in another country than the spec says, folders that share their files. Only targets can be
written to, and only by who copies or probes; who may delete at a source stands in `_rights`. Each opening is logged with
--debug, without any key or secret.

An S3 server that is not AWS's does not show by its name where it is: `migrate doctor` asks it (`probe`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import structlog

from migrate.errors import RefusedError, SpecError
from migrate.model import Purpose, Role
from migrate.regions import REGION_COUNTRIES, aws_regions, is_aws, region_of_arn
from migrate.secrets import access_key
from migrate.spec import Spec, StoreSpec
from migrate.stores.base import Capabilities, Store
from migrate.stores.capabilities import load_capabilities, save_capabilities
from migrate.stores.file import FILE_CAPABILITIES, FileStore
from migrate.stores.memory import ALL_CAPABILITIES, MemoryStore, place
from migrate.stores.probe_checks import LocalQuestions, Questions
from migrate.workspace import Workspace

__all__ = ["Door", "Visitor", "load_capabilities", "save_capabilities"]

# Who probes a store must not be stopped by what nobody has found out yet. That an ETag is an MD5 is not assumed: the store
# would call each object corrupt where it is none. The short way for small objects is tried by itself.
_TO_BE_PROBED = replace(ALL_CAPABILITIES, etag_is_md5=False, small_put=False)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for the data, from where and what for. `plan` is the plan's digest, where there is a plan."""

    operator: str
    host: str
    country: str | None
    purpose: Purpose
    plan: str | None


def _rights(role: Role, purpose: Purpose) -> tuple[bool, bool]:
    """Whether such a store may be written to, and whether things may be deleted there. No byte is sent to a source or its backup,
    but by a rollback for which somebody has approved that by name."""
    if role is Role.TARGET:
        return purpose in (Purpose.COPY, Purpose.DOCTOR), purpose is Purpose.FORGET
    if role is Role.REPORTS:
        return False, False
    return purpose is Purpose.SEND_BACK, purpose in (Purpose.ROLLBACK, Purpose.PURGE)


class Door:
    """Opens the stores of one spec for one visitor. Thread-safe; a store is opened once."""

    def __init__(
        self,
        spec: Spec,
        workspace: Workspace,
        visitor: Visitor,
        *,
        capabilities: Mapping[str, Capabilities],
        environment: Mapping[str, str] | None = None,
        log: Any = None,
    ) -> None:
        self._spec = spec
        self._workspace = workspace
        self._visitor = visitor
        self._capabilities = capabilities
        self._environment = os.environ if environment is None else environment
        self._log = structlog.get_logger() if log is None else log
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Store, Questions]] = {}
        self._folders = {
            name: (workspace.root / store.url.removeprefix("file:")).resolve()
            for name, store in spec.stores.items()
            if store.scheme == "file"
        }
        self._check_folders()

    def open(self, name: str) -> Store:
        """The store. RefusedError where policy forbids it, SpecError where the spec is wrong, UnreachableError."""
        return self._opened(name)[0]

    def admit(self, name: str) -> None:
        """Refuse as `open` does, for who asks before there is anything to do: the libraries for S3 are not loaded."""
        store = self._spec.stores[name]
        if store.scheme != "s3":
            self.open(name)
            return
        self._check(name, store)
        self._credentials(name, store)

    def questions(self, name: str) -> Questions:
        """What `probe` asks of this store beyond what a store does."""
        return self._opened(name)[1]

    def close(self) -> None:
        with self._lock:
            for store, _ in self._open.values():
                store.close()
            self._open.clear()

    def _opened(self, name: str) -> tuple[Store, Questions]:
        with self._lock:
            found = self._open.get(name)
            if found is None:
                store = self._spec.stores[name]
                self._check(name, store)
                found = self._construct(name, store)
                self._open[name] = found
                plan = self._visitor.plan
                self._log.debug(
                    "store_opened",
                    store=name,
                    purpose=self._visitor.purpose.value,
                    plan=plan[:16] if plan is not None else None,
                    country=self._spec.sites[store.site].country,
                    worker_country=self._visitor.country,
                )
            return found

    # who comes, and where to

    def _check(self, name: str, store: StoreSpec) -> None:
        self._check_visitor(name)
        self._check_place(name, store, self._spec.sites[store.site].country)

    def _check_visitor(self, name: str) -> None:
        allowed = self._spec.residency.worker_countries
        if self._visitor.country is None:
            raise RefusedError(
                f"{name}: nobody has said in which country this machine is, and the data pass through it",
                remedy="Set MIGRATE_COUNTRY, or run.country in the spec, to its ISO code.",
            )
        if self._visitor.country not in allowed:
            raise RefusedError(
                f"{name}: a worker in {self._visitor.country} may not handle the data "
                f"(residency.worker_countries: {', '.join(allowed)})",
                remedy="Run it on a machine in one of these countries.",
            )

    def _check_place(self, name: str, store: StoreSpec, country: str) -> None:
        allowed = self._spec.residency.target_countries
        if store.role is Role.TARGET and country not in allowed:
            raise RefusedError(
                f"{name}: its site is in {country}, where no target may be "
                f"(residency.target_countries: {', '.join(allowed)})",
                remedy="Take a site in one of these countries.",
            )
        if store.scheme == "s3" and is_aws(store.endpoint):
            for region in sorted(aws_regions(store.endpoint, store.region)):
                self._check_region(name, "region", region, country)
        if store.kms_key is not None:
            self._check_key(name, store, store.kms_key, country)

    def _check_key(self, name: str, store: StoreSpec, key: str, country: str) -> None:
        region = region_of_arn(key)
        if region is None:
            raise RefusedError(
                f"{name}: the KMS key does not say in which region it is",
                remedy="Name it by its ARN: arn:aws:kms:REGION:ACCOUNT:key/ID.",
            )
        self._check_region(name, "KMS key's region", region, country)
        if is_aws(store.endpoint) and {region} != (bucket := aws_regions(store.endpoint, store.region)):
            raise RefusedError(
                f"{name}: the KMS key is in {region}, and the bucket in {' and '.join(sorted(bucket))}",
                remedy="S3 takes keys of the bucket's own region (S3 User Guide, SSE-KMS): name one of these.",
            )

    def _check_region(self, name: str, what: str, region: str, country: str) -> None:
        found = REGION_COUNTRIES.get(region)
        if found is None:
            raise RefusedError(
                f"{name}: in which country the {what} {region!r} is, is not known here",
                remedy="Correct the region; a new one of AWS's needs a newer version of migrate.",
            )
        if found != country:
            raise RefusedError(
                f"{name}: the {what} {region} is in {found}, and the spec's site is in {country}",
                remedy="Correct the site's country, or the store's region.",
            )

    def _check_folders(self) -> None:
        private = self._workspace.private.resolve()
        for name, folder in self._folders.items():
            if folder == private or private in folder.parents or folder in private.parents:
                raise RefusedError(
                    f"{name}: its folder and the workspace's own ({private.name}) lie one in the other",
                    remedy="Give the store a folder of its own.",
                )
        for (one, first), (other, second) in combinations(self._folders.items(), 2):
            if first == second or first in second.parents or second in first.parents:
                raise RefusedError(
                    f"{one} and {other}: the folders are one, or one lies in the other",
                    remedy="Give each store a folder of its own.",
                )

    # opening

    def _construct(self, name: str, store: StoreSpec) -> tuple[Store, Questions]:
        writable, deletable = _rights(store.role, self._visitor.purpose)
        is_probe = self._visitor.purpose is Purpose.DOCTOR
        known = self._capabilities.get(name)
        if store.scheme == "s3":
            return self._s3(name, store, _TO_BE_PROBED if is_probe else known or Capabilities(), writable, deletable)
        if store.scheme == "memory":
            memory = place(store.url.removeprefix("memory:"))
            able = ALL_CAPABILITIES if is_probe else known or memory.able
            opened = MemoryStore(name, memory, capabilities=able, writable=writable, deletable=deletable)
            return opened, LocalQuestions(opened)
        folder = FileStore(
            name,
            self._folder(name),
            capabilities=FILE_CAPABILITIES if is_probe else known or FILE_CAPABILITIES,
            writable=writable,
            deletable=deletable,
        )
        return folder, LocalQuestions(folder)

    def _folder(self, name: str) -> Path:
        """The folder, as it is now: a link in its path may lead elsewhere since the door was made."""
        folder = self._folders[name]
        if folder.resolve() != folder:
            raise RefusedError(f"{name}: its folder has become a link", remedy="Put it back, and run again.")
        return folder

    def _s3(
        self, name: str, store: StoreSpec, able: Capabilities, writable: bool, deletable: bool
    ) -> tuple[Store, Questions]:
        # here, and not above: a run on folders does not pay for the AWS libraries (0.2 s)
        from migrate.stores.s3 import S3Store
        from migrate.stores.s3_probe import S3Questions

        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        opened = S3Store(
            name,
            bucket,
            prefix,
            endpoint=store.endpoint,
            region=store.region,
            credentials=self._credentials(name, store),
            capabilities=able,
            writable=writable,
            deletable=deletable,
            timeout=store.timeout,
            kms_key=store.kms_key,
            concurrency=store.concurrency_max,
            credentials_named=f"the credentials {store.credentials}",
        )
        return opened, S3Questions(opened, is_aws=is_aws(store.endpoint))

    def _credentials(self, name: str, store: StoreSpec) -> Callable[[], Any]:
        if store.credentials is None:
            raise SpecError(
                f"{name}: no credentials are named", remedy="Name them: env:PREFIX, profile:NAME or file:PATH."
            )
        if store.credentials.startswith("profile:"):
            from migrate.stores.s3_credentials import profile_credentials  # botocore reads them

            return profile_credentials(store.credentials.removeprefix("profile:"))
        key = access_key(store.credentials, self._environment, self._workspace.root)
        return lambda: key
