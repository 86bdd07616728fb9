"""Execution of payouts, each once."""
