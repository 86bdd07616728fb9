"""HTTP API for orders and exchange rates."""
