"""Alembic's side of the ledger: one revision a version, oldest first. Loaded by `migrate ledger upgrade` alone."""
