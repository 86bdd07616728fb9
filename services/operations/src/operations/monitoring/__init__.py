"""Monitoring of queues, services and the journal."""
