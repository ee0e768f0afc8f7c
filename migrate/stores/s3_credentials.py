"""`profile:NAME`: credentials out of the AWS configuration files, renewed when they expire."""

from __future__ import annotations

import botocore.session
from botocore.exceptions import BotoCoreError

from migrate.errors import SpecError
from migrate.stores.s3_sign import CredentialSource


def profile_credentials(profile: str) -> CredentialSource:
    """A source that is asked at each signing. SpecError if there is no such profile, or it holds none."""
    remedy = "`aws configure --profile NAME` makes one, in ~/.aws or where AWS_CONFIG_FILE points."
    try:
        credentials = botocore.session.Session(profile=profile).get_credentials()
    except BotoCoreError as error:
        raise SpecError(f"the profile {profile!r} cannot be used: {type(error).__name__}", remedy=remedy) from None
    if credentials is None:
        raise SpecError(f"the profile {profile!r} holds no credentials", remedy=remedy)
    source: CredentialSource = credentials.get_frozen_credentials
    return source
