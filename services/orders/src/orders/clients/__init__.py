"""Outside systems, and the services that orders asks."""
