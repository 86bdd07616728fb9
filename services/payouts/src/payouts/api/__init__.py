"""The HTTP API of payouts, recipients and reports."""
