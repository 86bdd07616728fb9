"""The execution of payouts, each once."""
