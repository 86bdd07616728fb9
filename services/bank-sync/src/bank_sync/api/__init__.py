"""The HTTP API of bank items, balances and transactions."""
