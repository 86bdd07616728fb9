"""The HTTP API of orders and exchange rates."""
