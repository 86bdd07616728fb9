"""The HTTP API of subscriptions, checkouts and billing."""
