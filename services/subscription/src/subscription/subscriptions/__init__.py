"""Subscriptions: storage, renewal, cancellation and entitlements."""
