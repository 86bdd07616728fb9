"""Sellers' shares, fees and exchange rates."""
