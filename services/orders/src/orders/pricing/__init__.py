"""Shares, fees and exchange rates."""
