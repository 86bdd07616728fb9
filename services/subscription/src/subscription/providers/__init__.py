"""Payment providers: clients of checkouts, refunds and billing."""
