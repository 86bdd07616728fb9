"""A stand-in for Plaid."""
