"""The ledger: entries, balances, audit log, discrepancies."""
