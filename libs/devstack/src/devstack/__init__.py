"""A private RabbitMQ and PostgreSQL, and Paybus's own processes, for development and tests."""
