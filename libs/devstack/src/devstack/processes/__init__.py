"""Management of the processes that run on a developer's machine."""
