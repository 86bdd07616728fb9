"""The design that Paybus replaces, written fairly: Django 5, gunicorn, Celery on RabbitMQ.

The same signature check, the same rows in the same PostgreSQL. Persistent database connections,
publisher confirms and late acknowledgement are on; results, gossip and heartbeats, which only cost
time here, are off.
"""
