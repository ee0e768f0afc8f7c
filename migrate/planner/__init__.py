"""Planning: from inventories and a directory to an immutable folder. Nothing here talks to the ledger or copies a byte."""
