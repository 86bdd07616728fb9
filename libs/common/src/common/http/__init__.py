"""Shared parts of every service's HTTP API."""
