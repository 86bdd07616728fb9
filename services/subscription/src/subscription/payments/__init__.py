"""Payments, and what became of them: refunds and disputes."""
