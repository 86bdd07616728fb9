"""Published language: the messages between services, and their routing."""
