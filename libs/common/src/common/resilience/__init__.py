"""Limits, circuit breakers and caches around calls to other systems."""
