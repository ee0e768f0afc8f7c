"""Moving one object: read once, written to each target, with proof. Knows stores and values, no ledger and no plan."""
