"""Stand-ins for outside companies. They speak the real protocols and can be told to misbehave."""
