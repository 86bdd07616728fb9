"""Stand-ins for external companies. They speak the real protocols and can be made to misbehave."""
