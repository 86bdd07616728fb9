"""Durable publishing of verified events."""
