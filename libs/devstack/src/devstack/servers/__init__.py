"""Servers that Paybus needs, started on this machine."""
