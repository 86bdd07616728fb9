"""Clients of external systems and of the services that orders calls."""
