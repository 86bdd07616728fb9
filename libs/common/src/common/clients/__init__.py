"""Clients of systems outside Paybus."""
