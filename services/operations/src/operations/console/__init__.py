"""The console: the same engine as the API, as pages. No script runs in them."""
