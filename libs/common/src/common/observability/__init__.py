"""Logs, metrics, traces, and the masking of secrets in them."""
