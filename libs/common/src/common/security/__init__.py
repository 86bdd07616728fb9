"""Encryption of what the database stores."""
