"""The processes that run on a developer's machine."""
