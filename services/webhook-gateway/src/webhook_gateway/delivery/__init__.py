"""Publishing of verified events, durably."""
