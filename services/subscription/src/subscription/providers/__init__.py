"""Clients of payment providers: checkouts, refunds and billing."""
