"""What runs a service's processes: roles, wiring, gauges."""
