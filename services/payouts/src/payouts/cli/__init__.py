"""The command of the payouts service."""
