"""Comparison of the ledger with the providers' lists."""
