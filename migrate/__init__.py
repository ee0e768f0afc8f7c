"""Moves users' objects between jurisdictions, user by user, with a proof."""

__version__ = "0.1.0"
