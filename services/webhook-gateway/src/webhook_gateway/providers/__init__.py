"""Verification and translation of each provider's webhooks."""
