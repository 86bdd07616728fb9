"""Billing commands at Stripe."""
