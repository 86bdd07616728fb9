"""Subscriptions: stored, renewed, cancelled, and what they entitle to."""
