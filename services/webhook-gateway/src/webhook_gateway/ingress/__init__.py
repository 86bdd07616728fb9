"""The HTTP side of the webhook path."""
