"""Where workers run: in this process, or in several on this machine. All run the same loop; the ledger keeps them apart."""
