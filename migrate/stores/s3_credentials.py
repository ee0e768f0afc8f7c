"""`profile:NAME`: credentials out of the AWS configuration files, renewed when they expire.

The profile that the spec names says who we are, and nothing else does: where it holds nothing, the machine's own role, the
environment's keys and the files of older tools are not asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import botocore.session
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError

from migrate.errors import SpecError
from migrate.secrets import key_faults
from migrate.stores.s3_sign import CredentialSource

# The links of botocore's chain that read the profile (botocore.credentials.create_credential_resolver). The others, among them
# the keys in the environment and the roles of the container and of the machine, would answer for a profile that is empty.
_OF_THE_PROFILE = frozenset(
    {
        "assume-role",
        "assume-role-with-web-identity",
        "sso",
        "shared-credentials-file",
        "login",
        "custom-process",
        "config-file",
    }
)


def profile_credentials(profile: str) -> CredentialSource:
    """A source that is asked at each signing. SpecError if there is no such profile, or it holds none of its own."""
    remedy = "`aws configure --profile NAME` makes one, in ~/.aws or where AWS_CONFIG_FILE points."
    try:
        session = botocore.session.Session(profile=profile)
        elsewhere = _taken_elsewhere(session.full_config.get("profiles", {}), profile)
        resolver = session.get_component("credential_provider")
        resolver.providers = [link for link in resolver.providers if link.METHOD in _OF_THE_PROFILE]
        credentials = None if elsewhere else session.get_credentials()
    except BotoCoreError as error:
        raise SpecError(f"the profile {profile!r} cannot be used: {type(error).__name__}", remedy=remedy) from None
    if elsewhere:
        raise SpecError(
            f"the profile {profile!r} takes its credentials from where it runs (credential_source)",
            remedy="Name a source_profile that holds keys: who we are is not the machine's to say.",
        )
    if credentials is None:
        raise SpecError(f"the profile {profile!r} holds no credentials", remedy=remedy)
    if not isinstance(credentials, RefreshableCredentials):
        found = key_faults(credentials.access_key, credentials.secret_key, credentials.token)
        if found:
            raise SpecError(
                f"the profile {profile!r} holds no whole key",
                [f"aws_{part} {what}" for part, what in found],
                remedy=remedy,
            )
    source: CredentialSource = credentials.get_frozen_credentials
    return source


def _taken_elsewhere(profiles: Mapping[str, Mapping[str, object]], profile: str) -> bool:
    """Whether the profile, or one that it has its credentials from, leaves it to the machine or the environment."""
    seen: set[str] = set()
    name: object = profile
    while isinstance(name, str) and name not in seen:
        seen.add(name)
        chosen = profiles.get(name, {})
        if "credential_source" in chosen:
            return True
        name = chosen.get("source_profile")
    return False
