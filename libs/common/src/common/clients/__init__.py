"""Clients of systems outside of Paybus."""
