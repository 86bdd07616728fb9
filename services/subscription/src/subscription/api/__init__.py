"""HTTP API for subscriptions, checkouts and billing."""
