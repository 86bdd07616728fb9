"""API request models."""
