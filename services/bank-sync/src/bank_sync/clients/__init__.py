"""Clients of bank data providers."""
