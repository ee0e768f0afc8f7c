"""The worker: lease a batch, do its work, record it. Everything that it shares with other workers is in the ledger."""
