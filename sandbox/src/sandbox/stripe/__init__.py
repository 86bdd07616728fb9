"""A stand-in for Stripe's billing and checkout API."""
