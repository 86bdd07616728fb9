"""What callers of the API send."""
