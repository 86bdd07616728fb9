"""All SQL of the service, by subject."""
