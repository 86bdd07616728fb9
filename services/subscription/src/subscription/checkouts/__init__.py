"""Checkouts, their payments and refunds."""
