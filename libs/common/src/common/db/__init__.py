"""PostgreSQL: engine, sessions, rows, bulk statements, migrations."""
