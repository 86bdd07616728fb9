"""Runtime of a service's processes: roles, wiring, gauges."""
